"""Loaders: the batches of a run, in order, for map-style and streamed products.

A batch is a function of the seed and of the samples seen: its rows (see `training.data.sampler`) and their
augmentation do not change with the number of workers or ranks, nor when a run is resumed. Every batch lists the rows
that it skipped and why (see `training.data.collator`, which also says what a batch holds).

Batches of a training run may be very large, so workers read parts of them (see `training.data.assembly`). Those of an
evaluation are small, and read whole.
"""

import atexit
import functools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from training.data.assembly import AssembledBatches
from training.data.augmentation import ProductAugmentation, TitleAugmentation
from training.data.collator import FROZEN_COLUMNS, ProductCollator, RowLabels, modalities_of
from training.data.columns import SOURCE_FEATURES
from training.data.fields import IMAGE_WEIGHTS, field_columns
from training.data.mixing import MixedOrder, is_mixed
from training.data.pairs import PairCollator, ProductPairs
from training.data.parquet_stream import StreamedProducts
from training.data.read_tables import Products
from training.data.sampler import BlockOrder, EpochOrder, RowOrder, batch_spans, rank_slice
from training.data.similar_titles import SIMILAR_ROWS, similar_rows
from training.data.sources import column_values

__all__ = ["ProductBatches", "batch_loader", "evaluation_loader", "train_loader", "with_progress"]

logger = logging.getLogger(__name__)

_COLUMNS = ("title", "image", "catalog_id", "row_id")
_MUCH_MEMORY = 2**30
_PARENT_CHECK_SECONDS = 1.0


class ProductBatches(Dataset[dict[str, Any]]):
    """Parts of batches of products: this rank's share of each global batch, in order, a few rows at a time.

    Args:
        products: Products, or pairs of products, with the columns that the collator reads.
        collator: Makes a batch of rows.
        order: Which row is at which position.
        spans: `(start, stop)` positions of each global batch.
        rank: This rank.
        num_ranks: Number of ranks.
        part_size: Largest number of rows of a part; a part is the whole share if not given.

    Attributes:
        num_parts: Parts of each share, int64, shape `(num_batches,)`; one, without rows, of an empty share.
        num_rows: Rows of each share, likewise.
    """

    def __init__(
        self,
        products: Products | ProductPairs,
        collator: ProductCollator | PairCollator,
        order: EpochOrder,
        spans: Sequence[tuple[int, int]],
        rank: int = 0,
        num_ranks: int = 1,
        part_size: int | None = None,
    ) -> None:
        """Checks the rank and the size of a part."""
        rank_slice(0, 0, rank, num_ranks)
        if part_size is not None and part_size < 1:
            raise ValueError(f"part_size must be at least 1, received {part_size}.")
        self.products = products
        self.collator = collator
        self.order = order
        self.part_size = part_size
        shares = np.asarray([rank_slice(*span, rank, num_ranks) for span in spans], dtype=np.int64).reshape(-1, 2)
        self._starts, self._stops = shares.T
        self.num_rows = self._stops - self._starts
        self.num_parts = np.maximum(1, -(-self.num_rows // (part_size or max(1, self.num_rows.max(initial=1)))))
        self._first_parts = np.cumsum(self.num_parts) - self.num_parts

    def __len__(self) -> int:
        """Number of parts of all batches."""
        return int(self.num_parts.sum())

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Reads, decodes and collates one part."""
        share = int(np.searchsorted(self._first_parts, number, side="right")) - 1
        start, stop = int(self._starts[share]), int(self._stops[share])
        if self.part_size is not None:
            start += (number - int(self._first_parts[share])) * self.part_size
            stop = min(stop, start + self.part_size)
        rows = self.products.__getitems__(self.order.rows(start, stop).tolist()) if stop > start else []
        return self.collator(rows, range(start, stop))


def _columns_of(products: Products | ProductPairs, modality: str | None, labels: RowLabels | None) -> list[str]:
    """Lists the columns that are read: no images where they are not used."""
    frozen = [
        name for name in FROZEN_COLUMNS if name in products.column_names and name.startswith(modalities_of(modality))
    ]
    has_images = "image" in modalities_of(modality) and "image_pooler_output" not in frozen
    canonical = [name for name in _COLUMNS if name != "image" or has_images]
    canonical += field_columns(products.column_names, None if has_images else "text")
    return list(dict.fromkeys([*canonical, *frozen, *(labels.columns if labels is not None else ())]))


def _frozen_widths(products: Products | ProductPairs) -> dict[str, int]:
    """Returns the number of values in each frozen column, from the first row that has them."""
    widths = {}
    for name in FROZEN_COLUMNS:
        if name in products.column_names:
            rows = products.products if isinstance(products, ProductPairs) else products
            values = (row[name] for row in rows.select_columns(name))
            first = next((value for value in values if value is not None), None)
            if first is None:
                side, other = ("a title", "images") if name.startswith("text") else ("an image", "titles")
                raise ValueError(
                    f"column {name!r} holds nothing but nulls: no product has {side} that can be used. Check the "
                    f"column that it is read from, or learn from {other} alone."
                )
            widths[name] = len(first)
    return widths


def train_loader(
    products: Products | ProductPairs,
    processor: Any,
    *,
    batch_size: int | Callable[[int], int],
    total_samples: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    augmentation: ProductAugmentation | None = None,
    title_augmentation: TitleAugmentation | None = None,
    own_catalog_for_singles: bool = True,
    mates_share: float = 0.0,
    similar_share: float = 0.0,
    shuffle_buffer: int = 4096,
    modality: str | None = None,
    labels: RowLabels | None = None,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    part_size: int = 64,
    memory_gib: float = 4.0,
) -> AssembledBatches:
    """Loads the batches of a training run in order; each item is this rank's share of one global batch.

    Args:
        products: Products with the canonical columns, map-style or streamed, or pairs of them.
        processor: An `EClipProcessor`, or anything that is called as one and has its `image_processor`.
        batch_size: Samples in a global batch, all ranks together: a number, or a function of the samples seen.
        total_samples: Samples of the whole run, those before `start` included; the last batch may be shorter.
        seed: Seed of the order and of the augmentation.
        start: Samples that the resumed run has already seen.
        rank: This rank.
        num_ranks: Number of ranks.
        augmentation: Applied to every image.
        title_augmentation: Applied to every title.
        own_catalog_for_singles: See `ProductCollator`.
        mates_share: Share of the catalogs whose offers come one after the other; see `RowOrder`.
        similar_share: Share of the offers beside which come those of other catalogs with similar titles, likewise.
        shuffle_buffer: About how many rows of streamed products are shuffled together; see `BlockOrder`. Each worker
            holds that many in memory. A block is read once by each worker of each rank that needs rows of it: by all
            of them if `shuffle_buffer` is many times `part_size`.
        modality: What a task uses; see `ProductCollator`.
        labels: Reads the labels of a task.
        num_workers: Worker processes; 0 loads in this process.
        prefetch_factor: Parts that each worker prepares ahead.
        part_size: Rows of a part, which a worker reads at once. Batches do not depend on it.
        memory_gib: GiB of memory that the pixels of this rank's share of a batch may take. A larger share lies in a
            temporary file. With workers there are two shares at a time.

    Returns:
        The batches, as `training.data.collator` describes them.

    Raises:
        ValueError: If `mates_share` or `similar_share` is set for a stream, whose offers are not known in advance.
    """
    collator = ProductCollator(
        processor,
        augmentation=augmentation,
        title_augmentation=title_augmentation,
        seed=seed,
        own_catalog_for_singles=own_catalog_for_singles,
        frozen_widths=_frozen_widths(products),
        modality=modality,
        labels=labels,
        fields="drawn",
    )
    order: EpochOrder
    together: dict[str, Any] = {"mates_share": mates_share, "similar_share": similar_share}
    if (mates_share or similar_share) and isinstance(products, datasets.Dataset):
        together["catalog_ids"] = column_values(products, "catalog_id")
    if similar_share and isinstance(products, datasets.Dataset):
        together["similar_rows"] = similar_rows(products["title"][:], together["catalog_ids"], SIMILAR_ROWS)
    mixed = None
    if is_mixed(products):
        sources, weights = (column_values(products, name) for name in SOURCE_FEATURES)
        mixed = MixedOrder(sources, weights, seed, **together)
    products = products.select_columns(_columns_of(products, modality, labels))
    spans = list(batch_spans(batch_size, total_samples, start))
    if isinstance(products, StreamedProducts):
        for name in ("mates_share", "similar_share"):
            if together[name]:
                raise ValueError(
                    f"{name} is {together[name]}, which needs all offers in advance; leave it out or do not stream."
                )
        order = BlockOrder(products.block_lengths, seed, shuffle_buffer)
        products = products.holding(order.window_blocks)
        num_bytes = order.window_blocks * int(products.block_bytes.mean())
        if num_bytes > _MUCH_MEMORY:
            logger.warning(
                "rows are shuffled within %d row groups of a stream, %.1f GiB that each worker holds in memory; write "
                "the files with shorter row groups (`row_group_size=100`) to need less.",
                order.window_blocks,
                num_bytes / 2**30,
            )
    else:
        order = mixed or RowOrder(len(products), seed, **together)
    parts = ProductBatches(products, _collator_for(products, collator), order, spans, rank, num_ranks, part_size)
    # not pinned: a large batch would take that much memory from the system for good; streams pin their own inputs
    loader = batch_loader(parts, num_workers, prefetch_factor, pin_memory=False)
    return AssembledBatches(loader, parts.num_parts, parts.num_rows, processor.tokenizer, memory_gib)


def evaluation_loader(
    products: Products | ProductPairs,
    processor: Any,
    *,
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
    modality: str | None = None,
    labels: RowLabels | None = None,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    all_images: bool = False,
) -> DataLoader[dict[str, Any]]:
    """Loads all rows once, in their own order, without augmentation and with the catalog ids that they have.

    Args:
        products: Products with the canonical columns, map-style or streamed, or pairs of them.
        processor: An `EClipProcessor`, or anything that is called as one and has its `image_processor`.
        batch_size: Rows in a global batch, all ranks together.
        rank: This rank.
        num_ranks: Number of ranks.
        modality: What a task uses; see `ProductCollator`.
        labels: Reads the labels of a task.
        num_workers: Worker processes; 0 loads in this process.
        prefetch_factor: Batches that each worker prepares ahead.
        all_images: Whether all images of rows are read that have several, and not the first alone.

    Returns:
        A loader of batches, as `training.data.collator` describes them.
    """
    collator = ProductCollator(
        processor,
        own_catalog_for_singles=False,
        frozen_widths=_frozen_widths(products),
        modality=modality,
        labels=labels,
        fields="all" if all_images and IMAGE_WEIGHTS in products.column_names else "first",
    )
    products = products.select_columns(_columns_of(products, modality, labels))
    order = RowOrder(len(products), seed=0, shuffle=False)
    spans = list(batch_spans(batch_size, len(products)))
    batches = ProductBatches(products, _collator_for(products, collator), order, spans, rank, num_ranks)
    return batch_loader(batches, num_workers, prefetch_factor)


def _collator_for(products: Products | ProductPairs, collator: ProductCollator) -> ProductCollator | PairCollator:
    return PairCollator(collator) if isinstance(products, ProductPairs) else collator


def _as_is(batch: Any) -> Any:
    return batch


def batch_loader(
    batches: Any,
    num_workers: int,
    prefetch_factor: int = 2,
    *,
    pin_memory: bool = True,
    batch_size: int | None = None,
    collate_fn: Callable[[Any], Any] = _as_is,
) -> DataLoader[Any]:
    """Loads the items of a dataset in order.

    Args:
        batches: The batches, or parts of them; with `batch_size`, rows.
        num_workers: Worker processes, which end with this one; 0 loads in this process.
        prefetch_factor: Items that each worker prepares ahead.
        pin_memory: Whether to bring items into memory that a GPU copies from, where there is one.
        batch_size: Rows of a batch; not given where an item is a batch.
        collate_fn: Makes a batch of rows.

    Returns:
        The loader.
    """
    if num_workers > 0:
        # the workers tokenize in parallel already; without this, tokenizers warn in each forked worker
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _end_workers_at_exit()
    return DataLoader(
        batches,
        batch_size=batch_size,
        collate_fn=collate_fn,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_set_up_worker,
        generator=torch.Generator(),  # a loader draws a seed at its start; not from the generator that dropout uses
    )


def with_progress(loader: Iterable[Any], description: str, *, disable: bool = False) -> Iterator[Any]:
    """Iterates over a loader behind a progress bar, which goes when the loader ends.

    Args:
        loader: The loader, or anything else to iterate over.
        description: What the bar says.
        disable: Shows no bar.

    Returns:
        The loader's batches.
    """
    total = len(loader) if isinstance(loader, Sized) else None
    # tqdm asks for an iterator twice, and a loader would start its workers twice.
    return iter(tqdm(iter(loader), total=total, desc=description, leave=False, disable=disable))


def _set_up_worker(worker_id: int) -> None:
    torch.set_num_threads(1)
    # Schedulers send SIGTERM, and terminals SIGINT, to all processes of a run; the main one needs batches until it has
    # saved its checkpoint.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


@functools.cache
def _end_workers_at_exit() -> None:
    """Kills workers when this process ends by an error or an interrupt, which leaves loaders in the middle.

    Python would send them SIGTERM, which they ignore, and wait for them for ever.
    """

    def kill() -> None:
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a killed worker
        for process in multiprocessing.active_children():
            if process.daemon:
                process.kill()

    atexit.register(kill)  # after multiprocessing's own, so that it is called before it


def _end_with_parent(forked_by: int) -> None:
    """Ends a worker whose main process was killed: torch's own watchdog may wait forever to hand over a batch."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a child process
    # A worker's siblings may hold what `is_alive` looks at; a fork server outlives the program, and so does a number
    # on Windows: each way notices what the other misses.
    while os.getppid() == forked_by and parent.is_alive():
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
