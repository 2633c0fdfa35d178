"""A page that shows offers: each with its image and its title, those of one catalog side by side in a frame."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = ["choose_sheet_rows", "draw_catalog_sheet"]

_ALONE = -1  # catalog id of an offer that no other seller has
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _open_image(image: Any) -> Image.Image:
    """Open a row's image, decoded by `datasets` or not."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return Image.open(io.BytesIO(image["bytes"])).convert("RGB")


def _wrap(text: str, draw: ImageDraw.ImageDraw, font: _Font, width: int) -> list[str]:
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
        rows: Offers with `title` and `image` (a PIL image or `{"bytes": ...}`), and `catalog_id`, `category` and
            `seller` where known. All are drawn.
        path: Image file to write; missing folders are made.
        columns: Images on a line.

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
                image = ImageOps.pad(
                    _open_image(row["image"]), (side, side), Image.Resampling.BICUBIC, (255, 255, 255)
                )
                sheet.paste(image, (x, y + head))
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
        split: Generated offers.
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
