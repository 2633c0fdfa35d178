"""Several texts and images of one product: texts joined to one, and vectors of several averaged to one.

A product has a title and further texts: a description, a brand, attributes. As one text they are the title without a
name, then the others with theirs: `"Trail shoe | brand: Acme | description: Light, with a firm sole"`. A model that
was trained on such texts has the names of the fields in its processor (`processor.fields`). Of several images the
vectors are averaged, with the weights of their fields.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling_eclip import normalize
from ..processing_eclip import _loaded, is_missing, prepare_products

__all__ = [
    "FIELD_SEPARATOR",
    "are_several",
    "join_texts",
    "pool_vectors",
    "product_texts",
    "read_images",
    "read_offer",
    "read_row",
    "read_texts",
    "represent_several",
]

_COLUMNS = (("text", "title"), ("image", "image"))  # the one that a table has where nothing is said
_POOLING = ("joined", "mean")
_BETWEEN = ", "
FIELD_SEPARATOR = " | "
"""What stands between the texts of a product that are joined to one."""

_MISSING = ("<NA>", "NaT")  # how pandas writes its missing values, but for NaN


def join_texts(fields: Mapping[str, Any], title: str | None = None) -> str:
    """Join the texts of a product to one.

    Args:
        fields: Texts by the names of their fields: text, or a list of texts, which are joined by commas. Numbers
            become text; blank and missing ones are left out.
        title: Name of the field that comes first and without its name; the first field if not given.

    Returns:
        One text, empty where all are blank. A name is written with spaces for underscores.
    """
    title = next(iter(fields), None) if title is None else title
    ordered = sorted(fields, key=lambda name: name != title)  # the others stay in their order
    texts = {name: _BETWEEN.join(product_texts(fields[name])) for name in ordered}
    return FIELD_SEPARATOR.join(
        text if name == title else f"{name.replace('_', ' ')}: {text}" for name, text in texts.items() if text
    )


def product_texts(value: Any) -> list[str]:
    """Return the texts of one field that are not blank, as training reads them from a table.

    Args:
        value: Text, a number or a truth value; a list, a tuple or an array of them.

    Returns:
        The texts. What pandas has in place of a missing value is none, and 12.0 is `"12"`.

    Raises:
        ValueError: it is something else, such as bytes or a mapping.
    """
    if hasattr(value, "tolist"):  # an array, which cells with lists are that pandas read; or a number of numpy's
        value = value.tolist()
    values = value if isinstance(value, list | tuple) else [value]
    return [text for one in values if (text := _as_text(one))]


def _as_text(value: Any) -> str:
    if hasattr(value, "item"):  # a number of numpy's in a list
        value = value.item()
    if isinstance(value, Collection) and not isinstance(value, str):
        raise ValueError(f"a text of a product is {value!r:.100}; give text, a number, or a list of them.")
    if is_missing(value) or (not isinstance(value, str) and str(value) in _MISSING):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def read_texts(
    products: Sequence[Any], fields: Mapping[str, float] | None = None, pooling: str = "joined"
) -> tuple[list[Any], list[int], list[float]]:
    """Read the texts of products that are embedded.

    Args:
        products: A title each, or a mapping of fields to their texts.
        fields: Those that the model was trained with and their weights, from `processor.fields`: they come first in
            the joined text, in this order.
        pooling: `"joined"`, or `"mean"` for the texts one by one.

    Returns:
        The texts, which product each is of, and how much it counts there. The texts of one field share its weight,
        which is 1 where `fields` does not name it.

    Raises:
        ValueError: `pooling` is neither.
    """
    if pooling not in _POOLING:
        raise ValueError(f"`field_pooling` is {pooling!r}; give one of {', '.join(map(repr, _POOLING))}.")
    trained = [name for name in fields or {} if name != "joined"]
    texts: list[Any] = []
    owners, weights = [], []
    for place, product in enumerate(products):
        found: list[tuple[Any, float]] = [(product, 1.0)]
        if isinstance(product, Mapping):
            ordered = {name: product[name] for name in (*trained, *product) if name in product}
            found = [(join_texts(ordered, title=trained[0] if trained else None), 1.0)]
            if pooling == "mean":
                cells = {name: product_texts(value) for name, value in ordered.items()}
                shares = {name: (fields or {}).get(name, 1.0) / max(len(cell), 1) for name, cell in cells.items()}
                alone = [(text, shares[name]) for name, cell in cells.items() for text in cell if shares[name] > 0]
                found = alone or found
        texts += [text for text, _ in found]
        owners += [place] * len(found)
        weights += [weight for _, weight in found]
    return texts, owners, weights


def are_several(images: Any) -> bool:
    """Tell a product's list of images, which pandas reads as an array of objects, from one image."""
    return isinstance(images, list | tuple) or getattr(getattr(images, "dtype", None), "kind", "") == "O"


def read_images(image: Any, fields: Mapping[str, float] | None = None) -> Any:
    """Read the images of a product.

    Args:
        image: An image, a list of images, or a mapping of fields to an image or a list each.
        fields: Weights of the fields that the model was trained with, from `processor.fields`.

    Returns:
        One image as it is, `None` for none; of several, a list of pairs of one and its weight. The images of one field
        share its weight, which is 1 where `fields` does not name it; those of weight 0 are left out beside others.
    """
    if are_several(image):
        image = {"": image}
    elif not isinstance(image, Mapping) or image.keys() <= {"bytes", "path"}:
        return image
    found: list[tuple[Any, float]] = []
    for name, value in image.items():
        cell = [one for one in (value if are_several(value) else [value]) if not is_missing(one)]
        found += [(one, (fields or {}).get(name, 1.0) / len(cell)) for one in cell]
    found = [pair for pair in found if pair[1] > 0] or [(one, 1.0) for one, _ in found]
    return found if len(found) > 1 else found[0][0] if found else None


def read_row(
    row: Mapping[str, Any], fields: Mapping[str, Any] | None = None, folder: str | os.PathLike = ""
) -> dict[str, Any]:
    """Read the texts and images of a product from a row of a table.

    Args:
        row: The row.
        fields: Pairs of a column and its weight as `"text"` and `"image"`, as `processor.fields` has them; the columns
            `title` and `image` where it has none.
        folder: What paths of images are relative to.

    Returns:
        `texts` and `images`, lists by column, as [`embed_products`] takes them; `title` and `image`, the first of
        each, which is what people are shown, `None` where there is none.
    """
    columns = {kind: [name for name, _ in (fields or {}).get(kind) or [(one, 1.0)]] for kind, one in _COLUMNS}
    texts = {name: product_texts(row.get(name)) for name in columns["text"]}
    images: dict[str, list[Any]] = {}
    for name in columns["image"]:
        cell: Any = row.get(name)
        given = cell if are_several(cell) else [cell]
        there = [one for one in given if not is_missing(one) and not (isinstance(one, str) and not one.strip())]
        images[name] = [Path(folder) / one if isinstance(one, str) else one for one in there]
    first = [next((one for cell in of_kind.values() for one in cell), None) for of_kind in (texts, images)]
    return {"texts": texts, "images": images, "title": first[0], "image": first[1]}


def read_offer(title: Any, image: Any, fields: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """Read a product with several texts or images, as heads take it.

    Args:
        title: A title, `None`, or a mapping of fields to texts.
        image: As for [`read_images`].
        fields: `processor.fields`.

    Returns:
        One text, and what [`read_images`] returns.
    """
    weights = {kind: dict(pairs) for kind, pairs in (fields or {}).items()}
    (title,), _, _ = read_texts([title], weights.get("text"))
    return title, read_images(image, weights.get("image"))


@torch.no_grad()
def represent_several(head: Any, processor: Any, batch: Sequence[tuple[str | None, Any]]) -> Any:
    """Represent products some of which have several images, whose vectors are averaged before the head sees them.

    Args:
        head: The head.
        processor: Its `EClipProcessor`.
        batch: `B` titles and images, as `read_product` returns them.

    Returns:
        The products, as `head.represent_batch` returns them.

    Raises:
        ProductImageError: an image cannot be used; the message starts with its product and its place there.
    """

    def encode(products: Sequence[tuple[str | None, Any]]) -> dict[str, torch.Tensor]:
        inputs = prepare_products(processor, products, head.config.modality)
        return head.eclip.encode_products({name: value.to(head.device) for name, value in inputs.items()})

    encoded = encode([(title, None) for title, _ in batch])
    if head.config.modality != "text":
        images, owners, weights = [], [], []
        for place, (_, image) in enumerate(batch):
            several = image if isinstance(image, list) else [] if image is None else [(image, 1.0)]
            for number, (one, weight) in enumerate(several):
                of_several = f"[{number}]" if isinstance(image, list) else ""
                images.append((None, _loaded(one, f"products[{place}]{of_several}")))
                owners.append(place)
                weights.append(weight)
        vectors = encode(images)["image_pooler_output"]
        pooled = pool_vectors(vectors, torch.tensor(owners), torch.tensor(weights), len(batch))
        encoded["image_pooler_output"] = pooled.to(vectors.dtype)
        encoded["has_image"] = torch.tensor([place in owners for place in range(len(batch))], device=head.device)
    return head.represent(**encoded)


def pool_vectors(
    vectors: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor, num_products: int
) -> torch.Tensor:
    """Average the vectors of each product, as far as they point, by weights.

    Args:
        vectors: Vectors of any length, shape `(V, D)`; each counts by its direction.
        owners: Which product each is of, int64, shape `(V,)`.
        weights: How much each counts among those of its product, shape `(V,)`.
        num_products: Number of products `N`.

    Returns:
        Vectors of unit length, float32, shape `(N, D)`; zero for a product without any.
    """
    vectors = vectors.float()
    weighted = normalize(vectors) * weights.to(vectors).unsqueeze(1)
    sums = vectors.new_zeros(num_products, vectors.shape[1])
    return normalize(sums.index_add_(0, owners.to(vectors.device), weighted))
