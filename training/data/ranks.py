"""Messages between the ranks of a run: Python objects, over the CPUs."""

import weakref
from datetime import timedelta
from typing import Any

import torch.distributed as dist

__all__ = ["LONGEST_WAIT", "gather_objects"]

# Ranks wait for one that loads data, measures a model or publishes it, which may take hours; torch's default is ten
# minutes on GPUs. A rank that dies ends the others all the same: the launcher sees to that.
LONGEST_WAIT = timedelta(hours=12)

# By the default group, which they end with: a group that is held until the process ends may abort it then.
_groups: Any = weakref.WeakKeyDictionary()


def gather_objects(message: Any) -> list[Any]:
    """Send an object to all ranks, and receive those of all; all ranks call this together.

    It goes over gloo, whatever the tensors of the run go over: NCCL would have its bytes copied to a GPU and back, and
    the host wait for the GPU's work before it.

    Args:
        message: What can be pickled.

    Returns:
        The messages in the order of the ranks.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return [message]
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message, group=_group_of_cpus())
    return messages


def _group_of_cpus() -> Any:
    """Return a group of all ranks over gloo, made when it is first asked for; `None` for the default group."""
    if dist.get_backend() == "gloo":
        return None
    everyone = dist.group.WORLD
    if everyone not in _groups:
        _groups[everyone] = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return _groups[everyone]
