"""Looking at losses: what their docstrings say, and what their heads do to angles, as numbers and as a picture.

Everything is found through the contract of `frtrain.losses.base`; no loss is known by name.
"""
