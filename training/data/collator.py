"""Rows of products to one batch: usable rows are read and augmented, all others are listed with a reason.

A batch is a dictionary of

- what the processor returns: `input_ids` `(N, L)`, `attention_mask` `(N, L)`, `pixel_values` `(N, C, H, W)`, ...;
- `normalization`: where `pixel_values` are still 8-bit levels, the `PixelNormalization` that the device is to apply,
  else `None` (see `training.data.inputs`);
- where the rows hold a frozen tower's vectors, these in place of its inputs: `image_pooler_output` and
  `text_pooler_output`, float32 `(N, width)`;
- where a row may lack a side: `has_text` and `has_image`, bool `(N,)`. For a task on both modalities, inputs of the
  missing ones are placeholders; for pre-training there are none of them, and titles and images are those of the rows
  that have them, in their order;
- for a task with labels: `labels`, `(N,)` or `(N, attributes)`;
- `catalog_ids`: int64 `(N,)`;
- `row_ids` and `titles`: lists of `N` strings;
- `skipped`: list of `(row_id, reason)`;
- `num_rows`: planned rows, `N + len(skipped)`.

`N` is 0 where no row of a rank's share is usable. The rank must still take part in the step, and not every tower takes
a batch without rows: the model's inputs then hold one placeholder row without a label, so take only the first `N`
embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from modeling_eclip.images_eclip import ProductImageError
from modeling_eclip.inference.pixels import PixelNormalization
from modeling_eclip.processing_eclip import lexical_ids
from training.data.augmentation import ProductAugmentation, TitleAugmentation
from training.data.columns import NO_CATALOG, stable_id
from training.data.images import ImageReader

__all__ = ["FROZEN_COLUMNS", "ProductCollator", "ReadRow", "RowLabels", "modalities_of"]

FROZEN_COLUMNS = ("image_pooler_output", "text_pooler_output")
"""Columns with the vectors of frozen towers, which replace the towers' inputs."""


class RowLabels(Protocol):
    """Reads a row's label.

    Attributes:
        columns: Columns that the label is read from.
    """

    columns: list[str]

    @property
    def blank(self) -> Any:
        """Label of a row that has none."""

    def encode(self, row: Mapping[str, Any]) -> Any:
        """Returns a row's label as numbers."""


@dataclass
class ReadRow:
    """A usable row, read.

    Args:
        row_id: Id of the row.
        catalog_id: Catalog of the row, or -1.
        title: Title, augmented in training; empty where there is none.
        image: What `ImageReader` reads, uint8 `(3, height, width)`; `None` if there is none or it is not needed.
        vectors: Vectors of frozen towers, by column.
        modalities: Those of the collator's modalities that the row has.
        label: The label.
    """

    row_id: str
    catalog_id: int
    title: str
    image: torch.Tensor | None
    vectors: dict[str, Any]
    modalities: set[str]
    label: Any


def modalities_of(modality: str | None) -> tuple[str, ...]:
    """Returns the modalities that an option names: `"text"`, `"image"`, or both for anything else."""
    return (modality,) if modality in ("text", "image") else ("text", "image")


class ProductCollator:
    """Turns rows of canonical columns into one batch.

    Args:
        processor: Called as `processor(text=titles, return_tensors="pt")`; its `image_processor` is called as
            `ImageReader` does.
        augmentation: Applied to every image; none in evaluation.
        title_augmentation: Applied to every title; none in evaluation.
        seed: Seed of the augmentation, joined with a row's position.
        own_catalog_for_singles: Gives a row without a catalog a catalog id of its own, a hash of its row id, so that
            a product that is twice in a batch is its own mate and not a negative. Otherwise its id stays -1.
        frozen_widths: Number of values in each of the `FROZEN_COLUMNS` that the rows hold. Of a row with an
            `image_pooler_output`, the `image` is not read.
        modality: `"text"`, `"image"`, or `"both"`, where a row with either of them is usable, or `"either"`: the same
            without placeholders, and for images that are not there, not for broken ones. If not given, a row needs
            both.
        labels: Reads the labels of a task.
    """

    def __init__(
        self,
        processor: Any,
        *,
        augmentation: ProductAugmentation | None = None,
        title_augmentation: TitleAugmentation | None = None,
        seed: int = 0,
        own_catalog_for_singles: bool = True,
        frozen_widths: Mapping[str, int] | None = None,
        modality: str | None = None,
        labels: RowLabels | None = None,
    ) -> None:
        """Keeps the arguments."""
        self.processor = processor
        self.title_augmentation = title_augmentation
        self.seed = seed
        self.own_catalog_for_singles = own_catalog_for_singles
        self.modalities = modalities_of(modality)
        self.needs_all_modalities = modality not in ("both", "either")
        self.has_placeholders = modality != "either"
        self.frozen_widths = {
            name: width for name, width in (frozen_widths or {}).items() if name.startswith(self.modalities)
        }
        self.labels = labels
        self.images = ImageReader(processor, augmentation)
        self.reads_images = "image" in self.modalities and "image_pooler_output" not in self.frozen_widths

    def __call__(self, rows: Sequence[Mapping[str, Any]], positions: Sequence[int]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: Rows with `title`, `image`, `catalog_id` and `row_id`, with the frozen columns and those of labels.
                A column that the modality or a frozen tower makes needless may be absent.
            positions: Position of each row in the run.

        Returns:
            The batch, as the module describes it.
        """
        usable, skipped, places = [], [], []
        for row, position in zip(rows, positions, strict=True):
            read = self.read(row, position)
            if isinstance(read, ReadRow):
                usable.append(read)
                places.append(position)
            else:
                skipped.append((row["row_id"], read))
        return {
            **self.inputs(usable or [self.placeholder_row()]),
            "normalization": self.normalization,
            "catalog_ids": torch.tensor([row.catalog_id for row in usable], dtype=torch.int64),
            "row_ids": [row.row_id for row in usable],
            "positions": places,
            "titles": [row.title for row in usable],
            "skipped": skipped,
            "num_rows": len(rows),
        }

    @property
    def normalization(self) -> PixelNormalization | None:
        """What is still to be done to the pixels of a batch."""
        return self.images.normalization if self.reads_images else None

    def read(self, row: Mapping[str, Any], position: int) -> ReadRow | str:
        """Reads one row.

        Args:
            row: The row.
            position: Its position in the run.

        Returns:
            The row as read, or the reason why it cannot be used.
        """
        problems: dict[str, str] = {}
        title = (row.get("title") or "").strip()
        if not title:
            problems["text"] = "empty_title"
        for name in self.frozen_widths:
            if row[name] is None:
                problems.setdefault(name.split("_")[0], "missing")
        if reason := self._unusable(problems):
            return reason
        rng = np.random.default_rng((self.seed, position))
        image = None
        if self.reads_images and not self.has_placeholders and _is_absent(row["image"]):
            problems["image"] = "missing"
        elif self.reads_images:
            try:
                image = self.images.read(row["image"], rng)
            except ProductImageError as error:
                problems["image"] = error.reason
                if not self.has_placeholders:  # broken, and no sign of an offer without an image
                    return error.reason
                if reason := self._unusable(problems):
                    return reason
        if reason := self._unusable(problems):
            return reason
        if self.title_augmentation is not None and title:
            title = self.title_augmentation(title, rng)
        catalog_id = row["catalog_id"]
        if catalog_id == NO_CATALOG and self.own_catalog_for_singles:
            catalog_id = stable_id(row["row_id"])
        vectors = {name: row[name] for name in self.frozen_widths}
        label = None if self.labels is None else self.labels.encode(row)
        return ReadRow(row["row_id"], catalog_id, title, image, vectors, {*self.modalities} - problems.keys(), label)

    def _unusable(self, problems: dict[str, str]) -> str | None:
        """Returns why a row with these problems cannot be used, or `None` if it can."""
        found = [problems[modality] for modality in self.modalities if modality in problems]
        return found[0] if found and (self.needs_all_modalities or len(found) == len(self.modalities)) else None

    def placeholder_row(self) -> ReadRow:
        """Returns a row without a label, for a batch that would otherwise have none."""
        label = None if self.labels is None else self.labels.blank
        return ReadRow("", NO_CATALOG, "none", None, dict.fromkeys(self.frozen_widths), {*self.modalities}, label)

    def inputs(self, rows: Sequence[ReadRow]) -> dict[str, Any]:
        """Makes the model's inputs of one or more rows, and their labels."""
        inputs: dict[str, Any] = {}
        having = {
            modality: [row for row in rows if self.has_placeholders or modality in row.modalities]
            for modality in self.modalities
        }
        if "text" in self.modalities and "text_pooler_output" not in self.frozen_widths:
            titles = [row.title or "none" for row in having["text"]]
            encoded = self.processor(text=titles or ["none"], return_tensors="pt")
            inputs |= {name: value[: len(titles)] for name, value in encoded.items()}
        elif "text" in self.modalities and getattr(self.processor, "lexical_features", False):
            inputs["lexical_ids"] = lexical_ids([row.title for row in having["text"]])
        if self.reads_images:
            images = [self.images.blank() if row.image is None else row.image for row in having["image"]]
            stacked = self.images.stack(images or [self.images.blank()])
            inputs |= {name: value[: len(images)] for name, value in stacked.items()}
        for name, width in self.frozen_widths.items():
            vectors = [
                row.vectors[name] if row.vectors[name] is not None else [0.0] * width
                for row in having[name.split("_")[0]]
            ]
            inputs[name] = torch.from_numpy(np.asarray(vectors, dtype=np.float32).reshape(-1, width))
        if not self.needs_all_modalities:
            for modality in self.modalities:
                inputs[f"has_{modality}"] = torch.tensor([modality in row.modalities for row in rows])
        if self.labels is not None:
            inputs["labels"] = torch.tensor([row.label for row in rows])
        return inputs


def _is_absent(image: Any) -> bool:
    """Tell whether a row's `image` column holds nothing: no bytes, no path."""
    return image is None or (isinstance(image, Mapping) and image.get("bytes") is None and not image.get("path"))
