"""Products as a head sees them, embedded once: what linear probes learn from, and what validation judges.

`represent` embeds them, `answer` lets the head answer from there.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from modeling_eclip import EClipProcessor, MatchingOutput, ProductEmbeds
from modeling_eclip.fitting.lexical import trim_lexical
from modeling_eclip.fusion_eclip import select_products
from modeling_eclip.inference.fields import pool_vectors
from modeling_eclip.modeling_eclip import IMAGE_INPUTS
from modeling_eclip.representation_eclip import EClipTaskModel
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.data.row_places import RowFiles, row_files
from training.data.skipped_rows import SkipCounter
from training.retrieval.offer_embeddings import encode_all, share_of
from training.tasks.labels import TaskLabels

__all__ = ["Represented", "answer", "on_device", "read_rows", "represent"]

logger = logging.getLogger(__name__)

_FIELDS = ("text", "image", "has_text", "has_image", "lexical")
_PAIRS_AT_ONCE = 4096


@dataclass
class Represented:
    """`N` products, or pairs of products, as a head sees them, on the CPU.

    Args:
        embeds: The products; of pairs, the first of each.
        labels: Their labels, shape `(N,)` or `(N, attributes)`.
        row_ids: Id of each row.
        rows: Its place in the table, or the pair's among the pairs, int64, shape `(N,)`.
        titles: Title of each product; of pairs, both.
        right: Of pairs, the second of each.
        label_table: Of products whose labels were read, the columns of the labels of the whole table.
        skips: Counts the products that could not be used; of pairs, the pairs.
    """

    embeds: ProductEmbeds
    labels: torch.Tensor
    row_ids: list[str]
    rows: np.ndarray
    titles: list[str]
    right: ProductEmbeds | None = None
    label_table: Products | None = None
    skips: SkipCounter = field(default_factory=SkipCounter)

    @cached_property
    def label_rows(self) -> list[dict[str, Any]]:
        """The columns of the labels of each row: read when first asked for, since only measuring asks."""
        return [] if self.label_table is None else read_rows(self.label_table, self.rows)


def read_rows(table: Products, rows: np.ndarray) -> list[dict[str, Any]]:
    """Read some rows of a table.

    Args:
        table: The products, with the columns that are read.
        rows: Places in the table, int64, shape `(N,)`.

    Returns:
        The rows in the order asked for.
    """
    read = list(table)
    return [read[row] for row in rows.tolist()]


def represent(
    head: EClipTaskModel,
    products: Products | ProductPairs,
    processor: EClipProcessor,
    accelerator: Accelerator,
    *,
    labels: TaskLabels | None = None,
    batch_size: int | None,
    num_workers: int = 0,
    description: str = "embedding",
) -> Represented:
    """Embed products as a head sees them; of pairs each product once. All ranks call this together.

    Args:
        head: The head, not wrapped for distributed training.
        products: Products, or pairs of them.
        processor: Turns titles and images into inputs.
        accelerator: The process's accelerator.
        labels: Reads the labels; not of pairs, which have theirs.
        batch_size: Products embedded at a time, as for [`share_of`].
        num_workers: Processes that decode images.
        description: What the progress bar says.

    Returns:
        The usable products, in the order of the rows; or the pairs whose products are both usable.
    """
    table: Any = products
    places = np.empty(0, dtype=np.int64)
    if isinstance(products, ProductPairs):
        places = np.unique(np.concatenate([products.left, products.right]))
        table = products.products.select(places)
    head.to(accelerator.device)
    loader = share_of(
        accelerator,
        table,
        processor,
        batch_size=batch_size,
        modality=head.config.modality,
        labels=labels,
        num_workers=num_workers,
        all_images=True,
    )

    def encode(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        given: dict[str, Any] = dict(inputs)
        read = given.pop("labels", None)
        owners, weights = given.pop("image_owners", None), given.pop("image_weights", None)
        if owners is not None:  # a head sees the image tower's vectors of a product's images as one
            names = [name for name in (*IMAGE_INPUTS, "interpolate_pos_encoding") if name in given]
            vectors = head.eclip.encode_image(**{name: given.pop(name) for name in names}).pooler_output
            given["image_pooler_output"] = pool_vectors(vectors, owners, weights, int(owners.max()) + 1)
        embeds = head.represent(**given)
        return {"labels": read, **{name: getattr(embeds, name) for name in _FIELDS}}

    skips = _Reasons(row_files(products))
    columns = encode_all(head, encode, loader, accelerator, skips, description=description)
    lost = _lost_pairs(products, skips) if isinstance(products, ProductPairs) else skips
    if lost.num_skipped and accelerator.is_main_process:
        logger.warning("%s: %s", description, lost.report())
    if "lexical" in columns:
        columns["lexical"] = trim_lexical(columns["lexical"]).contiguous()
    names = [name for name in _FIELDS if name in columns]
    row_ids, titles = columns["row_ids"], columns["titles"]
    rows = np.asarray(columns["positions"], dtype=np.int64)
    if not isinstance(products, ProductPairs):
        embeds = ProductEmbeds(**{name: columns[name] for name in names})
        numbers = columns.get("labels", columns["catalog_ids"])
        label_table = products.select_columns(labels.columns) if labels is not None else None
        return Represented(embeds, numbers, row_ids, rows, titles, label_table=label_table, skips=lost)

    # Which place in `columns` each row of the table has; -1 for one that could not be used.
    place_of = np.full(len(products.products), -1)
    place_of[places[rows]] = np.arange(len(rows))
    left, right = place_of[products.left], place_of[products.right]
    whole = (left >= 0) & (right >= 0)
    left, right = left[whole], right[whole]
    return Represented(
        ProductEmbeds(**{name: columns[name][left] for name in names}),
        torch.from_numpy(products.labels[whole]),
        [f"{row_ids[one]} | {row_ids[other]}" for one, other in zip(left, right, strict=True)],
        np.flatnonzero(whole),
        [f"{titles[one]} | {titles[other]}" for one, other in zip(left, right, strict=True)],
        ProductEmbeds(**{name: columns[name][right] for name in names}),
        skips=lost,
    )


class _Reasons(SkipCounter):
    """Counts rows that could not be used, and remembers the reason of each."""

    def __init__(self, files: Sequence[RowFiles]) -> None:
        super().__init__(files)
        self.reason_of: dict[str, str] = {}

    def add(self, batch: Mapping[str, Any]) -> None:
        super().add(batch)
        self.reason_of |= dict(batch["skipped"])


def _lost_pairs(pairs: ProductPairs, products: _Reasons) -> SkipCounter:
    """Count the pairs of which a product could not be used, by its reason, as batches of pairs count them."""
    lost = SkipCounter(pairs.row_files)
    lost.passed_over = products.passed_over
    reason_of, skipped = products.reason_of, []
    if reason_of:
        row_ids = pairs.products["row_id"][:]
        for sides in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            unusable = [row_ids[row] for row in sides if row_ids[row] in reason_of]
            skipped += [(row_id, reason_of[row_id]) for row_id in unusable[:1]]
    lost.add({"num_rows": len(pairs), "skipped": skipped})
    return lost


@torch.no_grad()
def answer(head: Any, rows: Represented) -> Any:
    """Return a head's output for rows that are represented already, on the CPU; of pairs the logits alone."""
    was_training = head.training
    head.eval()
    if rows.right is None:
        output = on_device("cpu", head.answer(on_device(head.device, rows.embeds)))
    else:
        logits = [
            head.answer(
                on_device(head.device, select_products(rows.embeds, block)),
                right=on_device(head.device, select_products(rows.right, block)),
            ).logits.cpu()
            for block in torch.arange(len(rows.row_ids)).split(_PAIRS_AT_ONCE)
        ]
        output = MatchingOutput(logits=torch.cat(logits))
    head.train(was_training)
    return output


def on_device(device: torch.device | str, value: Any) -> Any:
    """Bring a tensor, or all tensors of a dictionary or an output, to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(**{name: on_device(device, part) for name, part in value.items()})
