"""Rows of products to one batch: usable rows are read and augmented, all others are listed with a reason.

A batch is a dictionary of

- what the processor returns: `input_ids` `(N, L)`, `attention_mask` `(N, L)`, `pixel_values` `(N, C, H, W)`, ...;
- `normalization`: where `pixel_values` are still 8-bit levels, the `PixelNormalization` that the device is to apply,
  else `None` (see `training.data.inputs`);
- where the rows hold a frozen tower's vectors, these in place of its inputs: `image_pooler_output` and
  `text_pooler_output`, float32 `(N, width)`;
- where all images of rows are read that have several: `image_owners`, int64, and `image_weights`, float32, `(V,)`:
  which of the rows each of the `V` images is of, and how much it counts there (see `modeling_eclip.inference.fields`);
- where a row may lack a side: `has_text` and `has_image`, bool `(N,)`. For a task on both modalities, inputs of the
  missing ones are placeholders; for pre-training there are none of them, and titles and images are those of the rows
  that have them, in their order;
- for a task with labels: `labels`, `(N,)` or `(N, attributes)`;
- `catalog_ids`: int64 `(N,)`;
- `row_ids` and `titles`: lists of `N` strings;
- `skipped`: list of `(row_id, reason)`;
- `passed_over`: likewise, images that cannot be used of rows that have others;
- `num_rows`: planned rows, `N + len(skipped)`.

`N` is 0 where no row of a rank's share is usable. The rank must still take part in the step, and not every tower takes
a batch without rows: the model's inputs then hold one placeholder row without a label, so take only the first `N`
embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from modeling_eclip.images_eclip import ProductImageError
from modeling_eclip.inference.pixels import PixelNormalization
from modeling_eclip.processing_eclip import lexical_ids
from training.data.augmentation import ProductAugmentation, TitleAugmentation
from training.data.catalog_ids import NO_CATALOG, stable_id
from training.data.fields import draw_order, draw_text, row_images, row_texts
from training.data.images import ImageReader

__all__ = ["FROZEN_COLUMNS", "ProductCollator", "ReadRow", "RowLabels", "modalities_of"]

FROZEN_COLUMNS = ("image_pooler_output", "text_pooler_output")
"""Columns with the vectors of frozen towers, which replace the towers' inputs."""
_TEXT_DRAW, _IMAGE_DRAW = 1, 2  # beside the seed and a position: draws that augmentation does not share


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
        images: What `ImageReader` reads, uint8 `(3, height, width)`, and its weight, of the image that is used or of
            all of them; empty if there is none or it is not needed.
        passed_over: Why those of its images cannot be used that others stand for.
        vectors: Vectors of frozen towers, by column.
        modalities: Those of the collator's modalities that the row has.
        label: The label.
    """

    row_id: str
    catalog_id: int
    title: str
    images: list[tuple[torch.Tensor, float]]
    passed_over: list[str]
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
        fields: Which of several texts and images of a row are used: `"first"`, the joined text and the first image;
            `"drawn"`, one of each by their weights, anew at each position; or `"all"`, the joined text and all images.
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
        fields: Literal["first", "drawn", "all"] = "first",
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
        self.fields = fields
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
        usable, skipped, places, passed_over = [], [], [], []
        for row, position in zip(rows, positions, strict=True):
            read = self.read(row, position)
            if isinstance(read, ReadRow):
                usable.append(read)
                places.append(position)
                passed_over += [(read.row_id, reason) for reason in read.passed_over]
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
            "passed_over": passed_over,
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
        images: list[tuple[torch.Tensor, float]] = []
        passed_over: list[str] = []
        if self.reads_images and not (given := row_images(row)):
            problems["image"] = "missing"
        elif self.reads_images:
            images, passed_over = self._read_images(given, position, rng)
            if not images:
                problems["image"] = passed_over[0]
                if not self.has_placeholders:  # broken, and no sign of an offer without an image
                    return passed_over[0]
        if reason := self._unusable(problems):
            return reason
        if self.fields == "drawn" and title:
            title = draw_text(row_texts(row), (self.seed, position, _TEXT_DRAW))
        if self.title_augmentation is not None and title:
            title = self.title_augmentation(title, rng)
        catalog_id = row["catalog_id"]
        if catalog_id == NO_CATALOG and self.own_catalog_for_singles:
            catalog_id = stable_id(row["row_id"])
        vectors = {name: row[name] for name in self.frozen_widths}
        label = None if self.labels is None else self.labels.encode(row)
        modalities = {*self.modalities} - problems.keys()
        return ReadRow(row["row_id"], catalog_id, title, images, passed_over, vectors, modalities, label)

    def _read_images(
        self, given: Sequence[tuple[Any, float]], position: int, rng: np.random.Generator
    ) -> tuple[list[tuple[torch.Tensor, float]], list[str]]:
        """Returns all images of a row, or the first that can be read, and why those tried before it cannot."""
        if self.fields == "drawn":
            order = draw_order([weight for _, weight in given], (self.seed, position, _IMAGE_DRAW))
            given = [given[place] for place in order]
        images: list[tuple[torch.Tensor, float]] = []
        reasons = []
        for image, weight in given:
            try:
                images.append((self.images.read(image, rng), weight))
            except ProductImageError as error:
                reasons.append(error.reason)
            if images and self.fields != "all":
                break
        return images, reasons

    def _unusable(self, problems: dict[str, str]) -> str | None:
        """Returns why a row with these problems cannot be used, or `None` if it can."""
        found = [problems[modality] for modality in self.modalities if modality in problems]
        return found[0] if found and (self.needs_all_modalities or len(found) == len(self.modalities)) else None

    def placeholder_row(self) -> ReadRow:
        """Returns a row without a label, for a batch that would otherwise have none."""
        label = None if self.labels is None else self.labels.blank
        return ReadRow("", NO_CATALOG, "none", [], [], dict.fromkeys(self.frozen_widths), {*self.modalities}, label)

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
            of_rows = [row.images or [(self.images.blank(), 1.0)] for row in having["image"]]
            images = [image for of_row in of_rows for image, _ in of_row]
            stacked = self.images.stack(images or [self.images.blank()])
            inputs |= {name: value[: len(images)] for name, value in stacked.items()}
            if self.fields == "all":
                owners = [place for place, of_row in enumerate(of_rows) for _ in of_row]
                inputs["image_owners"] = torch.tensor(owners, dtype=torch.int64)
                inputs["image_weights"] = torch.tensor([weight for of_row in of_rows for _, weight in of_row])
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
