"""Which streams keep their graphs: the memory that a graph holds is measured and compared with what is free."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from .plan import Stream

# Share of the free memory that is left free, for fragmentation and for what else grows during a step.
_SPARE = 0.2
_MODALITIES = ("text", "image")
Embeds = dict[str, torch.Tensor]


class GraphBudget:
    """Decides which streams keep their graphs, and holds those.

    Args:
        model: The model that encodes them.
        keep_graphs: Share of the streams, or `"auto"` for as many as the memory allows.

    Attributes:
        graphs: Of each stream that was encoded in this step, the embeddings with their graph, or `None`.
    """

    def __init__(self, model: nn.Module, keep_graphs: float | Literal["auto"]) -> None:
        """Start without a measurement."""
        self.model = model
        self.keep_graphs = keep_graphs
        self.bytes_per_unit: dict[str, float] = {}
        self.graphs: list[Embeds | None] = []
        self._streams: list[Stream] = []
        self._limit = 0.0
        self._held: dict[int, float] = {}
        self._streams_left = 0

    def start_step(self, streams: list[Stream]) -> None:
        """Measure the free memory before the first encoding of a step."""
        self.graphs, self._held, self._streams = [], {}, streams
        if self.keep_graphs == "auto":
            parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            to_come = sum(parameter.nbytes for parameter in parameters if parameter.grad is None)
            self._limit = (1 - _SPARE) * (free_memory(next(self.model.parameters()).device) - to_come)
        else:
            self._streams_left = round(self.keep_graphs * len(streams))

    def encode(self, may_keep: bool, encode: Callable[[], Embeds], rewind: Callable[[], None]) -> Embeds:
        """Encode the next stream of the step, with a graph if it is to be kept.

        A graph whose size is not known yet is measured, and kept if it fits. Where memory ends in the middle, all
        graphs are let go, the step keeps no more of them, and the stream is encoded again without one.

        Args:
            may_keep: Whether its graph can be used at all.
            encode: Encodes it.
            rewind: Sets the random state back to what it was before.

        Returns:
            Its embeddings by modality.

        Raises:
            torch.OutOfMemoryError: there is too little memory without any graph.
        """
        stream, number = self._streams[len(self.graphs)], len(self.graphs)
        is_frozen = self._is_frozen(stream)
        unknown = [name for name in _MODALITIES if stream.units(name) and name not in self.bytes_per_unit]
        if not may_keep or is_frozen:
            keeps = may_keep  # a frozen tower's graph begins at the projection
        elif self.keep_graphs != "auto":
            keeps = self._streams_left > 0
            self._streams_left -= keeps
        else:
            keeps = self._limit > 0 and (bool(unknown) or self._fits(self._size(stream)))
        meter = GraphMeter(self.model) if keeps and not is_frozen and self.keep_graphs == "auto" and unknown else None
        output = None
        try:
            with torch.set_grad_enabled(keeps), meter or contextlib.nullcontext():
                output = encode()
        except torch.OutOfMemoryError:
            if self.keep_graphs != "auto" or not (keeps or self._held):
                raise
        if output is None:  # here, where the error holds on to nothing any more
            self._let_go(0.0)
            self._limit, keeps, meter = 0.0, False, None
            rewind()
            with torch.no_grad():
                output = encode()
        if meter is not None:
            for modality in unknown:
                # A stream of both modalities counts in full for each: an overestimate, so never too many graphs.
                self.bytes_per_unit[modality] = meter.bytes / stream.units(modality)
            keeps = self._fits(meter.bytes)
            self._let_go(self._limit - self._second())  # what is kept was so without knowing of this
        self.graphs.append(output if keeps else None)
        if keeps and not is_frozen:
            self._held[number] = self._size(stream)
        return output

    def _fits(self, size: float) -> bool:
        """Tell whether a graph fits beside those that are held and a stream that is encoded a second time."""
        return sum(self._held.values()) + size + self._second() <= self._limit

    def _second(self) -> float:
        """Return what encoding a stream a second time takes, beside the graphs that are kept: that of the largest."""
        return max(self._size(stream) for stream in self._streams)

    def _let_go(self, limit: float) -> None:
        """Let go of graphs, the latest first, until the others are within a limit."""
        while self._held and sum(self._held.values()) > limit:
            self.graphs[self._held.popitem()[0]] = None

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


__all__ = ["Embeds", "GraphBudget", "GraphMeter", "free_memory"]
