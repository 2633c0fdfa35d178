"""Offers of generated products, as a dataset: the default data, made instead of downloaded.

Contract: offers come out like a marketplace's own, one row per offer with title, JPEG image, catalog (the product,
where several sellers offer it), category path, attributes, brand, seller and whether it is restricted to adults. The
seed alone decides them, on any platform and in any process; the bytes of the images are the same wherever Pillow's
JPEG encoder is. Splits are by product: no product's offers cross them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import datasets

from .drawing import draw_product
from .products import KINDS, generate_products
from .sellers import MARKETPLACE, brand_listing, take_photograph, write_title

__all__ = ["FEATURES", "generate_offers", "toy_catalog"]

FEATURES = datasets.Features(
    {
        "offer_id": datasets.Value("int64"),
        "title": datasets.Value("string"),
        "image": datasets.Image(),
        "catalog_id": datasets.Value("int64"),
        "category": datasets.List(datasets.Value("string")),
        "colour": datasets.Value("string"),
        "pattern": datasets.Value("string"),
        "brand": datasets.Value("string"),
        "seller": datasets.Value("string"),
        "restricted": datasets.Value("bool"),
    }
)

_MIN_IMAGE_SIZE = 32


def generate_offers(num_offers: int = 4000, *, seed: int = 0, image_size: int = 96) -> Iterator[dict[str, Any]]:
    """Generate offers, product by product.

    A third of the products has one seller and no catalog; the others have two to five, the product's brand first.

    Args:
        num_offers: How many rows.
        seed: Decides every row.
        image_size: Side of the square images in pixels.

    Yields:
        Rows with the columns of `FEATURES`; `image` is `{"bytes": ..., "path": None}`.

    Raises:
        ValueError: If `num_offers` is less than 1 or `image_size` less than 32.
    """
    if num_offers < 1:
        raise ValueError(f"num_offers={num_offers} is too few; ask for 1 or more.")
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size={image_size} is too small to be recognised; use {_MIN_IMAGE_SIZE} or more.")
    offer_id = 0
    for product in generate_products(seed):
        # One random state a product: the first products stay the same whatever follows.
        rng = random.Random(f"toy offers {seed} {product.number}")
        count = min(rng.choices((1, 2, 3, 4, 5), (34, 26, 20, 12, 8))[0], num_offers - offer_id)
        sellers = rng.sample(MARKETPLACE, count)
        if count > 1 or rng.random() < 0.25:
            sellers[0] = brand_listing(product)
        kind = KINDS[product.kind]
        # Drawn at twice the size and shrunk, for smooth edges.
        drawing = draw_product(product.kind, product.colour, product.pattern, 2 * image_size)
        for seller in sellers:
            yield {
                "offer_id": offer_id,
                "title": write_title(product, seller, rng),
                "image": {"bytes": take_photograph(drawing, product, seller, rng, image_size), "path": None},
                "catalog_id": product.number if count > 1 else None,
                "category": list(kind.category),
                "colour": product.colour,
                "pattern": product.pattern,
                "brand": product.brand,
                "seller": seller.name,
                "restricted": kind.restricted,
            }
            offer_id += 1
        if offer_id >= num_offers:
            return


def _split_of(row: Mapping[str, Any]) -> str:
    """Assign a product to a split by hash, about 80 / 10 / 10; an offer without catalog is a product of its own."""
    product = f"offer {row['offer_id']}" if row["catalog_id"] is None else f"catalog {row['catalog_id']}"
    share = int.from_bytes(hashlib.blake2b(product.encode(), digest_size=8).digest(), "big") / 2**64
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def toy_catalog(num_offers: int = 4000, *, seed: int = 0, image_size: int = 96) -> datasets.DatasetDict:
    """Make generated offers as a dataset with the splits `train`, `validation` and `test`.

    Args:
        num_offers: How many rows in all splits together.
        seed: Decides every row.
        image_size: Side of the square images in pixels.

    Returns:
        The splits, held in memory, with the columns of `FEATURES`.

    Raises:
        ValueError: If `num_offers` is less than 1 or `image_size` less than 32.
    """
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for row in generate_offers(num_offers, seed=seed, image_size=image_size):
        splits[_split_of(row)].append(row)
    return datasets.DatasetDict(
        {
            # By columns and not from_list, which refuses an empty split.
            name: datasets.Dataset.from_dict({key: [row[key] for row in rows] for key in FEATURES}, features=FEATURES)
            for name, rows in splits.items()
        }
    )
