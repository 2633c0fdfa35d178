"""The generated products: kinds in a category tree, attributes, invented brands and models.

Contract: `generate_products(seed)` yields one product after another without end, the same ones for the same seed
on any platform and with any `PYTHONHASHSEED`. Kinds take turns, so that all are equally common; one product in
`RESTRICTED_EVERY` is of a sensitive kind. Within a kind no look (colour and pattern) comes back before all 60 have
been used. Some models come in several colours or patterns: these are different products whose titles share almost
every word.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .pen import COLOURS, PATTERNS

__all__ = ["BRANDS", "KINDS", "RESTRICTED_EVERY", "Kind", "Product", "generate_products"]

RESTRICTED_EVERY = 33

BRANDS = (
    "Arkadi", "Bramlow", "Cindra", "Dovetta", "Elmund", "Fjorna", "Galvex", "Hestrel", "Ivorin", "Jarpell",
    "Kolvana", "Lirenza", "Mordale", "Norvelle", "Ostrika", "Pellaro", "Quenvil", "Rundovo", "Solvik", "Tamberly",
)  # fmt: skip
_MODELS = (
    "Aria", "Breeze", "Comet", "Drift", "Echo", "Fable", "Glow", "Harbor", "Indra", "Juno", "Koi", "Luma",
    "Mistral", "Nova", "Onda", "Pixel", "Quill", "Ripple", "Sierra", "Tango", "Umbra", "Vela", "Willow", "Zen",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A leaf of the category tree.

    Attributes:
        category: Path in the tree, root first; its last level is the kind's own name.
        names: What sellers call it.
        materials: What it can be made of.
        extras: Further words that sellers add.
    """

    category: tuple[str, str, str]
    names: tuple[str, ...]
    materials: tuple[str, ...]
    extras: tuple[str, ...]

    @property
    def restricted(self) -> bool:
        """Whether products of this kind may be shown to adults only."""
        return self.category[0] == "Adult"


_WEAR = ("women", "men", "unisex", "size M", "size L", "slim fit", "casual", "2024 new")
_KIDS = ("kids", "gift", "boys girls", "age 3+")
_SHOES = ("women", "men", "EU 38", "EU 41", "comfort", "casual")
_HOME = ("home", "gift", "modern", "living room", "nordic")
_KITCHEN = ("350 ml", "1 L", "kitchen", "gift", "dishwasher safe")
_CARRY = ("large", "small", "travel", "school", "daily", "unisex")
_NIGHT = ("women", "romantic", "gift", "size M")
_TECH = ("bluetooth", "wireless", "5G", "slim", "waterproof", "new version")

KINDS: dict[str, Kind] = {
    path[-1]: Kind(path, names, materials, extras)
    for path, names, materials, extras in (
        (("Fashion", "Tops", "T-Shirt"), ("t-shirt", "tee", "short sleeve top"), ("cotton", "jersey"), _WEAR),
        (("Fashion", "Tops", "Hoodie"), ("hoodie", "hooded sweatshirt", "hoody"), ("fleece", "cotton"), _WEAR),
        (("Fashion", "Bottoms", "Trousers"), ("trousers", "pants", "slacks"), ("linen", "cotton"), _WEAR),
        (("Fashion", "Bottoms", "Skirt"), ("skirt", "a-line skirt", "midi skirt"), ("cotton", "wool"), _WEAR[3:]),
        (("Fashion", "Dresses", "Dress"), ("dress", "one-piece", "summer dress"), ("chiffon", "linen"), _WEAR[3:]),
        (("Fashion", "Swimwear", "Bikini"), ("bikini", "two-piece swimsuit", "swimwear"), ("nylon",), _WEAR[3:]),
        (("Footwear", "Shoes", "Sneakers"), ("sneakers", "trainers", "running shoes"), ("mesh", "canvas"), _SHOES),
        (("Footwear", "Shoes", "High Heels"), ("high heels", "pumps", "stilettos"), ("suede", "satin"), _SHOES[2:5]),
        (("Footwear", "Boots", "Rain Boots"), ("rain boots", "wellies", "rubber boots"), ("rubber",), _SHOES),
        (("Accessories", "Bags", "Backpack"), ("backpack", "rucksack", "school bag"), ("nylon", "canvas"), _CARRY),
        (("Accessories", "Bags", "Tote Bag"), ("tote bag", "shopper", "shoulder bag"), ("canvas", "jute"), _CARRY),
        (("Accessories", "Headwear", "Cap"), ("cap", "baseball cap", "sun hat"), ("cotton", "twill"), _WEAR[:3]),
        (("Accessories", "Headwear", "Beanie"), ("beanie", "knit hat", "bobble hat"), ("wool", "acrylic"), _WEAR[:3]),
        (("Accessories", "Legwear", "Socks"), ("socks", "crew socks", "ankle socks"), ("cotton", "wool"), _WEAR[:3]),
        (("Accessories", "Rainwear", "Umbrella"), ("umbrella", "parasol", "brolly"), ("nylon",), _CARRY[:3]),
        (("Home", "Kitchen", "Mug"), ("mug", "coffee cup", "tea cup"), ("ceramic", "porcelain"), _KITCHEN),
        (("Home", "Kitchen", "Teapot"), ("teapot", "tea pot", "kettle"), ("ceramic", "stoneware"), _KITCHEN),
        (("Home", "Textiles", "Cushion"), ("cushion", "throw pillow", "pillow"), ("velvet", "linen"), _HOME),
        (("Home", "Decoration", "Vase"), ("vase", "flower vase", "flower pot"), ("ceramic", "porcelain"), _HOME),
        (("Furniture", "Seating", "Armchair"), ("armchair", "easy chair", "sofa chair"), ("velvet", "boucle"), _HOME),
        (("Furniture", "Lighting", "Table Lamp"), ("table lamp", "desk light", "bedside lamp"), ("metal",), _HOME),
        (("Electronics", "Audio", "Headphones"), ("headphones", "headset", "over-ear"), ("foam", "leather"), _TECH),
        (("Electronics", "Wearables", "Smartwatch"), ("smartwatch", "smart watch", "sports watch"), ("steel",), _TECH),
        (("Electronics", "Mobile", "Phone Case"), ("phone case", "phone cover", "bumper"), ("silicone", "TPU"), _TECH),
        (("Toys", "Outdoor", "Ball"), ("ball", "play ball", "beach ball"), ("rubber", "PVC"), _KIDS),
        (("Toys", "Outdoor", "Kite"), ("kite", "flying kite", "delta kite"), ("polyester", "nylon"), _KIDS),
        (("Toys", "Plush", "Teddy Bear"), ("teddy bear", "plush bear", "stuffed bear"), ("plush", "mohair"), _KIDS),
        (("Toys", "Vehicles", "Toy Car"), ("toy car", "model car", "mini car"), ("wood", "metal"), _KIDS),
        (("Adult", "Intimate", "Lingerie Set"), ("lingerie set", "bra set", "underwear set"), ("lace",), _NIGHT),
        (("Adult", "Intimate", "Chemise"), ("chemise", "babydoll", "negligee"), ("lace", "satin"), _NIGHT),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Product:
    """One product, whoever sells it.

    Attributes:
        number: Counts from 0.
        kind: A key of `KINDS`.
        colour: A key of `COLOURS`.
        pattern: One of `PATTERNS`.
        brand: One of `BRANDS`.
        model: The brand's name for it, shared by its other colours and patterns.
        code: The brand's code for it, shared likewise.
        material: One of the kind's materials.
        stretch: Width of the image relative to the kind's usual proportions.
    """

    number: int
    kind: str
    colour: str
    pattern: str
    brand: str
    model: str
    code: str
    material: str
    stretch: float


_Card = TypeVar("_Card")


class _Deck(Generic[_Card]):
    """Deals its cards in random order and starts anew when they run out."""

    def __init__(self, cards: list[_Card], rng: random.Random):
        self.cards, self.rng = cards, rng
        self.hand: list[_Card] = []

    def deal(self) -> _Card:
        if not self.hand:
            self.hand = self.rng.sample(self.cards, len(self.cards))
        return self.hand.pop()


def generate_products(seed: int) -> Iterator[Product]:
    """Yield products without end.

    Args:
        seed: Decides all of them.

    Yields:
        The products, numbered from 0.
    """
    # Seeding with a string goes through SHA-512: the same on every platform, and unlike hash() in every process.
    rng = random.Random(f"toy products {seed}")
    looks = {kind: _Deck([(c, p) for c in COLOURS for p in PATTERNS], rng) for kind in KINDS}
    kinds = _Deck([name for name, kind in KINDS.items() if not kind.restricted], rng)
    restricted_kinds = _Deck([name for name, kind in KINDS.items() if kind.restricted], rng)

    def design(kind: str) -> dict[str, Any]:
        code = f"{''.join(rng.sample('ABCDEFGHKLMNPRSTVX', 2))}-{rng.randrange(100, 10000)}"
        return {
            "kind": kind,
            "brand": rng.choice(BRANDS),
            "model": rng.choice(_MODELS),
            "code": code,
            "material": rng.choice(KINDS[kind].materials),
            "stretch": round(rng.uniform(0.93, 1.07), 3),
        }

    current: dict[str, Any] = {}
    number = versions = 0
    while True:
        if number % RESTRICTED_EVERY == 0:
            restricted_at = number + rng.randrange(RESTRICTED_EVERY)
        if number == restricted_at:
            chosen = design(restricted_kinds.deal())
        else:
            if versions == 0:
                current, versions = design(kinds.deal()), rng.choice((1, 1, 1, 2, 2, 3))
            versions -= 1
            chosen = current
        colour, pattern = looks[chosen["kind"]].deal()
        yield Product(number=number, colour=colour, pattern=pattern, **chosen)
        number += 1
