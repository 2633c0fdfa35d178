"""Several texts and images of one offer: how they lie in a table, how one is drawn, how all are taken.

A table of offers with several texts has, beside `title`, which is all of them as one text, the column `TEXTS`: a list
of texts with weights, the joined one last. A table with several images has `IMAGE_WEIGHTS`, a weight for each column
that was named, and `images_column(0)`, `images_column(1)`, ... with lists of their images; images of a first column
that holds no lists are in `image`. A weight is that of a column: texts and images of one cell share it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from modeling_eclip.inference.fields import join_texts

__all__ = [
    "FIELD_FEATURES",
    "IMAGE_WEIGHTS",
    "TEXTS",
    "as_lists",
    "draw_order",
    "draw_text",
    "field_columns",
    "first_image",
    "images_column",
    "is_absent",
    "row_images",
    "row_texts",
    "weighted_texts",
]

_PREFIX = "fields:"  # which no user's column has by chance
TEXTS, IMAGE_WEIGHTS = f"{_PREFIX}texts", f"{_PREFIX}image_weights"
_IMAGES = f"{_PREFIX}images:"
FIELD_FEATURES: dict[str, Any] = {
    TEXTS: datasets.List({"text": datasets.Value("string"), "weight": datasets.Value("float64")}),
    IMAGE_WEIGHTS: datasets.List(datasets.Value("float64")),
    _IMAGES: datasets.List(datasets.Image(decode=False)),
}
"""Types of the columns; that of lists of images under the start of their names."""


def images_column(number: int) -> str:
    """Returns the name of the column with the images of a named column, which are counted from 0."""
    return f"{_IMAGES}{number}"


def field_columns(names: Iterable[str], modality: str | None = None) -> list[str]:
    """Lists the columns of fields among some, or those of one modality."""
    of = {"text": TEXTS, "image": f"{_PREFIX}image"}.get(modality or "", _PREFIX)
    return [name for name in names if name.startswith(of)]


def weighted_texts(names: Sequence[str], cells: Sequence[Sequence[str]], weights: Mapping[str, float],
                   joined: float) -> list[dict[str, Any]]:  # fmt: skip
    """Returns the texts of one offer, blank ones left out.

    Args:
        names: Names of the fields, the title first.
        cells: Texts of each.
        weights: How often each field is drawn, or how much it counts; its texts share its weight.
        joined: That of all fields as one text.

    Returns:
        `{"text", "weight"}` of each text, and last of the joined one; nothing where all are blank.
    """
    found: list[dict[str, Any]] = []
    kept = {name: [text.strip() for text in cell if text.strip()] for name, cell in zip(names, cells, strict=True)}
    for name, texts in kept.items():
        found += [{"text": text, "weight": weights[name] / len(texts)} for text in texts]
    return [*found, {"text": join_texts(kept, title=names[0]), "weight": joined}] if found else []


def row_texts(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Returns the texts of an offer and their weights, the joined one last; its title alone if it has one text."""
    if texts := row.get(TEXTS):
        return [(one["text"], one["weight"]) for one in texts]
    title = (row.get("title") or "").strip()
    return [(title, 1.0)] if title else []


def row_images(row: Mapping[str, Any]) -> list[tuple[Any, float]]:
    """Returns the images of an offer that are there, and their weights, in the order of the columns."""
    weights = row.get(IMAGE_WEIGHTS) or [1.0]
    found: list[tuple[Any, float]] = []
    for number, weight in enumerate(weights):
        of_column = [row["image"]] if number == 0 else []
        of_column = [one for one in [*of_column, *(row.get(images_column(number)) or [])] if not is_absent(one)]
        found += [(one, weight / len(of_column)) for one in of_column]
    return found


def first_image(row: Mapping[str, Any]) -> Any:
    """Returns the image of an offer that is shown; `None` if it has none."""
    return next((image for image, _ in row_images(row)), None)


def draw_order(weights: Sequence[float], seed: Sequence[int]) -> list[int]:
    """Draws places in turn, by weights, each once: the first is what is used, the next ones stand in for it.

    Args:
        weights: A weight for each place; those of weight 0 come last.
        seed: Whole numbers that decide the draw.

    Returns:
        The places in the order drawn.
    """
    if len(weights) == 1:
        return [0]
    # The first of independent exponential waiting times is each one's in proportion to its rate, and so on.
    waits = np.random.default_rng(seed).exponential(size=len(weights))
    given = np.asarray(weights, dtype=np.float64)
    return np.argsort(np.where(given > 0, waits / np.where(given > 0, given, 1), np.inf), kind="stable").tolist()


def draw_text(texts: Sequence[tuple[str, float]], seed: Sequence[int]) -> str:
    """Draws one of the texts that `row_texts` returned; the joined one where none has a weight above 0."""
    weights = [weight for _, weight in texts]
    return texts[draw_order(weights, seed)[0] if any(weights) else -1][0]


def is_absent(image: Any) -> bool:
    """Tells whether a cell holds no image: no bytes, no path."""
    return image is None or (isinstance(image, Mapping) and image.get("bytes") is None and not image.get("path"))


def as_lists(images: pa.Array) -> pa.Array:
    """Returns a list of one image for each image, without a copy of its bytes."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(images) + 1, dtype=np.int32)), images)
