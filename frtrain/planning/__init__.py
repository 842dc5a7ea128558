"""What a training run will need, before it is started: memory, messages and arithmetic of a step."""
