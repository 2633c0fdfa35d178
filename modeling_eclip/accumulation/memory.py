"""Which streams keep their graphs: the memory that a graph holds is measured and compared with what is free."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from .plan import Stream

# Share of the free memory that is left free, for fragmentation and for what else grows during a step.
_SPARE = 0.2
_MODALITIES = ("text", "image")


class GraphBudget:
    """Decides which streams keep their graphs.

    Args:
        model: The model that encodes them.
        keep_graphs: Share of the streams, or `"auto"` for as many as the memory allows.
    """

    def __init__(self, model: nn.Module, keep_graphs: float | Literal["auto"]) -> None:
        """Start without a measurement."""
        self.model = model
        self.keep_graphs = keep_graphs
        self.bytes_per_unit: dict[str, float] = {}
        self._left = 0.0
        self._streams_left = 0

    def start_step(self, streams: list[Stream]) -> None:
        """Measure the free memory before the first encoding of a step."""
        if self.keep_graphs == "auto":
            # A stream that is encoded a second time needs memory beside the graphs that are kept: that of the largest.
            second = max(self._size(stream) for stream in streams)
            self._left = (1 - _SPARE) * free_memory(next(self.model.parameters()).device) - second
        else:
            self._streams_left = round(self.keep_graphs * len(streams))

    @contextlib.contextmanager
    def encode(self, stream: Stream, may_keep: bool) -> Iterator[bool]:
        """Encode a stream inside, with a graph if one is to be kept.

        Args:
            stream: The stream.
            may_keep: Whether its graph can be used at all.

        Yields:
            Whether its graph is kept.
        """
        if not may_keep:
            keeps = False
        elif self._is_frozen(stream):
            keeps = True  # its graph begins at the projection
        elif self.keep_graphs != "auto":
            keeps = self._streams_left > 0
            self._streams_left -= keeps
        else:
            used = [modality for modality in _MODALITIES if stream.units(modality)]
            unknown = [modality for modality in used if modality not in self.bytes_per_unit]
            if unknown:
                meter = GraphMeter(self.model)
                with torch.enable_grad(), meter:
                    yield True
                for modality in unknown:
                    # A stream of both modalities counts in full for each: an overestimate, so never too many graphs.
                    self.bytes_per_unit[modality] = meter.bytes / stream.units(modality)
                self._left -= 2 * meter.bytes  # of the graph that is kept, and of a stream that is encoded again
                return
            keeps = self._size(stream) <= self._left
            self._left -= self._size(stream) * keeps
        with torch.set_grad_enabled(keeps):
            yield keeps

    def _size(self, stream: Stream) -> float:
        return sum(self.bytes_per_unit.get(modality, 0.0) * stream.units(modality) for modality in _MODALITIES)

    def _is_frozen(self, stream: Stream) -> bool:
        prefixes = {"text": "text_model.", "image": "vision_model."}
        return not any(
            parameter.requires_grad and prefix in name
            for modality, prefix in prefixes.items()
            if stream.units(modality)
            for name, parameter in self.model.named_parameters()
        )


class GraphMeter(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that graphs made inside keep for their backward, parameters not counted.

    Args:
        model: Whose parameters are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start at zero."""
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def free_memory(device: torch.device) -> float:
    """Return the bytes that can still be used on a device; 0 where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        return min(_free_of_machine(), _free_of_group())
    return 0.0


def _free_of_machine() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0.0


def _free_of_group() -> float:
    """Return what a container's limit leaves; infinity without one."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return float("inf")


__all__ = ["GraphBudget", "GraphMeter", "free_memory"]
