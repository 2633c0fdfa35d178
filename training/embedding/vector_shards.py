"""A corpus of products to files of embeddings: as many processes as there are devices, resumable, nothing lost.

The rows of the corpus are cut into shards, and each becomes a parquet file with a row for every row of the input, in
its order:

- `row_id`: string; `catalog_id`: int64, null for an offer that is alone;
- `has_text`, `has_image`: whether it has a title, and a picture that can be read; others are counted by reason;
- `text_embeds`, `image_embeds`: list of `dim` float32, of unit length; zeros where it has none.

A file is there whole or not at all, so a run that was killed goes on with the shards that are missing. Pictures are
embedded as workers have read them; the titles of a shard are sorted by length first. What is in a file depends on the
model and the rows alone, to rounding.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from modeling_eclip import EClipModel, EClipProcessor, ProductImageError
from modeling_eclip.inference.embed import batch_size_for, embed_inputs, embed_tokens, tokenize_titles
from training.data.collator import modalities_of
from training.data.columns import NO_CATALOG
from training.data.files import whole_file, write_json
from training.data.images import ImageReader
from training.data.loaders import batch_loader
from training.data.skipped_rows import SkipCounter
from training.data.read_tables import Products
from training.engine.waiting import WaitingTime

__all__ = ["CorpusEmbedder", "EmbeddedShards"]

logger = logging.getLogger(__name__)

_COUNTS = b"eclip_skipped"  # where a file keeps what could not be embedded in it


class EmbeddedShards:
    """The files of an embedded corpus.

    Args:
        folder: Where they are.
        num_rows: Rows of the corpus.
        rows_per_shard: Rows of a file; the last has fewer.
    """

    def __init__(self, folder: Path, num_rows: int, rows_per_shard: int) -> None:
        """Cuts the rows."""
        self.folder, self.num_rows, self.rows_per_shard = folder, num_rows, rows_per_shard

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.num_rows // self.rows_per_shard)

    def rows(self, shard: int) -> range:
        """Rows of the corpus that a file is of."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def path(self, shard: int) -> Path:
        """Where a file is."""
        return self.folder / f"embeddings-{shard:05}-of-{len(self):05}.parquet"

    def missing(self) -> list[int]:
        """Files that are not there yet."""
        return [shard for shard in range(len(self)) if not self.path(shard).is_file()]

    def begin(self, settings: dict[str, Any]) -> None:
        """Refuse to go on in a folder that holds something else; keep what makes these files what they are.

        Args:
            settings: What they depend on.

        Raises:
            ValueError: the folder was begun with other settings.
        """
        path = self.folder / "settings.json"
        content = json.loads(json.dumps(settings | {"num_rows": self.num_rows, "rows_per_shard": self.rows_per_shard}))
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if changed := [name for name in content | before if before.get(name) != content.get(name)]:
                raise ValueError(
                    f"`{changed[0]}` is {content.get(changed[0])!r}, but {self.folder} was begun with "
                    f"{before.get(changed[0])!r}; give another `output_dir`, or remove that folder."
                )
        write_json(content, path)

    def skipped(self) -> dict[str, SkipCounter]:
        """What could not be embedded, by side, of the files that are there."""
        counters: dict[str, SkipCounter] = {}
        for shard in range(len(self)):
            if self.path(shard).is_file():
                states = json.loads(pq.read_schema(self.path(shard)).metadata[_COUNTS])
                for side, state in states.items():
                    counters.setdefault(side, SkipCounter()).merge(state)
        return counters


@dataclass
class CorpusEmbedder:
    """Embeds shards of a corpus.

    Args:
        products: Products with the canonical columns, map-style or streamed.
        model: The model, on its device.
        processor: The model's processor.
        modality: `"text"`, `"image"` or `"both"`: what is embedded.
        truncate_dim: How many of an embedding's values are kept; all if not given.
        token_budget: Tokens of a batch of titles; see `EClipModel.embed_products`.
        image_batch_size: Images of a batch, and rows that a worker reads at once; see there.
        num_workers: Processes that read rows and pictures; 0 reads them in this one.
        max_skipped_share: Largest share of titles, or of pictures, that may be unusable.
    """

    products: Products
    model: EClipModel
    processor: EClipProcessor
    modality: str = "both"
    truncate_dim: int | None = None
    token_budget: int | None = None
    image_batch_size: int | None = None
    num_workers: int = 0
    max_skipped_share: float = 0.05

    def __post_init__(self) -> None:
        """Refuse to keep more values than there are."""
        most = self.model.config.projection_dim
        if self.truncate_dim is not None and not 1 <= self.truncate_dim <= most:
            raise ValueError(
                f"`truncate_dim` is {self.truncate_dim}, but the model's embeddings have {most} values; give 1 to "
                "that many."
            )

    def __call__(self, shards: EmbeddedShards, numbers: Sequence[int], *, show_progress: bool = True) -> float:
        """Embed some shards and write their files.

        Args:
            shards: The files.
            numbers: Which of them.
            show_progress: Whether to show a progress bar.

        Returns:
            Share of the time in which pictures and titles were waited for.

        Raises:
            ValueError: too large a share of the rows could not be used; a few rows are not judged yet.
        """
        if not numbers:
            return 0.0
        loader = WaitingTime(self._loader(shards, numbers))
        skips = {side: SkipCounter() for side in modalities_of(self.modality)}
        chunks = iter(loader)
        total = sum(len(shards.rows(number)) for number in numbers)
        with tqdm(total=total, desc="embedding", unit="row", disable=not show_progress) as progress:
            for number in numbers:
                shard = _Shard(shards.rows(number), modalities_of(self.modality), self.dim)
                while not shard.is_whole:
                    chunk = next(chunks)
                    shard.add(chunk, self._embed_images(chunk))
                    progress.update(len(chunk["row_ids"]))
                    elapsed = progress.format_dict["elapsed"]
                    progress.set_postfix(waiting=f"{loader.seconds / max(elapsed, 1e-9):.0%}", refresh=False)
                for side, counter in shard.skips.items():  # before the file is there, which would not be made again
                    skips[side].merge(counter.state_dict())
                    skips[side].check(self.max_skipped_share)
                shard.write(shards.path(number), self._embed_titles(shard))
            return loader.seconds / max(progress.format_dict["elapsed"], 1e-9)

    @property
    def dim(self) -> int:
        """Values of an embedding."""
        return self.truncate_dim or self.model.config.projection_dim

    def _loader(self, shards: EmbeddedShards, numbers: Sequence[int]) -> DataLoader[dict[str, Any]]:
        size = self.image_batch_size or batch_size_for(self.model.device)
        spans: list[range] = []
        for number in numbers:
            rows = shards.rows(number)
            spans += _dealt([rows[start : start + size] for start in range(0, len(rows), size)], self.num_workers)
        names = [
            "row_id",
            "catalog_id",
            *("title" if side == "text" else side for side in modalities_of(self.modality)),
        ]
        chunks = _Chunks(self.products.select_columns(names), self.processor, self.modality, spans)
        return batch_loader(chunks, self.num_workers)

    def _embed_images(self, chunk: dict[str, Any]) -> torch.Tensor | None:
        if not chunk["image_inputs"]:
            return None
        return embed_inputs(self.model, chunk["image_inputs"], truncate_dim=self.truncate_dim)

    def _embed_titles(self, shard: "_Shard") -> torch.Tensor:
        return embed_tokens(
            self.model, self.processor, shard.tokens, truncate_dim=self.truncate_dim, token_budget=self.token_budget
        )


class _Chunks(Dataset[dict[str, Any]]):
    """Rows that a worker reads at once: tokens of their titles, the image tower's inputs, and what can't be used."""

    def __init__(self, products: Products, processor: EClipProcessor, modality: str, spans: Sequence[range]) -> None:
        self.products, self.processor, self.spans = products, processor, list(spans)
        self.modalities = modalities_of(modality)
        self.pictures = ImageReader(processor) if "image" in self.modalities else None

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> dict[str, Any]:
        span = self.spans[number]
        rows = self.products.__getitems__(list(span))
        skipped: dict[str, list[tuple[str, str]]] = {side: [] for side in self.modalities}
        titles, text_rows, pictures, image_rows = [], [], [], []
        for place, row in zip(span, rows, strict=True):
            if "text" in self.modalities:
                title = (row["title"] or "").strip()
                if title:
                    titles.append(title)
                    text_rows.append(place)
                else:
                    skipped["text"].append((row["row_id"], "empty_title"))
            if self.pictures is not None:
                try:
                    pictures.append(self.pictures.read(row["image"]))
                    image_rows.append(place)
                except ProductImageError as error:
                    skipped["image"].append((row["row_id"], error.reason))
        return {
            "start": span.start,
            "row_ids": [row["row_id"] for row in rows],
            "catalog_ids": [row["catalog_id"] for row in rows],
            "tokens": tokenize_titles(self.processor, titles),
            "text_rows": text_rows,
            "image_inputs": self.pictures.batch(pictures) if self.pictures is not None and pictures else {},
            "image_rows": image_rows,
            "skipped": skipped,
        }


class _Shard:
    """A shard that is being filled, chunk by chunk in any order."""

    def __init__(self, rows: range, sides: Sequence[str], dim: int) -> None:
        self.start, self.num_rows, self.num_filled, self.dim = rows.start, len(rows), 0, dim
        self.row_ids: list[str] = [""] * len(rows)
        self.catalog_ids = np.full(len(rows), NO_CATALOG, dtype=np.int64)
        self.chunks: list[tuple[int, dict[str, list[Any]], list[int]]] = []
        self.images: list[tuple[list[int], torch.Tensor]] = []
        self.skips = {side: SkipCounter() for side in sides}

    @property
    def is_whole(self) -> bool:
        return self.num_filled == self.num_rows

    def add(self, chunk: dict[str, Any], image_embeds: torch.Tensor | None) -> None:
        first, number = chunk["start"] - self.start, len(chunk["row_ids"])
        self.row_ids[first : first + number] = chunk["row_ids"]
        self.catalog_ids[first : first + number] = chunk["catalog_ids"]
        self.chunks.append((first, chunk["tokens"], [row - self.start for row in chunk["text_rows"]]))
        if image_embeds is not None:  # left on its device: to wait for it here would be to let the device wait, too
            self.images.append(([row - self.start for row in chunk["image_rows"]], image_embeds))
        for side, counter in self.skips.items():
            counter.add({"num_rows": number, "skipped": chunk["skipped"][side]})
        self.num_filled += number

    @property
    def tokens(self) -> dict[str, list[Any]]:
        """Tokens of all titles, in the order of the rows, so that the batches do not depend on who was first."""
        self.chunks.sort(key=lambda chunk: chunk[0])
        joined: dict[str, list[Any]] = {"input_ids": []}
        for _, tokens, _ in self.chunks:
            for name, values in tokens.items():
                joined.setdefault(name, []).extend(values)
        return joined

    def write(self, path: Path, text_embeds: torch.Tensor) -> None:
        columns = {
            "row_id": pa.array(self.row_ids, pa.string()),
            "catalog_id": pa.array(self.catalog_ids, mask=self.catalog_ids == NO_CATALOG),
        }
        if "text" in self.skips:
            text_rows = [row for _, _, rows in self.chunks for row in rows]
            _add_vectors(columns, "text", (self.num_rows, self.dim), [(text_rows, text_embeds)])
        if "image" in self.skips:
            _add_vectors(columns, "image", (self.num_rows, self.dim), self.images)
        states = {side: counter.state_dict() for side, counter in self.skips.items()}
        table = pa.table(columns).replace_schema_metadata({_COUNTS: json.dumps(states)})
        with whole_file(path) as partial:
            pq.write_table(table, partial)


def _add_vectors(
    columns: dict[str, pa.Array], side: str, shape: tuple[int, int], parts: Iterable[tuple[list[int], torch.Tensor]]
) -> None:
    """Add a side's columns."""
    values = np.zeros(shape, dtype=np.float32)
    has = np.zeros(shape[0], dtype=bool)
    for rows, embeds in parts:
        if rows:
            values[rows] = embeds.cpu().numpy()
            has[rows] = True
    columns[f"has_{side}"] = pa.array(has)
    # not null where there is none: parquet files with null lists of fixed size are not read by every pyarrow
    columns[f"{side}_embeds"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), shape[1])


def _dealt(spans: Sequence[range], num_workers: int) -> Iterator[range]:
    """Order chunks such that each worker, which gets every so many-th, reads neighbours: they are in one row group."""
    length = -(-len(spans) // max(num_workers, 1))
    for place in range(length):
        yield from spans[place::length]
