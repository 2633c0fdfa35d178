"""Multi-stream accumulation: a training step over a batch of any size.

- `streams`: the step, forward and backward.
- `plan`: how a batch is cut into streams.
- `sharded`: what differs where the weights are sharded over the ranks.
- `transfer`: how streams reach the model's device.
- `memory`: which streams keep their graphs.
"""
