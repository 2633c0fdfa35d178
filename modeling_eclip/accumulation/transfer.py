"""Streams' inputs to the model's device: one stream's are there, the next one's are on their way.

To a GPU they are copied out of pinned memory and beside the computation, so that neither host nor device waits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .plan import Stream

PrepareFunction = Callable[[dict[str, Any]], Mapping[str, Any]]


class InputTransfer:
    """Brings streams' inputs to a device, one stream ahead.

    Args:
        prepare: Applied to each stream's inputs there.
    """

    def __init__(self, prepare: PrepareFunction | None = None) -> None:
        """Begin without a queue of copies."""
        self.prepare = prepare
        self._queues: dict[torch.device, Any] = {}

    def __call__(self, streams: Sequence[Stream], device: torch.device) -> Iterator[tuple[Stream, dict[str, Any]]]:
        """Iterate over streams.

        Args:
            streams: The streams, their inputs on any device.
            device: The model's.

        Yields:
            Each stream, and the model's inputs of it. The device holds those of two or three streams at a time,
            however many there are.
        """
        coming = self._start(streams[0], device) if streams else {}
        for number, stream in enumerate(streams):
            inputs, coming = self._arrived(coming, device), {}
            if number + 1 < len(streams):
                coming = self._start(streams[number + 1], device)
            if self.prepare is not None:
                inputs = dict(self.prepare(inputs))
            yield stream, inputs

    def _start(self, stream: Stream, device: torch.device) -> dict[str, Any]:
        """Queue the copies of a stream's inputs."""
        queue = self._queue(device)
        if queue is None:
            return move_inputs(stream.inputs, device)
        # The memory that this queue gets may be that of an earlier stream: the device has to be through with it. At
        # this point it has been told to encode all streams but the present one, beside which the copies run.
        queue.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(queue):
            return move_inputs(stream.inputs, device)

    def _arrived(self, inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Have the device, not the host, wait for the copies that are queued."""
        queue = self._queue(device)
        if queue is not None:
            torch.cuda.current_stream(device).wait_stream(queue)
        return inputs

    def _queue(self, device: torch.device) -> Any:
        """Return a queue of a GPU's work for copies alone; nothing for other devices."""
        if not _is_gpu(device):
            return None
        if device not in self._queues:
            self._queues[device] = torch.cuda.Stream(device)
        return self._queues[device]


def move_inputs(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Copy the tensors among a model's inputs to a device, to a GPU out of pinned memory and without waiting.

    Args:
        inputs: Arguments of a model; what is no tensor stays as it is.
        device: The device.

    Returns:
        The same arguments. A tensor that lies there already is itself.
    """
    return {name: _move(value, device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def _move(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if value.device.type == "cpu" and _is_gpu(device):
        # torch keeps pinned memory until the copy is done, and for the next stream's
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_initialized()


__all__ = ["InputTransfer", "PrepareFunction", "move_inputs"]
