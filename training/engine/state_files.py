"""Files of a run's state, none of which runs code when it is read.

Plain values are JSON. Tensors are files of `torch.save`, read with `weights_only`: numbers, text and containers.
"""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "read_tensors", "set_random_state", "write_tensors"]


def write_tensors(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, nested in dictionaries, lists and tuples."""
    torch.save(state, path)


def read_tensors(path: Path) -> Any:
    """Read what `write_tensors` wrote, onto the CPU.

    Raises:
        ValueError: the file holds something else, which would run code if it were read; or it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} holds more than numbers and text, which could run code when it is read, and which no run "
            "of this package writes. It was not read; don't use this folder, or ask who made it."
        ) from error
    except (EOFError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); resume from an earlier checkpoint.") from error


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of all generators that a process draws from, as tensors and plain values.

    Args:
        device: Its device.
    """
    numpy: Any = np.random.get_state()
    name, keys, *rest = numpy
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }
    state |= {"torch": torch.get_rng_state(), "device": device.type}
    if device.type != "cpu":
        state["torch_device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> bool:
    """Have all generators go on from a state.

    Args:
        state: What `random_state` returned.
        device: The process's device.

    Returns:
        Whether it was of such a device; that device's own generator stays as it is if not.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["device"] != device.type:
        return False
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["torch_device"], device)
    return True
