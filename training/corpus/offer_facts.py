"""The facts of one offer, by which it is judged and compared: its clean title, and what its image shows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from training.arguments.prepare import ImageLimits
from training.corpus.image_facts import examine_image
from training.corpus.sandbox import at_most
from training.corpus.title_rules import TitleRule, clean_title, title_key
from training.data.ids import word_of
from training.data.time_limit import IMAGE_SECONDS

__all__ = ["FACTS", "RawOffer", "describe_offers"]

_LONGEST_TITLE = 10_000  # characters; longer texts are cut, since cleaning them takes too long

FACTS = pa.struct(
    [
        ("reason", pa.large_string()),
        ("title", pa.large_string()),
        ("title_key", pa.large_string()),
        ("title_rules", pa.large_list(pa.large_string())),
        ("content", pa.large_string()),
        ("catalog_id", pa.int64()),
        ("category", pa.large_string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_hash", pa.large_string()),
        ("thumbnail", pa.large_binary()),
        ("colours", pa.large_binary()),
    ]
)
"""Names and types of an offer's facts."""


@dataclass(frozen=True)
class RawOffer:
    """An offer as it was read.

    Args:
        title: The title.
        image: The encoded image; `None` where it is missing.
        image_reason: Reason why the image is missing, where it is known.
        others: Values of all other columns.
        catalog_id: The given catalog id.
        category: The category: text, or a list of levels.
    """

    title: str | None
    image: bytes | None
    image_reason: str | None
    others: dict[str, Any]
    catalog_id: int
    category: Any

    def with_unreadable_image(self) -> "RawOffer":
        """Return the offer without its image, marked as unreadable."""
        return replace(self, image=None, image_reason="image_unreadable")


def describe_offers(offers: Sequence[RawOffer], rules: Sequence[TitleRule], limits: ImageLimits) -> pa.Array:
    """Compute the facts of offers.

    Args:
        offers: The offers.
        rules: Rules that clean titles.
        limits: Limits of images.

    Returns:
        `FACTS` of each offer, in order. `reason` tells why the offer is dropped; it is null if the offer stays.
    """
    return pa.array([_describe(offer, rules, limits) for offer in offers], FACTS)


def _describe(offer: RawOffer, rules: Sequence[TitleRule], limits: ImageLimits) -> dict[str, Any]:
    cleaned = clean_title((offer.title or "")[:_LONGEST_TITLE], rules)
    with at_most(IMAGE_SECONDS):
        facts = examine_image(offer.image, limits)
    reason = offer.image_reason or facts.reason
    described = repr((offer.title, offer.catalog_id, offer.others)).encode("utf-8", "surrogatepass")
    content = hashlib.blake2b(described + b"\0", digest_size=16)
    content.update(offer.image or b"")
    category = offer.category
    if isinstance(category, dict):
        category = str(category)
    if isinstance(category, list):
        category = " > ".join(word for level in category if (word := word_of(level, "category_column")) is not None)
    return {
        "reason": reason if cleaned.title else "empty_title",
        "title": cleaned.title,
        "title_key": title_key(cleaned.title),
        "title_rules": list(cleaned.changed_by),
        "content": content.hexdigest(),
        "catalog_id": offer.catalog_id,
        "category": word_of(category, "category_column"),
        "width": facts.width,
        "height": facts.height,
        "pixel_hash": None if facts.pixel_hash is None else facts.pixel_hash.hex(),
        "thumbnail": None if facts.thumbnail is None else facts.thumbnail.tobytes(),
        "colours": None if facts.colours is None else facts.colours.tobytes(),
    }
