"""Sources of labelled faces, augmentation, deterministic order and loading."""
