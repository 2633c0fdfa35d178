"""Batches of products: decoding, augmentation, collation and the loaders, for map-style and streamed products alike.

What a batch holds is a function of the seed and of the samples seen: which rows (see `training.order`) and how each is
augmented do not change with the number of workers or ranks, nor when a run is resumed. A row that cannot be used is
never lost silently: every batch lists the rows it skipped and why.

A batch is a dictionary of

- what the processor returns: `input_ids` `(N, L)`, `attention_mask` `(N, L)`, `pixel_values` `(N, C, H, W)`, ...;
- `catalog_ids`: int64 `(N,)`;
- `row_ids` and `titles`: lists of `N` strings;
- `skipped`: list of `(row_id, reason)`;
- `num_rows`: planned rows, `N + len(skipped)`.

`N` is 0 where nothing of a rank's share is usable. The rank must answer its peers all the same, and not every tower
takes a batch of no rows: the processor's tensors then hold one stand-in row, so take the first `N` embeddings only.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from modeling_eclip.images_eclip import ProductImageError, load_product_image
from training.augmentation import ProductAugmentation, TitleAugmentation
from training.order import RowOrder, batch_spans, rank_slice
from training.product_ids import NO_CATALOG, stable_id
from training.products import Products

__all__ = [
    "ProductBatches",
    "ProductCollator",
    "StreamedProductBatches",
    "evaluation_loader",
    "train_loader",
]

_COLUMNS = ["title", "image", "catalog_id", "row_id"]
_STREAM_READ_ROWS = 64


class ProductCollator:
    """Turns rows of canonical columns into one batch.

    Args:
        processor: Called as `processor(text=titles, images=pictures, return_tensors="pt")`.
        augmentation: Applied to every picture; none in evaluation.
        title_augmentation: Applied to every title; none in evaluation.
        seed: Seed of the augmentation, joined with a row's position.
        own_catalog_for_singles: Gives a row without a catalog a catalog id of its own, a hash of its row id, so that
            a product that meets itself in a batch is its own mate and not a negative. Otherwise its id stays -1.
    """

    def __init__(
        self,
        processor: Callable[..., Mapping[str, Any]],
        *,
        augmentation: ProductAugmentation | None = None,
        title_augmentation: TitleAugmentation | None = None,
        seed: int = 0,
        own_catalog_for_singles: bool = True,
    ) -> None:
        """Keeps the arguments."""
        self.processor = processor
        self.augmentation = augmentation
        self.title_augmentation = title_augmentation
        self.seed = seed
        self.own_catalog_for_singles = own_catalog_for_singles

    def __call__(self, rows: Sequence[Mapping[str, Any]], positions: Sequence[int]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: Rows with `title`, `image`, `catalog_id` and `row_id`.
            positions: Position of each row in the run.

        Returns:
            The batch, as the module describes it.
        """
        titles, pictures, catalog_ids, row_ids, skipped = [], [], [], [], []
        for row, position in zip(rows, positions, strict=True):
            title = (row["title"] or "").strip()
            if not title:
                skipped.append((row["row_id"], "empty_title"))
                continue
            try:
                picture = load_product_image(_readable(row["image"]))
            except ProductImageError as error:
                skipped.append((row["row_id"], error.reason))
                continue
            rng = np.random.default_rng((self.seed, position))
            if self.augmentation is not None:
                picture = self.augmentation(picture, rng)
            if self.title_augmentation is not None:
                title = self.title_augmentation(title, rng)
            catalog_id = row["catalog_id"]
            if catalog_id == NO_CATALOG and self.own_catalog_for_singles:
                catalog_id = stable_id(row["row_id"])
            titles.append(title)
            pictures.append(picture)
            catalog_ids.append(catalog_id)
            row_ids.append(row["row_id"])
        return {
            **(self._encode(titles, pictures) if titles else self._encode_nothing()),
            "catalog_ids": torch.tensor(catalog_ids, dtype=torch.int64),
            "row_ids": row_ids,
            "titles": titles,
            "skipped": skipped,
            "num_rows": len(rows),
        }

    def _encode(self, titles: list[str], pictures: list[Any]) -> dict[str, Any]:
        return dict(self.processor(text=titles, images=pictures, return_tensors="pt"))

    def _encode_nothing(self) -> dict[str, Any]:
        """Tensors of one stand-in row, with the shapes that tensors of real rows have."""
        from PIL import Image

        height, width = self.augmentation.image_size if self.augmentation is not None else (32, 32)
        return self._encode(["none"], [Image.new("RGB", (width, height), "white")])


def _readable(image: Mapping[str, Any] | None) -> Any:
    """Reads the bytes of a picture that lies inside an archive or a Hub repository, as `datasets` addresses it."""
    path = (image or {}).get("path")
    if image is None or image.get("bytes") is not None or not path or "://" not in path:
        return image
    if path.startswith(("http://", "https://")):  # a table of links: load_product_image refuses it with the remedy
        return path
    try:
        with datasets.utils.file_utils.xopen(path, "rb") as file:
            return file.read()
    except (OSError, KeyError) as error:
        raise ProductImageError(f"{path!r} cannot be read ({error}). Check that it is there.", "missing") from error


class ProductBatches(Dataset[dict[str, Any]]):
    """Batches of map-style products: item `k` is this rank's share of the `k`-th global batch.

    Args:
        products: Products with the canonical columns.
        collator: Makes a batch of rows.
        order: Which row is at which position.
        spans: `(start, stop)` positions of each global batch.
        rank: This rank.
        num_ranks: Number of ranks.
    """

    def __init__(
        self,
        products: datasets.Dataset,
        collator: ProductCollator,
        order: RowOrder,
        spans: Sequence[tuple[int, int]],
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Checks the rank and keeps the arguments."""
        rank_slice(0, 0, rank, num_ranks)
        self.products = products.select_columns(_COLUMNS)
        self.collator = collator
        self.order = order
        self.spans = list(spans)
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        """Number of global batches."""
        return len(self.spans)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Reads, decodes and collates one batch."""
        start, stop = rank_slice(*self.spans[number], self.rank, self.num_ranks)
        rows = self.products.__getitems__(self.order.rows(start, stop).tolist()) if stop > start else []
        return self.collator(rows, range(start, stop))


class StreamedProductBatches(IterableDataset[dict[str, Any]]):
    """Batches of streamed products: this rank's share of one global batch after the other.

    Every worker of every rank reads the whole stream but decodes only the rows of its own batches, so the order does
    not depend on their number; what a stream saves is memory and disk, not reading. Each pass is shuffled anew through
    a buffer. To start in mid-run, the rows before `start` are read and dropped, whole passes but the first excepted.

    Args:
        products: Streamed products with the canonical columns.
        collator: Makes a batch of rows.
        batch_size: Samples in a global batch: a number, or a function of the samples seen.
        total_samples: Samples of the whole run; none for one pass.
        start: Samples already seen.
        rank: This rank.
        num_ranks: Number of ranks.
        seed: Seed of the order; none keeps the stream's own.
        buffer_size: Rows in the shuffle buffer.
    """

    def __init__(
        self,
        products: datasets.IterableDataset,
        collator: ProductCollator,
        batch_size: int | Callable[[int], int],
        total_samples: int | None,
        start: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        seed: int | None = None,
        buffer_size: int = 1000,
    ) -> None:
        """Checks the rank and keeps the arguments."""
        rank_slice(0, 0, rank, num_ranks)
        self.products = products.select_columns(_COLUMNS)
        self.collator = collator
        self.batch_size = batch_size
        self.total_samples = total_samples
        self.start = start
        self.rank = rank
        self.num_ranks = num_ranks
        self.seed = seed
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the batches that are this worker's turn; the loader takes them from its workers in turn."""
        worker = get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        total_samples = self.total_samples if self.total_samples is not None else sys.maxsize
        rows = self._rows_from(self.start)
        for number, (start, stop) in enumerate(batch_spans(self.batch_size, total_samples, self.start)):
            first, last = rank_slice(start, stop, self.rank, self.num_ranks)
            is_mine = number % num_workers == worker_id
            share, num_read = [], 0
            for position in range(start, stop):
                row = next(rows, None)
                if row is None:
                    break
                num_read += 1
                if is_mine and first <= position < last:
                    share.append(row)
            if num_read == 0:
                return
            if is_mine:
                yield self.collator(share, range(first, first + len(share)))

    def _rows_from(self, start: int) -> Iterator[dict[str, Any]]:
        position, epoch = 0, 0
        while True:
            pass_start = position
            for row in self._one_pass(epoch):
                if position >= start:
                    yield row
                position += 1
            pass_length = position - pass_start
            if pass_length == 0:
                raise ValueError("the stream of products holds no rows. Check the sources, the split and the rules.")
            if self.total_samples is None:
                return
            epoch += 1
            # all passes have one length, so those that end before the start need not be read
            skipped_passes = max(0, start - position) // pass_length
            epoch += skipped_passes
            position += skipped_passes * pass_length

    def _one_pass(self, epoch: int) -> Iterator[dict[str, Any]]:
        products = self.products
        if self.seed is not None:
            # a fresh shuffle for each pass, since workers share the epoch that set_epoch sets and would race for it
            # (files are read side by side; datasets then waits 5 s at the end of a pass, needless where there is one)
            products = products.shuffle(
                generator=np.random.default_rng((self.seed, epoch)),
                buffer_size=self.buffer_size,
                max_buffer_input_shards=min(products.num_shards, 10),
            )
        # unlike iter(products), this is not divided among the workers
        for columns in products.iter(batch_size=_STREAM_READ_ROWS):
            for values in zip(*(columns[name] for name in _COLUMNS), strict=True):
                yield dict(zip(_COLUMNS, values, strict=True))


def train_loader(
    products: Products,
    processor: Callable[..., Mapping[str, Any]],
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
    shuffle_buffer: int = 1000,
    num_workers: int = 0,
    prefetch_factor: int = 2,
) -> DataLoader[dict[str, Any]]:
    """Loads the batches of a training run in order; each item is this rank's share of one global batch.

    Args:
        products: Products with the canonical columns, map-style or streamed.
        processor: An `EClipProcessor`, or anything that is called as one.
        batch_size: Samples in a global batch, all ranks together: a number, or a function of the samples seen.
        total_samples: Samples of the whole run, those before `start` included; the last batch is as short as it must.
        seed: Seed of the order and of the augmentation.
        start: Samples already seen by the run that is resumed.
        rank: This rank.
        num_ranks: Number of ranks.
        augmentation: Applied to every picture.
        title_augmentation: Applied to every title.
        own_catalog_for_singles: See `ProductCollator`.
        mates_share: Share of the catalogs whose offers come one after the other; see `RowOrder`.
        shuffle_buffer: Rows in the shuffle buffer of streamed products.
        num_workers: Worker processes; 0 loads in this process.
        prefetch_factor: Batches that each worker prepares ahead.

    Returns:
        A loader of batches, as the module describes them, already collated.

    Raises:
        ValueError: If mates are to be brought together in a stream, whose catalogs are not known beforehand.
    """
    collator = ProductCollator(
        processor,
        augmentation=augmentation,
        title_augmentation=title_augmentation,
        seed=seed,
        own_catalog_for_singles=own_catalog_for_singles,
    )
    batches: Dataset[dict[str, Any]]
    if isinstance(products, datasets.IterableDataset):
        if mates_share:
            raise ValueError(
                f"mates_share is {mates_share}, which needs all catalog ids beforehand; leave it out or do not stream."
            )
        batches = StreamedProductBatches(
            products, collator, batch_size, total_samples, start, rank, num_ranks, seed, shuffle_buffer
        )
    else:
        spans = list(batch_spans(batch_size, total_samples, start))
        catalog_ids = np.asarray(products["catalog_id"]) if mates_share else None
        order = RowOrder(len(products), seed, catalog_ids=catalog_ids, mates_share=mates_share)
        batches = ProductBatches(products, collator, order, spans, rank, num_ranks)
    return _loader(batches, num_workers, prefetch_factor)


def evaluation_loader(
    products: Products,
    processor: Callable[..., Mapping[str, Any]],
    *,
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 2,
) -> DataLoader[dict[str, Any]]:
    """Loads all rows once, in their own order and without augmentation; catalog ids stay as they are.

    Args:
        products: Products with the canonical columns, map-style or streamed.
        processor: An `EClipProcessor`, or anything that is called as one.
        batch_size: Rows in a global batch, all ranks together.
        rank: This rank.
        num_ranks: Number of ranks.
        num_workers: Worker processes; 0 loads in this process.
        prefetch_factor: Batches that each worker prepares ahead.

    Returns:
        A loader of batches, as the module describes them, already collated.
    """
    collator = ProductCollator(processor, own_catalog_for_singles=False)
    batches: Dataset[dict[str, Any]]
    if isinstance(products, datasets.IterableDataset):
        batches = StreamedProductBatches(products, collator, batch_size, None, rank=rank, num_ranks=num_ranks)
    else:
        order = RowOrder(len(products), seed=0, shuffle=False)
        spans = list(batch_spans(batch_size, len(products)))
        batches = ProductBatches(products, collator, order, spans, rank, num_ranks)
    return _loader(batches, num_workers, prefetch_factor)


def _loader(batches: Dataset[dict[str, Any]], num_workers: int, prefetch_factor: int) -> DataLoader[dict[str, Any]]:
    if num_workers > 0:
        # the workers tokenize side by side; tokenizers would otherwise warn in each of them that it had been forked
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch
        collate_fn=_as_is,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_use_one_thread,
        generator=torch.Generator(),  # a loader draws a seed as it starts: not from the generator that dropout uses
    )


def _as_is(batch: Any) -> Any:
    return batch


def _use_one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)
