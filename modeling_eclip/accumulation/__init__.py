"""Multi-stream accumulation: a training step over a batch of any size."""
