"""Rows of products to one batch: what can be used is read and augmented, and what cannot is listed with its reason.

A batch is a dictionary of

- what the processor returns: `input_ids` `(N, L)`, `attention_mask` `(N, L)`, `pixel_values` `(N, C, H, W)`, ...;
- in place of a frozen tower's inputs, where the rows hold them, its vectors: `image_pooler_output` and
  `text_pooler_output`, float32 `(N, width)`;
- `catalog_ids`: int64 `(N,)`;
- `row_ids` and `titles`: lists of `N` strings;
- `skipped`: list of `(row_id, reason)`;
- `num_rows`: planned rows, `N + len(skipped)`.

`N` is 0 where nothing of a rank's share is usable. The rank must answer its peers all the same, and not every tower
takes a batch of no rows: the model's inputs then hold one stand-in row, so take the first `N` embeddings only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling_eclip.images_eclip import ProductImageError
from training.augmentation import ProductAugmentation, TitleAugmentation
from training.pictures import PictureReader
from training.product_ids import NO_CATALOG, stable_id

__all__ = ["FROZEN_COLUMNS", "ProductCollator"]

FROZEN_COLUMNS = ("image_pooler_output", "text_pooler_output")
"""Columns with the vectors of a frozen tower, which take the place of its inputs."""


class ProductCollator:
    """Turns rows of canonical columns into one batch.

    Args:
        processor: Called as `processor(text=titles, return_tensors="pt")`; its `image_processor` is called as
            `PictureReader` does.
        augmentation: Applied to every picture; none in evaluation.
        title_augmentation: Applied to every title; none in evaluation.
        seed: Seed of the augmentation, joined with a row's position.
        own_catalog_for_singles: Gives a row without a catalog a catalog id of its own, a hash of its row id, so that
            a product that meets itself in a batch is its own mate and not a negative. Otherwise its id stays -1.
        frozen_widths: Number of values in each of the `FROZEN_COLUMNS` that the rows hold. Of a row with an
            `image_pooler_output`, the `image` is not read.
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
    ) -> None:
        """Keeps the arguments."""
        self.processor = processor
        self.title_augmentation = title_augmentation
        self.seed = seed
        self.own_catalog_for_singles = own_catalog_for_singles
        self.frozen_widths = dict(frozen_widths or {})
        self.pictures = PictureReader(processor, augmentation)

    def __call__(self, rows: Sequence[Mapping[str, Any]], positions: Sequence[int]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: Rows with `title`, `image`, `catalog_id` and `row_id`, and with the frozen columns.
            positions: Position of each row in the run.

        Returns:
            The batch, as the module describes it.
        """
        titles, pictures, catalog_ids, row_ids, skipped = [], [], [], [], []
        vectors: dict[str, list[Any]] = {name: [] for name in self.frozen_widths}
        for row, position in zip(rows, positions, strict=True):
            title = (row["title"] or "").strip()
            if not title:
                skipped.append((row["row_id"], "empty_title"))
                continue
            if any(row[name] is None for name in vectors):
                skipped.append((row["row_id"], "missing"))
                continue
            rng = np.random.default_rng((self.seed, position))
            if "image_pooler_output" not in vectors:
                try:
                    pictures.append(self.pictures.read(row["image"], rng))
                except ProductImageError as error:
                    skipped.append((row["row_id"], error.reason))
                    continue
            if self.title_augmentation is not None:
                title = self.title_augmentation(title, rng)
            catalog_id = row["catalog_id"]
            if catalog_id == NO_CATALOG and self.own_catalog_for_singles:
                catalog_id = stable_id(row["row_id"])
            for name in vectors:
                vectors[name].append(row[name])
            titles.append(title)
            catalog_ids.append(catalog_id)
            row_ids.append(row["row_id"])
        return {
            **self._inputs(titles, pictures, vectors),
            "catalog_ids": torch.tensor(catalog_ids, dtype=torch.int64),
            "row_ids": row_ids,
            "titles": titles,
            "skipped": skipped,
            "num_rows": len(rows),
        }

    def _inputs(self, titles: list[str], pictures: list[Any], vectors: dict[str, list[Any]]) -> dict[str, Any]:
        """The model's inputs; where there is no row, those of a stand-in, with the shapes that real ones have."""
        if not titles:
            titles, pictures = ["none"], [self.pictures.blank()]
            vectors = {name: [[0.0] * width] for name, width in self.frozen_widths.items()}
        inputs: dict[str, Any] = {}
        if "text_pooler_output" not in vectors:
            inputs |= self.processor(text=titles, return_tensors="pt")
        if "image_pooler_output" not in vectors:
            inputs |= self.pictures.batch(pictures)
        return inputs | {name: torch.tensor(values, dtype=torch.float32) for name, values in vectors.items()}
