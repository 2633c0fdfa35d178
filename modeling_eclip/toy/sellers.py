"""How each seller of generated products words a product's title and photographs the product.

Contract: `write_title` and `take_photograph` take all their chance from the random state they are given. A brand lists
its own products cleanly. The other sellers write what marketplaces show, irregular lists of at most `MAX_WORDS` words
in which the kind is always named, in their own or in others' words, and show the product on their own ground, moved,
scaled, perhaps mirrored, a little off in colour, sometimes stamped, and compressed.
"""

from __future__ import annotations

import functools
import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .products import KINDS, Product

__all__ = ["MARKETPLACE", "MAX_WORDS", "Seller", "brand_listing", "take_photograph", "write_title"]

MAX_WORDS = 11


@dataclass(frozen=True)
class Seller:
    """A seller's habits.

    Attributes:
        name: The seller, as in the column `seller`.
        background: `"white"`, `"grey"`, `"gradient"`, `"tint"` or `"table"`.
        case: `"title"`, `"upper"` or `"lower"`, applied to the whole title.
        promotions: Phrases that this seller puts around titles; empty for none.
        stamp: Text printed over the image; empty for none.
        mirror: Probability that the image is mirrored.
        scale: Smallest and largest share of the image's side that the product takes.
        quality: JPEG quality, 1 to 95.
        brand: Whether this is the product's own brand, whose listings are clean.
    """

    name: str
    background: str = "white"
    case: str = "title"
    promotions: tuple[str, ...] = ()
    stamp: str = ""
    mirror: float = 0.0
    scale: tuple[float, float] = (0.7, 0.92)
    quality: int = 85
    brand: bool = False


MARKETPLACE = (
    Seller("Burrowby", "grey", "lower", (), "", 0.3, (0.62, 0.85), 80),
    Seller("Hibbit and Co", "tint", "title", ("(1+1)", "gift wrapped"), "", 0.2),
    Seller("Kestova", "gradient", "title", ("official import",), "KESTOVA", 0.2, (0.66, 0.88), 88),
    Seller("Lumeshop", "table", "lower", ("best price", "new!!"), "", 0.4, (0.6, 0.8), 75),
    Seller("Mintaro", "tint", "lower", ("/ fast delivery",), "", 0.5, (0.64, 0.88), 80),
    Seller("Old Quay", "table", "title", (), "", 0.2, (0.62, 0.84), 85),
    Seller("Ozzelo", "white", "upper", ("[SALE]", "[HOT DEAL]"), "SALE", 0.3, (0.7, 0.95), 70),
    Seller("Pavrico", "gradient", "upper", ("[TODAY ONLY]",), "", 0.4, (0.64, 0.9), 60),
    Seller("Tindlemart", "white", "title", ("[FREE SHIPPING]", "[FREE SHIPPING]", "***"), "FREE", 0.3),
    Seller("Zanto Deals", "grey", "upper", ("70% OFF", "!!clearance!!"), "-70%", 0.4, (0.68, 0.95), 65),
)

_COLOUR_WORDS = {
    "black": ("black", "jet black", "charcoal"),
    "white": ("white", "ivory", "off-white"),
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine", "apricot"),
    "yellow": ("yellow", "lemon", "mustard"),
    "green": ("green", "emerald", "forest green"),
    "blue": ("blue", "cobalt", "royal blue"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "blush"),
    "brown": ("brown", "chocolate", "coffee"),
}
_PATTERN_WORDS = {
    "plain": ("plain", "solid", "basic"),
    "striped": ("striped", "stripe", "stripes"),
    "dotted": ("polka dot", "dotted", "dots"),
    "checked": ("checked", "plaid", "gingham"),
    "zigzag": ("zigzag", "chevron", "zig-zag"),
    "floral": ("floral", "flower print", "daisy"),
}


def brand_listing(product: Product) -> Seller:
    """Give the seller through whom the product's own brand lists it."""
    return Seller(product.brand, scale=(0.86, 0.86), quality=92, brand=True)


def _word(rng: random.Random, words: tuple[str, ...]) -> str:
    """Choose the usual word, which comes first, or as often one of the others."""
    return words[0] if rng.random() < 0.5 else rng.choice(words[1:])


def _misspell(rng: random.Random, text: str) -> str:
    """Swap two neighbouring letters, or lose one."""
    at = rng.randrange(1, len(text) - 2)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :]


def write_title(product: Product, seller: Seller, rng: random.Random) -> str:
    """Write the title under which a seller offers a product.

    Args:
        product: What is sold.
        seller: Who sells it.
        rng: Random state, advanced.

    Returns:
        One to `MAX_WORDS` words.
    """
    kind = KINDS[product.kind]
    if seller.brand:
        pattern = "" if product.pattern == "plain" else _PATTERN_WORDS[product.pattern][0].title()
        material = product.material[0].upper() + product.material[1:]
        words = (product.brand, product.model, pattern, material, product.kind)
        return f"{' '.join(word for word in words if word)}, {product.colour.title()}"

    # Most telling first: what exceeds MAX_WORDS is cut from the end, before the order is shuffled.
    phrases = [_word(rng, kind.names)]
    for phrase, probability in (
        (_word(rng, _COLOUR_WORDS[product.colour]), 0.94),
        (_word(rng, _PATTERN_WORDS[product.pattern]), 0.3 if product.pattern == "plain" else 0.9),
        (product.brand, 0.7),
        (product.model, 0.35),
        (product.code, 0.35),
        (rng.choice(seller.promotions) if seller.promotions else "", 0.5),
        (product.material, 0.4),
        (rng.choice(kind.extras), 0.5),
        (rng.choice(kind.names), 0.15),
    ):
        if phrase and rng.random() < probability and len(" ".join([*phrases, phrase]).split()) <= MAX_WORDS:
            phrases.append(phrase)
    rng.shuffle(phrases)
    promotion = next((phrase for phrase in phrases if phrase in seller.promotions), "")
    if promotion and rng.random() < 0.8:
        phrases.remove(promotion)
        phrases.insert(0 if promotion.startswith("[") else len(phrases), promotion)
    if rng.random() < 0.07:
        at = rng.randrange(len(phrases))
        if len(phrases[at]) > 4 and phrases[at] not in (product.code, promotion):
            phrases[at] = _misspell(rng, phrases[at])
    title = " ".join(phrases)
    if seller.case == "upper":
        return title.upper()
    return title.lower() if seller.case == "lower" else " ".join(word[:1].upper() + word[1:] for word in title.split())


_TINTS = ((246, 226, 216), (222, 236, 246), (228, 242, 224), (248, 240, 210), (236, 226, 244))
_TABLES = (((226, 232, 236), (196, 162, 124)), ((240, 232, 222), (150, 116, 90)), ((214, 224, 214), (222, 208, 186)))


@functools.lru_cache(maxsize=64)
def _background(style: str, variant: int, size: int) -> Image.Image:
    """Draw an empty set."""
    if style == "gradient":
        strip = Image.new("RGB", (1, size))
        low = (150, 166, 186) if variant % 2 else (190, 180, 170)
        for y in range(size):
            share = y / size
            strip.putpixel((0, y), tuple(round(250 + (c - 250) * share) for c in low))
        return strip.resize((size, size))
    if style == "table":
        wall, table = _TABLES[variant % len(_TABLES)]
        image = Image.new("RGB", (size, size), wall)
        ImageDraw.Draw(image).rectangle((0, round(size * 0.72), size, size), fill=table)
        return image
    grey = 214 + 8 * (variant % 3)
    colour = {"white": (255, 255, 255), "grey": (grey, grey, grey), "tint": _TINTS[variant % len(_TINTS)]}[style]
    return Image.new("RGB", (size, size), colour)


@functools.lru_cache(maxsize=8)
def _shadow(size: int) -> Image.Image:
    """Give the opacity of a soft shadow on the ground, of `(size, size // 6)` pixels."""
    width, height = size, max(size // 6, 2)
    shadow = Image.new("L", (width, height))
    draw = ImageDraw.Draw(shadow)
    for step in range(1, 13):
        inset = 1 - step / 12
        box = (width / 2 * (1 - inset), height / 2 * (1 - inset), width / 2 * (1 + inset), height / 2 * (1 + inset))
        draw.ellipse(box, fill=7 * step)
    return shadow


@functools.lru_cache(maxsize=32)
def _stamp(text: str, size: int) -> Image.Image:
    """Draw a seller's badge."""
    font = ImageFont.load_default(max(round(size * 0.105), 6))
    left, top, right, bottom = font.getbbox(text)
    pad = size * 0.03
    badge = Image.new("RGBA", (round(right - left + 2 * pad), round(bottom - top + 2 * pad)), (0, 0, 0, 0))
    draw = ImageDraw.Draw(badge)
    fill = (214, 40, 60, 235) if text != text.title() and len(text) < 6 else (60, 70, 90, 150)
    draw.rounded_rectangle((0, 0, badge.width - 1, badge.height - 1), radius=round(pad), fill=fill)
    draw.text((pad - left, pad - top), text, font=font, fill=(255, 255, 255, 255))
    return badge


def take_photograph(
    drawing: Image.Image, product: Product, seller: Seller, rng: random.Random, image_size: int
) -> bytes:
    """Photograph a product as a seller would.

    Args:
        drawing: The product on a transparent ground, RGBA.
        product: What is sold.
        seller: Who sells it.
        rng: Random state, advanced.
        image_size: Side of the square image in pixels.

    Returns:
        A JPEG file, `(image_size, image_size)` pixels, RGB.
    """
    scale = rng.uniform(*seller.scale) * image_size
    # Narrow products stretch freely; the wider ones would leave the image.
    width, height = round(scale * min(product.stretch, 1.0)), round(scale / max(product.stretch, 1.0))
    shown = drawing.resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < seller.mirror:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not seller.brand:
        light = rng.uniform(0.9, 1.06)
        gains = [light * rng.uniform(0.96, 1.04) for _ in range(3)]
        table = [min(round(value * gain), 255) for gain in gains for value in range(256)]
        shown = shown.point(table + list(range(256)))

    image = _background(seller.background, rng.randrange(6), image_size).copy()
    slack_x, slack_y = image_size - width, image_size - height
    x, y = slack_x // 2, slack_y // 2
    if not seller.brand:
        x, y = round(slack_x * rng.uniform(0.1, 0.9)), round(slack_y * rng.uniform(0.25, 0.85))
    if seller.background != "white":
        bounds = shown.getbbox()
        assert bounds is not None, "a drawing is never empty"
        left, _, right, bottom = bounds
        shadow = _shadow(image_size).resize((right - left, max((right - left) // 7, 2)))
        at = (x + left, y + bottom - shadow.height * 2 // 3)
        image.paste((40, 40, 50), (*at, at[0] + shadow.width, at[1] + shadow.height), shadow)
    image.paste(shown, (x, y), shown)
    if seller.stamp and rng.random() < 0.6:
        stamp = _stamp(seller.stamp, image_size)
        margin = image_size // 32
        right, bottom = image_size - stamp.width - margin, image_size - stamp.height - margin
        image.paste(stamp, rng.choice(((margin, margin), (right, margin), (right, bottom))), stamp)

    file = io.BytesIO()
    image.save(file, "JPEG", quality=seller.quality)
    return file.getvalue()
