"""The files of an embedded corpus: rows are cut into shards, and each shard becomes one parquet file.

A file has a row for every row of the input, in its order:

- `row_id`: string; `catalog_id`: int64, null for an offer without a catalog;
- `has_text`, `has_image`: whether the row has a title, and an image that can be read;
- `text_embeds`, `image_embeds`: list of `dim` float32, of unit length; zeros where `has_*` is false.

A file is written whole or not at all, so a run that was killed resumes with the missing files. A file also keeps the
counts of what could not be embedded in it, by reason, and the state of the image files that it is of: it is made anew
where one of these has changed, appeared or gone.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from modeling_eclip.inference.fields import pool_vectors
from training.data.catalog_ids import NO_CATALOG
from training.data.fields import field_columns
from training.data.files import as_written, whole_file, write_json
from training.data.images import images_digest, images_state
from training.data.read_tables import Products
from training.data.row_places import RowFiles
from training.data.skipped_rows import SkipCounter

__all__ = ["EmbeddedShards", "ShardInProgress"]

# Metadata of a file: what could not be embedded in it, and a digest of the states of its image files.
_COUNTS, _IMAGES = b"eclip_skipped", b"eclip_images"

logger = logging.getLogger("training")


class EmbeddedShards:
    """The files of an embedded corpus.

    Args:
        folder: Folder of the files.
        num_rows: Rows of the corpus.
        rows_per_shard: Rows of a file; the last file may have fewer.
    """

    def __init__(self, folder: Path, num_rows: int, rows_per_shard: int) -> None:
        """Cut the rows into shards."""
        self.folder, self.num_rows, self.rows_per_shard = folder, num_rows, rows_per_shard

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.num_rows // self.rows_per_shard)

    def rows(self, shard: int) -> range:
        """Return the rows of the corpus that a file holds."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def path(self, shard: int) -> Path:
        """Return the path of a file."""
        return self.folder / f"embeddings-{shard:05}-of-{len(self):05}.parquet"

    def missing(self) -> list[int]:
        """Return the numbers of the files that are not written yet."""
        return [shard for shard in range(len(self)) if not self.path(shard).is_file()]

    def remove_old(self, products: Products) -> None:
        """Remove the files that are broken, or of image files that are others now, so that they are made anew.

        Args:
            products: The rows; images are read where a file is of image files.
        """
        for shard in range(len(self)):
            if self.path(shard).is_file() and (reason := self._why_old(shard, products)):
                logger.warning("%s is made anew: %s", self.path(shard), reason)
                self.path(shard).unlink()

    def _why_old(self, shard: int, products: Products) -> str | None:
        try:
            images = pq.read_metadata(self.path(shard)).metadata[_IMAGES].decode()
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            return f"it is broken ({error})"
        if not images:  # all are in the rows, and of a change there the input's files tell
            return None
        names = ["image", *field_columns(products.column_names, "image")]
        rows = products.select_columns(names).__getitems__(list(self.rows(shard)))
        is_same = images == images_digest([images_state(row) for row in rows])
        return None if is_same else "files of its images have changed, appeared or gone"

    def begin(self, settings: dict[str, Any]) -> None:
        """Write the settings that the files depend on; refuse a folder that was begun with others.

        Args:
            settings: Everything that the content of the files depends on.

        Raises:
            ValueError: the folder was begun with other settings.
        """
        path = self.folder / "settings.json"
        content = as_written(settings | {"num_rows": self.num_rows, "rows_per_shard": self.rows_per_shard})
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if changed := [name for name in content | before if before.get(name) != content.get(name)]:
                raise ValueError(
                    f"`{changed[0]}` is {content.get(changed[0])!r}, but {self.folder} was begun with "
                    f"{before.get(changed[0])!r}; give another `output_dir`, or remove that folder."
                )
        write_json(content, path)

    def skipped(self, row_files: Sequence[RowFiles] = ()) -> dict[str, SkipCounter]:
        """Return the counts of what could not be embedded in the files written so far, by modality.

        Args:
            row_files: Files that the rows come from, to tell where they are.
        """
        counters: dict[str, SkipCounter] = {}
        for shard in range(len(self)):
            if self.path(shard).is_file():
                states = json.loads(pq.read_schema(self.path(shard)).metadata[_COUNTS])
                for modality, state in states.items():
                    counters.setdefault(modality, SkipCounter(row_files)).merge(state)
        return counters


class ShardInProgress:
    """A shard that is being filled, chunk by chunk in any order.

    Args:
        rows: Rows of the corpus that the shard holds.
        modalities: `"text"`, `"image"` or both.
        dim: Values of an embedding.
    """

    def __init__(self, rows: range, modalities: Sequence[str], dim: int) -> None:
        """Start empty."""
        self.start, self.num_rows, self.num_filled, self.dim = rows.start, len(rows), 0, dim
        self.row_ids: list[str] = [""] * len(rows)
        self.catalog_ids = np.full(len(rows), NO_CATALOG, dtype=np.int64)
        self.chunks: list[tuple[int, dict[str, list[Any]], list[int], list[float]]] = []
        self.images: list[tuple[list[int], torch.Tensor, list[float]]] = []
        self.image_states: list[str | None] = [None] * len(rows)
        self.skips = {modality: SkipCounter() for modality in modalities}

    @property
    def is_whole(self) -> bool:
        """Whether every row was added."""
        return self.num_filled == self.num_rows

    def add(self, chunk: dict[str, Any], image_embeds: torch.Tensor | None) -> None:
        """Add rows.

        Args:
            chunk: What a worker has read of them.
            image_embeds: Embeddings of the chunk's `image_rows`, shape `(num_image_rows, dim)`.
        """
        first, number = chunk["start"] - self.start, len(chunk["row_ids"])
        self.row_ids[first : first + number] = chunk["row_ids"]
        self.catalog_ids[first : first + number] = chunk["catalog_ids"]
        self.image_states[first : first + number] = chunk["image_states"]
        text_rows = [row - self.start for row in chunk["text_rows"]]
        self.chunks.append((first, chunk["tokens"], text_rows, chunk["text_weights"]))
        if image_embeds is not None:  # stays on its device: copying it here would make the device wait
            image_rows = [row - self.start for row in chunk["image_rows"]]
            self.images.append((image_rows, image_embeds, chunk["image_weights"]))
        for modality, counter in self.skips.items():
            counted = {name: chunk[name][modality] for name in ("skipped", "passed_over")}
            counter.add({"num_rows": number, **counted})
        self.num_filled += number

    @property
    def tokens(self) -> dict[str, list[Any]]:
        """Tokens of all titles in the order of the rows, so that batches do not depend on which worker was first."""
        self.chunks.sort(key=lambda chunk: chunk[0])
        joined: dict[str, list[Any]] = {"input_ids": []}
        for _, tokens, _, _ in self.chunks:
            for name, values in tokens.items():
                joined.setdefault(name, []).extend(values)
        return joined

    def write(self, path: Path, text_embeds: torch.Tensor) -> None:
        """Write the file.

        Args:
            path: The file.
            text_embeds: Embeddings of the titles, in the order of `tokens`, shape `(num_titles, dim)`.

        Raises:
            FloatingPointError: an embedding is not finite.
        """
        columns = {
            "row_id": pa.array(self.row_ids, pa.string()),
            "catalog_id": pa.array(self.catalog_ids, mask=self.catalog_ids == NO_CATALOG),
        }
        if "text" in self.skips:
            text_rows = [row for _, _, rows, _ in self.chunks for row in rows]
            weights = [weight for *_, of_chunk in self.chunks for weight in of_chunk]
            _add_vectors(columns, "text", (self.num_rows, self.dim), [(text_rows, text_embeds, weights)])
        if "image" in self.skips:
            _add_vectors(columns, "image", (self.num_rows, self.dim), self.images)
        states = {modality: counter.state_dict() for modality, counter in self.skips.items()}
        kept = {_COUNTS: json.dumps(states), _IMAGES: images_digest(self.image_states)}
        table = pa.table(columns).replace_schema_metadata(kept)
        with whole_file(path) as partial:
            pq.write_table(table, partial)


def _add_vectors(
    columns: dict[str, pa.Array],
    modality: str,
    shape: tuple[int, int],
    parts: Iterable[tuple[list[int], torch.Tensor, list[float]]],
) -> None:
    """Add the two columns of a modality; the vectors of one row, all in one part, are averaged by their weights."""
    values = np.zeros(shape, dtype=np.float32)
    has = np.zeros(shape[0], dtype=bool)
    for rows, embeds, weights in parts:
        if rows:
            owned, owners, counts = np.unique(rows, return_inverse=True, return_counts=True)
            values[rows] = embeds.cpu().numpy()
            has[rows] = True
            if (several := counts > 1).any():
                pooled = pool_vectors(embeds.cpu(), torch.from_numpy(owners), torch.tensor(weights), len(owned))
                values[owned[several]] = pooled.numpy()[several]
    if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        raise FloatingPointError(
            f"the {modality} embeddings of {len(bad)} rows are not finite, the first of "
            f"{columns['row_id'][int(bad[0])]}; embed with `dtype` float32, or with a checkpoint whose training went "
            "well."
        )
    columns[f"has_{modality}"] = pa.array(has)
    # Zeros, not null, where there is none: not every pyarrow reads null lists of fixed size from parquet.
    columns[f"{modality}_embeds"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), shape[1])
