"""What tells whether two modules have the same weights."""

from typing import Any

import torch

__all__ = ["add_weights"]


def add_weights(digest: Any, module: torch.nn.Module) -> None:
    """Add names, types, shapes and values of a module's weights to a digest of `hashlib`."""
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
