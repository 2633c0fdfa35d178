"""Embed shards of a corpus with a model, and write a file of vectors for each.

Worker processes read rows and images ahead; images are embedded as they come, the titles of a shard sorted by length
at its end. The values of a file depend on the model and the rows alone, to rounding, and not on batches or workers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from modeling_eclip import EClipModel, EClipProcessor, ProductImageError
from modeling_eclip.inference.embed import batch_size_for, embed_inputs, embed_tokens, tokenize_titles
from training.data.collator import modalities_of
from training.data.fields import field_columns, row_images, row_texts
from training.data.images import ImageReader, images_state
from training.data.loaders import batch_loader
from training.data.read_tables import Products
from training.data.row_places import row_files
from training.data.skipped_rows import SkipCounter
from training.embedding.vector_shards import EmbeddedShards, ShardInProgress
from training.engine.waiting import WaitingTime

__all__ = ["CorpusEmbedder", "deal_to_workers"]


@dataclass
class CorpusEmbedder:
    """Embeds shards of a corpus.

    Args:
        products: Products with the canonical columns, map-style or streamed.
        model: The model, on its device.
        processor: The model's processor.
        modality: Modalities that are embedded: `"text"`, `"image"` or `"both"`.
        truncate_dim: Number of an embedding's first values that are kept; all if not given.
        token_budget: Tokens of a batch of titles; see `modeling_eclip.embed_products`.
        image_batch_size: Images of a batch, and rows that a worker reads at once; see there.
        num_workers: Processes that read rows and images; 0 reads them in this process.
        max_skipped_share: Largest share of titles, or of images, that may be unusable.
        field_pooling: What several texts of a product become: `"joined"` to one, or the `"mean"` of their vectors.
            Several images are averaged.
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
    field_pooling: str = "joined"

    def __post_init__(self) -> None:
        """Refuse to keep more values than an embedding has."""
        most = self.model.config.projection_dim
        if self.truncate_dim is not None and not 1 <= self.truncate_dim <= most:
            raise ValueError(
                f"`truncate_dim` is {self.truncate_dim}, but the model's embeddings have {most} values; give 1 to "
                f"{most}."
            )

    def __call__(self, shards: EmbeddedShards, numbers: Sequence[int], *, show_progress: bool = True) -> float:
        """Embed some shards and write their files.

        Args:
            shards: The files.
            numbers: Numbers of the files to write.
            show_progress: Whether to show a progress bar.

        Returns:
            Share of the time that was spent waiting for images and titles.

        Raises:
            ValueError: too large a share of the rows could not be used. A small number of rows is not judged yet.
        """
        if not numbers:
            return 0.0
        loader = WaitingTime(self._loader(shards, numbers))
        skips = {modality: SkipCounter(row_files(self.products)) for modality in modalities_of(self.modality)}
        total = sum(len(shards.rows(number)) for number in numbers)
        with (
            closing(iter(loader)) as chunks,  # ends the workers after an error, too
            tqdm(total=total, desc="embedding", unit="row", disable=not show_progress) as progress,
        ):
            for number in numbers:
                shard = ShardInProgress(shards.rows(number), modalities_of(self.modality), self.dim)
                while not shard.is_whole:
                    chunk = next(chunks)
                    shard.add(chunk, self._embed_images(chunk))
                    progress.update(len(chunk["row_ids"]))
                    elapsed = progress.format_dict["elapsed"]
                    progress.set_postfix(waiting=f"{loader.seconds / max(elapsed, 1e-9):.0%}", refresh=False)
                # Checked before the file is written: a resumed run does not look at written files again.
                for modality, counter in shard.skips.items():
                    skips[modality].merge(counter.state_dict())
                    skips[modality].check(self.max_skipped_share)
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
            spans += deal_to_workers(
                [rows[start : start + size] for start in range(0, len(rows), size)], self.num_workers
            )
        names = [
            "row_id",
            "catalog_id",
            *("title" if modality == "text" else modality for modality in modalities_of(self.modality)),
            *(name for one in modalities_of(self.modality) for name in field_columns(self.products.column_names, one)),
        ]
        pooled = self.field_pooling == "mean"
        chunks = _Chunks(self.products.select_columns(names), self.processor, self.modality, spans, pooled)
        return batch_loader(chunks, self.num_workers)

    def _embed_images(self, chunk: dict[str, Any]) -> torch.Tensor | None:
        if not chunk["image_inputs"]:
            return None
        return embed_inputs(self.model, chunk["image_inputs"], truncate_dim=self.truncate_dim)

    def _embed_titles(self, shard: ShardInProgress) -> torch.Tensor:
        return embed_tokens(
            self.model, self.processor, shard.tokens, truncate_dim=self.truncate_dim, token_budget=self.token_budget
        )


class _Chunks(Dataset[dict[str, Any]]):
    """Rows that a worker reads at once: tokens of their titles, inputs of the image tower, and unusable values."""

    def __init__(
        self,
        products: Products,
        processor: EClipProcessor,
        modality: str,
        spans: Sequence[range],
        pools_texts: bool = False,
    ) -> None:
        self.products, self.processor, self.spans = products, processor, list(spans)
        self.pools_texts = pools_texts
        self.modalities = modalities_of(modality)
        self.reader = ImageReader(processor) if "image" in self.modalities else None

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> dict[str, Any]:
        span = self.spans[number]
        rows = self.products.__getitems__(list(span))
        skipped: dict[str, list[tuple[str, str]]] = {modality: [] for modality in self.modalities}
        passed_over: dict[str, list[tuple[str, str]]] = {modality: [] for modality in self.modalities}
        titles, text_rows, text_weights = [], [], []
        images, image_rows, image_weights = [], [], []
        # Before they are read: a file that changes meanwhile is seen to have changed.
        states = [None if self.reader is None else images_state(row) for row in rows]
        for place, row in zip(span, rows, strict=True):
            if "text" in self.modalities:
                texts = self._texts(row)
                for title, weight in texts:
                    titles.append(title)
                    text_rows.append(place)
                    text_weights.append(weight)
                if not texts:
                    skipped["text"].append((row["row_id"], "empty_title"))
            if self.reader is not None:
                reasons = []
                for image, weight in row_images(row) or [(row["image"], 1.0)]:
                    try:
                        images.append(self.reader.read(image))
                        image_rows.append(place)
                        image_weights.append(weight)
                    except ProductImageError as error:
                        reasons.append((row["row_id"], error.reason))
                if place in image_rows[-1:]:
                    passed_over["image"] += reasons
                else:
                    skipped["image"].append(reasons[0])
        return {
            "start": span.start,
            "row_ids": [row["row_id"] for row in rows],
            "catalog_ids": [row["catalog_id"] for row in rows],
            "tokens": tokenize_titles(self.processor, titles),
            "text_rows": text_rows,
            "text_weights": text_weights,
            "image_inputs": self.reader.batch(images) if self.reader is not None and images else {},
            "image_rows": image_rows,
            "image_weights": image_weights,
            "image_states": states,
            "skipped": skipped,
            "passed_over": passed_over,
        }

    def _texts(self, row: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Return the texts that are embedded of a row: the joined one, or those that it is made of."""
        *alone, joined = row_texts(row) or [("", 0.0)]
        alone = [(text, weight) for text, weight in alone if weight > 0] if self.pools_texts else []
        return alone or [joined] if joined[0] else []


def deal_to_workers(spans: Sequence[range], num_workers: int) -> Iterator[range]:
    """Order chunks so that each worker reads neighbouring rows, which are in one row group.

    Args:
        spans: Rows of each chunk, in order.
        num_workers: Number of workers; worker `i` gets the chunks `i`, `i + num_workers`, ...

    Yields:
        The chunks' rows in the order in which they are handed out.
    """
    length = -(-len(spans) // max(num_workers, 1))
    for place in range(length):
        yield from spans[place::length]
