"""The embedded default data: a small product catalogue, drawn instead of downloaded.

Contract: offers come out like a marketplace's own, one row per offer with title, JPEG picture, catalog (the product,
where several sellers offer it), category path, attributes, brand, seller and whether it is restricted to adults. The
seed alone decides them, on any platform and in any process; the bytes of the pictures are the same wherever Pillow's
JPEG encoder is. Splits are by product: no product's offers cross them.

Run as a script, it writes `train.parquet`, `validation.parquet`, `test.parquet` and `sheet.png`, a page to look at:

    python modeling_eclip/toy/catalog.py --output outputs/toy_catalog
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .drawing import draw_product
from .products import KINDS, generate_products
from .sellers import MARKETPLACE, brand_listing, take_photograph, write_title

_ALONE = -1  # catalog id of an offer that no other seller has

__all__ = ["FEATURES", "choose_sheet_rows", "draw_catalog_sheet", "generate_offers", "toy_catalog"]

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
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_MIN_IMAGE_SIZE = 32
_SHEET_ROWS = 45


def generate_offers(num_offers: int = 4000, *, seed: int = 0, image_size: int = 96) -> Iterator[dict[str, Any]]:
    """Generate the offers of the catalogue, product by product.

    A third of the products has one seller and no catalog; the others have two to five, the product's brand first.

    Args:
        num_offers: How many rows.
        seed: Decides every row.
        image_size: Side of the square pictures in pixels.

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
    """Make the catalogue as a dataset with the splits `train`, `validation` and `test`.

    Args:
        num_offers: How many rows in all splits together.
        seed: Decides every row.
        image_size: Side of the square pictures in pixels.

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


def _picture(image: Any) -> Image.Image:
    """Open a row's picture, decoded by `datasets` or not."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return Image.open(io.BytesIO(image["bytes"])).convert("RGB")


def _wrap(text: str, draw: ImageDraw.ImageDraw, font: Font, width: int) -> list[str]:
    """Break a title into lines of at most `width` pixels; a longer word keeps a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and draw.textlength(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _pack(groups: list[list[Mapping[str, Any]]], columns: int) -> list[list[list[Mapping[str, Any]]]]:
    """Lay groups out on lines of `columns` cells, each on the first line with room; longer ones are cut up."""
    lines: list[list[list[Mapping[str, Any]]]] = []
    for group in (whole[at : at + columns] for whole in groups for at in range(0, len(whole), columns)):
        for line in lines:
            if sum(map(len, line)) + len(group) <= columns:
                line.append(group)
                break
        else:
            lines.append([group])
    return lines


def draw_catalog_sheet(rows: Iterable[Mapping[str, Any]], path: str | Path, columns: int = 8) -> None:
    """Draw offers on a page, those of one catalog side by side in a frame.

    Args:
        rows: Offers with `title` and `image` (a PIL picture or `{"bytes": ...}`), and `catalog_id`, `category` and
            `seller` where known. All are drawn.
        path: Picture file to write; missing folders are made.
        columns: Pictures on a line.

    Raises:
        ValueError: If there are no rows or `columns` is less than 1.
    """
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for index, row in enumerate(rows):
        catalog = row.get("catalog_id")
        alone = catalog is None or catalog == _ALONE
        grouped.setdefault(("alone", index) if alone else catalog, []).append(row)
    if not grouped:
        raise ValueError("rows is empty; give at least one offer to draw.")
    if columns < 1:
        raise ValueError(f"columns={columns} is too few; use 1 or more.")
    lines = _pack(list(grouped.values()), columns)

    side, gap, head, text = 132, 10, 20, 62
    width, height = side + gap, head + side + text + gap
    small, smaller = ImageFont.load_default(11), ImageFont.load_default(10)
    sheet = Image.new("RGB", (columns * width + gap, len(lines) * (height + gap) + gap), (250, 250, 252))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        x, y = gap, gap + number * (height + gap)
        for group in line:
            right = x + len(group) * width - gap
            draw.rounded_rectangle((x - 4, y - 2, right + 3, y + height - 2), 6, (255, 255, 255), (196, 202, 214))
            category = list(group[0].get("category") or ())
            offers = [f"  {len(group)} sellers, one product"] if len(group) > 1 else []
            while len(category) > 1 and draw.textlength(" > ".join(category + offers), smaller) > right - x:
                category = category[1:]
            draw.text((x + 2, y + 3), " > ".join(category) + "".join(offers), (96, 106, 124), smaller)
            for row in group:
                picture = ImageOps.pad(_picture(row["image"]), (side, side), Image.Resampling.BICUBIC, (255, 255, 255))
                sheet.paste(picture, (x, y + head))
                draw.rectangle((x, y + head, x + side - 1, y + head + side - 1), outline=(226, 229, 236))
                title = "\n".join(_wrap(row["title"], draw, small, side)[:3])
                draw.text((x + 1, y + head + side + 4), title, (24, 28, 36), small, spacing=2)
                seller = row.get("seller") or ""
                draw.text((x + 1, y + head + side + text - 14), seller, (126, 136, 154), smaller)
                x += width
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def choose_sheet_rows(split: datasets.Dataset, limit: int) -> list[dict[str, Any]]:
    """Choose offers to show: one catalog of two to four sellers for each kind, no restricted ones.

    Args:
        split: Offers of the drawn catalogue.
        limit: How many at most.

    Returns:
        Rows for `draw_catalog_sheet`.
    """
    catalogs: dict[int, list[int]] = {}
    table = split.remove_columns("image")
    for index, catalog in enumerate(table["catalog_id"]):
        if catalog not in (None, _ALONE):
            catalogs.setdefault(catalog, []).append(index)
    shown: list[int] = []
    kinds: set[str] = set()
    for indices in catalogs.values():
        row = table[indices[0]]
        if (
            row["category"][-1] not in kinds
            and not row["restricted"]
            and 2 <= len(indices) <= 4
            and len(shown) + len(indices) <= limit
        ):
            kinds.add(row["category"][-1])
            shown += indices
    return list(split.select(shown or range(min(limit, len(split)))))


def main(arguments: list[str] | None = None) -> None:
    """Write the catalogue's splits as parquet files, and the sheet."""
    parser = argparse.ArgumentParser(description="Write the drawn product catalogue as parquet files and a sheet.")
    parser.add_argument("--output", type=Path, default=Path("outputs/toy_catalog"), help="folder to write to")
    parser.add_argument("--num_offers", type=int, default=4000, help="rows in all splits together")
    parser.add_argument("--seed", type=int, default=0, help="decides every row")
    parser.add_argument("--image_size", type=int, default=96, help="side of the pictures in pixels")
    chosen = parser.parse_args(arguments)
    catalog = toy_catalog(chosen.num_offers, seed=chosen.seed, image_size=chosen.image_size)
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, split in catalog.items():
        split.to_parquet(chosen.output / f"{name}.parquet")
        print(f"{chosen.output / name}.parquet: {len(split)} offers")
    draw_catalog_sheet(choose_sheet_rows(max(catalog.values(), key=len), _SHEET_ROWS), chosen.output / "sheet.png")
    print(f"{chosen.output / 'sheet.png'}: a page to look at")


if __name__ == "__main__":
    main()
