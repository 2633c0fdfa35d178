"""Several texts and images of one product: texts joined to one, and vectors of several averaged to one.

A product has a title and further texts: a description, a brand, attributes. As one text they are the title without a
name, then the others with theirs: `"Trail shoe | brand: Acme | description: Light, with a firm sole"`. A model that
was trained on such texts has the names of the fields in its processor (`processor.fields`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ..modeling_eclip import normalize
from ..processing_eclip import is_missing

__all__ = ["join_texts", "pool_vectors", "product_texts", "read_texts"]

_POOLING = ("joined", "mean")
_SEPARATOR, _BETWEEN = " | ", ", "
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
    return _SEPARATOR.join(
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
    texts = map(_as_text, value) if isinstance(value, list | tuple) else [_as_text(value)]
    return [text for text in texts if text]


def _as_text(value: Any) -> str:
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
