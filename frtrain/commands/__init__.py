"""The verbs of `python -m frtrain VERB`, one thin file each."""
