"""What watches the training loop: scalars, progress, validation, pictures, checkpoints."""
