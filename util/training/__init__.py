"""What surrounds the training step: counting, saving, signals, batches on their way to the GPU."""
