"""MTCNN's cascade of three networks (Zhang et al., IEEE SPL 2016), on the weights that facenet-pytorch carries.

`area` resamples (pyramid levels and crops, both from summed-area tables), `networks` are the three networks, `boxes` is
what is computed on boxes between them, `cascade` joins them, `views` are what is searched of a photograph, `closer_look`
searches the surroundings of faces that were found small, `streams` runs all that over many images.
"""
