"""The verbs of `python -m frtrain VERB`, one thin file each.

A verb is `configs/VERB.yaml` and a module here with `Config` (the typed sections), `EXAMPLES` (command lines for --help)
and `run(config)`. It may have `check(config)`, called for every job of a sweep before the first one runs, and `POSITIONAL`, the key
that a bare word sets.
"""

VERBS: dict[str, str] = {
    "train": "train a network (the default verb)",
    "plan": "memory, messages and arithmetic of a training run, and what fits, before it is started",
    "align": "photographs to aligned 112x112 crops",
    "convert": "a data set from one form into another: folder, RecordIO, WebDataset, verification pack",
    "evaluate": "verification accuracy of a trained model",
    "export": "a trained model's class centres in a file of their own",
    "inspect": "look at a data set, list backbones and losses, draw losses",
    "curate": "find what is wrong with a data set, with a trained model: overlap, wrong labels, duplicates",
    "doctor": "what this machine has, and what frtrain will choose because of it",
}
"""Every verb with one line of help."""
