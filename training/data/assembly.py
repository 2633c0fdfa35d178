"""Parts that workers read to whole batches: the next one is put together while the model trains on one.

Memory is bounded: workers hold a few parts each, and this process two batches, of 8-bit pixels mostly. Pixels of a
batch beyond a limit lie in a temporary file that is mapped into memory, and which the system may write out.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from modeling_eclip.modeling_eclip import TEXT_INPUTS

__all__ = ["AssembledBatches"]

_GIB = 2**30


class AssembledBatches:
    """Batches as `training.data.collator` describes them, of parts that are batches themselves.

    Args:
        parts: Loads the parts in order.
        num_parts: Number of parts of each batch, at least 1, shape `(num_batches,)`.
        num_rows: Planned rows of each batch, likewise.
        tokenizer: Has padded the titles of each part.
        memory_gib: GiB that the rows of a batch may take in memory.
    """

    def __init__(
        self,
        parts: DataLoader[dict[str, Any]],
        num_parts: np.ndarray,
        num_rows: np.ndarray,
        tokenizer: Any,
        memory_gib: float,
    ) -> None:
        """Keeps the arguments."""
        self.parts = parts
        self.num_parts = num_parts
        self.num_rows = num_rows
        self.tokenizer = tokenizer
        self.memory_gib = memory_gib

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.num_parts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the batches; with workers, the next one is put together in a thread meanwhile."""
        parts = iter(self.parts)  # here and not in the thread: torch watches the workers of a main thread alone
        is_stopped = threading.Event()
        if self.parts.num_workers == 0:  # reading in a thread would use the processor in two at once
            for number in range(len(self)):
                yield self._assemble(parts, number, is_stopped)
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="assembly")
        try:
            coming = thread.submit(self._assemble, parts, 0, is_stopped) if len(self) else None
            for number in range(1, len(self) + 1):
                assert coming is not None
                batch = coming.result()
                coming = thread.submit(self._assemble, parts, number, is_stopped) if number < len(self) else None
                yield batch
                del batch  # not held beside the two that come after it
        finally:
            is_stopped.set()
            thread.shutdown(cancel_futures=True)  # waits for a part that is on its way

    def _assemble(self, parts: Iterator[dict[str, Any]], number: int, is_stopped: threading.Event) -> dict[str, Any]:
        rows = _Rows(int(self.num_rows[number]), self.tokenizer, self.memory_gib)
        for _ in range(self.num_parts[number]):
            if is_stopped.is_set():
                break
            rows.add(next(parts))
        return rows.batch()


class _Rows:
    """A batch in progress. Parts are copied out of the memory that workers share with this process: it is scarce."""

    def __init__(self, num_rows: int, tokenizer: Any, memory_gib: float) -> None:
        self.num_rows, self.tokenizer, self.memory_gib = num_rows, tokenizer, memory_gib
        self.lists: dict[str, list[Any]] = {}
        self.num_read = 0
        self.normalization: Any = None
        self.titles: dict[str, list[torch.Tensor]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.filled: dict[str, int] = {}  # rows of each: some offers have no image
        self.placeholder: dict[str, torch.Tensor] = {}

    def add(self, part: dict[str, Any]) -> None:
        num_usable = len(part["row_ids"])
        for name, values in part.items():
            if isinstance(values, list):
                self.lists.setdefault(name, []).extend(values)
        self.num_read += part["num_rows"]
        self.normalization = part["normalization"]
        tensors = {name: value for name, value in part.items() if isinstance(value, torch.Tensor)}
        if num_usable == 0:
            self.placeholder = self.placeholder or {name: value.clone() for name, value in tensors.items()}
            return
        for name, value in tensors.items():
            if name in TEXT_INPUTS:
                self.titles.setdefault(name, []).append(value.clone())
                continue
            if name not in self.tensors:
                self.tensors[name] = _empty((self.num_rows, *value.shape[1:]), value.dtype, self.memory_gib)
            rows = self.tensors[name]
            if rows.shape[1:] != value.shape[1:]:
                raise ValueError(
                    f"rows of `{name}` have the shapes {tuple(rows.shape[1:])} and {tuple(value.shape[1:])} in one "
                    "batch; set up the image processor so that all images come out of one size."
                )
            place = self.filled.get(name, 0)
            rows[place : place + len(value)] = value
            self.filled[name] = place + len(value)

    def batch(self) -> dict[str, Any]:
        num_usable = len(self.lists.get("row_ids", ()))
        tensors = self.placeholder
        if num_usable:
            titles = {name: self._joined(name, values) for name, values in self.titles.items()}
            tensors = titles | {name: rows[: self.filled[name]] for name, rows in self.tensors.items()}
        return {**tensors, "normalization": self.normalization, **self.lists, "num_rows": self.num_read}

    def _joined(self, name: str, values: list[torch.Tensor]) -> torch.Tensor:
        """Pads titles of all parts to one length, on the side that the tokenizer does."""
        length = max(value.shape[-1] for value in values)
        filling = self.tokenizer.pad_token_id if name == "input_ids" else 0
        if all(value.shape[-1] == length for value in values):
            return torch.cat(values)
        sides = [(0, length - value.shape[-1]) for value in values]
        if self.tokenizer.padding_side == "left":
            sides = [side[::-1] for side in sides]
        return torch.cat([pad(value, side, value=filling) for value, side in zip(values, sides, strict=True)])


def _empty(shape: tuple[int, ...], dtype: torch.dtype, memory_gib: float) -> torch.Tensor:
    """Makes a tensor in memory, or in a file without a name, which ends with the tensor."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if num_bytes <= memory_gib * _GIB:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="eclip-batch-") as file:
        try:
            _reserve(file.fileno(), num_bytes)
        except OSError as error:
            raise OSError(
                f"a batch of {num_bytes / _GIB:.1f} GiB is more than `batch_memory_gib`, {memory_gib:g}, and the "
                f"folder {tempfile.gettempdir()!r} has no room for it ({error}); set TMPDIR to one that has, or raise "
                "`batch_memory_gib`."
            ) from error
        mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=num_bytes)
    return torch.from_numpy(mapped).view(dtype).view(shape)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Sets a file's length and has the system keep the room: a write to a map of a full disk would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.truncate(descriptor, num_bytes)
