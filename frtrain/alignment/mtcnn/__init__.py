"""MTCNN's cascade of three networks (Zhang et al., IEEE SPL 2016), on the weights that facenet-pytorch carries.

`area` resamples (pyramid levels and crops, both from summed-area tables), `networks` are the three networks, `boxes` is
what is computed on boxes between them, `cascade` joins them, `streams` runs the cascade over many images, `refinement`
searches the surroundings of faces that were found small or in a reduced image.
"""
