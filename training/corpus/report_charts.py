"""Charts of a prepared corpus: offers left by each step, title lengths, catalog sizes, and dropped offers.

Each function draws plain data to one PNG file. Titles may hold any text: a character that no installed font has is
drawn as a box, a character without a shape as a replacement mark, and an image that can't be read as a grey tile.
"""

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Image as PILImage

from modeling_eclip import ProductImageError, load_product_image
from training.plots.canvas import plt
from training.plots.tasks import ShownMistake, draw_mistakes, size_bars

__all__ = [
    "DroppedExample",
    "ShownExample",
    "Tile",
    "as_share",
    "as_words",
    "draw_catalog_sizes",
    "draw_dropped",
    "draw_funnel",
    "draw_mismatch_scores",
    "draw_title_lengths",
    "out_of",
    "read_tile",
    "shown_title",
    "visible",
]

_DPI = 110
_TILE_SIZE = (160, 160)
_WIDTH = 8.0  # inches
_CHARACTERS = 100  # of 9 points on a line of that width
_LINE = 0.24  # inches
_MAX_WORDS = 30  # longer titles share the last bar
_KEPT = "tab:blue"
# The strong and then the light colours of a map of 20, without the two blues, which show kept offers.
_COLOURS = [plt.get_cmap("tab20")(number) for number in (*range(2, 20, 2), *range(3, 20, 2))]
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# Marks that change the direction of the text after them, also beyond the title's end.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class DroppedExample:
    """A dropped offer that the report shows.

    Args:
        id: Its id.
        title: Its title.
        image: Its encoded image, possibly broken; `None` where it is missing.
        why: What was found, such as `"12 x 40 pixels"`.
        other_title: Title of the offer that was kept instead, if there is one.
        other_image: Encoded image of that offer.
    """

    id: str
    title: str
    image: bytes | None
    why: str = ""
    other_title: str = ""
    other_image: bytes | None = None

    @property
    def has_other(self) -> bool:
        """Whether another offer was kept instead."""
        return bool(self.other_title) or self.other_image is not None


class Tile(NamedTuple):
    """An image at the size of the report.

    Attributes:
        image: RGB, 160 x 160; grey with a message where no image can be shown.
        problem: The message; empty where the image is shown.
    """

    image: PILImage
    problem: str


class ShownExample(NamedTuple):
    """A dropped offer, its tile, and the tile of the offer that was kept instead."""

    example: DroppedExample
    tile: Tile
    other_tile: Tile | None

    @classmethod
    def of(cls, example: DroppedExample) -> "ShownExample":
        """Read the images of an example."""
        return cls(example, read_tile(example.image), read_tile(example.other_image) if example.has_other else None)


def read_tile(image: bytes | None) -> Tile:
    """Read an image as a tile.

    Args:
        image: Encoded image, possibly broken; `None` where it is missing.

    Returns:
        The tile; where the image can't be shown, it holds a message.
    """
    try:
        return Tile(ImageOps.pad(load_product_image(image), _TILE_SIZE, color="white"), "")
    except ProductImageError as error:
        problem = "no image" if error.reason == "missing" else f"cannot be shown:\n{as_words(error.reason)}"
    tile = Image.new("RGB", _TILE_SIZE, (216, 216, 216))
    pen, middle = ImageDraw.Draw(tile), (_TILE_SIZE[0] // 2, _TILE_SIZE[1] // 2)
    pen.text(middle, problem, (72, 72, 72), ImageFont.load_default(15), anchor="mm", align="center")
    return Tile(tile, problem.replace("\n", " "))


def visible(text: str, max_length: int = 300) -> str:
    """Make a text of unknown origin safe to show.

    Args:
        text: Any text.
        max_length: Number of characters that are kept; an ellipsis replaces the rest.

    Returns:
        The text, with a replacement mark for control characters, broken surrogates and marks that change direction.
    """
    text = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return "".join(
        _NO_CHARACTER
        if character in _TURNS or (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r")
        else character
        for character in text
    )


def shown_title(title: str) -> str:
    """Return a title that is safe to show, or `"(no title)"` if it has no visible character."""
    is_blank = not any(character.isprintable() and not character.isspace() for character in title)
    return "(no title)" if is_blank else visible(title)


def as_words(name: str) -> str:
    """Return a name such as `empty_title` as words."""
    return visible(name.replace("_", " "), 60)


def as_share(part: int, whole: int) -> str:
    """Return a share in per cent, such as `"91.3%"`; `"-"` where the whole is 0."""
    if not whole:
        return "-"
    if 0 < part < 0.0005 * whole:
        return "<0.1%"
    return f"{part / whole:.1%}"


def out_of(part: int, whole: int) -> str:
    """Return words such as `"913 of 1,000 offers (91.3%)"`."""
    return f"{part:,} of {whole:,} offers" + (f" ({as_share(part, whole)})" if whole else "")


def draw_funnel(num_offers: int, funnel: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw how many offers each step leaves, and how many it drops for each reason.

    Args:
        num_offers: Number of offers in the input.
        funnel: For each step its name (`step`), the offers before it (`before`), those it dropped by reason
            (`dropped`), and the offers after it (`after`).
        path: PNG file to write.
    """
    drops = [{reason: rows for reason, rows in step["dropped"].items() if rows} for step in funnel]
    colours = dict(zip(dict.fromkeys(itertools.chain.from_iterable(drops)), itertools.cycle(_COLOURS), strict=False))
    room = max((len(_entry(*item)) for dropped in drops for item in dropped.items()), default=0) + 5
    columns = max(_CHARACTERS // room, 1)
    num_lines = sum(_lines(dropped, columns) for dropped in drops) or 1
    height = _LINE * (num_lines + 2)
    figure, axes = plt.subplots(figsize=(_WIDTH, height))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0, top=1 - 2 * _LINE / height)
    axes.set(xlim=(0, 1), ylim=(num_lines, 0))
    axes.set_axis_off()
    left = funnel[-1]["after"] if funnel else num_offers
    axes.set_title(f"Left: {out_of(left, num_offers)}", loc="left", fontsize=12)
    line = 0.5
    for step, dropped in zip(funnel, drops, strict=True):
        words = f"{as_words(step['step'])}: {step['after']:,} of {step['before']:,} left"
        axes.text(0, line, words, fontsize=10, va="center", parse_math=False)
        axes.barh(line + 1, 1, height=1, color="0.92")  # all offers, including those that earlier steps dropped
        parts = [(step["after"], _KEPT), *((rows, colours[reason]) for reason, rows in dropped.items())]
        start = 0.0
        for rows, colour in parts:
            axes.barh(line + 1, rows / max(num_offers, 1), left=start, height=1, color=colour)
            start += rows / max(num_offers, 1)
        for place, (reason, rows) in enumerate(dropped.items()):
            x, y = place % columns * room / _CHARACTERS, line + 2.1 + place // columns
            axes.text(x, y, "■", fontsize=10, va="center", color=colours[reason])
            axes.text(x + 0.022, y, _entry(reason, rows), fontsize=9, va="center", parse_math=False)
        line += _lines(dropped, columns)
    _save(figure, path)


def _entry(reason: str, rows: int) -> str:
    return f"{as_words(reason)} {rows:,}"


def _lines(dropped: Mapping[str, int], columns: int) -> float:
    return 2.9 + -(-len(dropped) // columns)


def draw_title_lengths(lengths: Mapping[str, Mapping[Any, int]], path: Path) -> None:
    """Draw the number of words in titles.

    Args:
        lengths: For each name, such as `"before"` and `"after"`, the number of titles by number of words.
        path: PNG file to write.
    """
    series = {name: _numbers(counts) for name, counts in lengths.items()}
    largest = max(itertools.chain.from_iterable(series.values()), default=0)
    bounds = list(range(min(largest, _MAX_WORDS) + 2))
    names = [str(bound) for bound in bounds[:-1]]
    if largest > _MAX_WORDS:
        bounds[-1] = largest + 1
        names[-1] += "+"
    series = {f"{name}: {_summary(counts)}": counts for name, counts in series.items()}
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.6), layout="constrained")
    _draw_counts(axes, series, bounds, names, ("0.65", _KEPT) if len(series) > 1 else (_KEPT,))
    axes.set(title="Words in a title", xlabel="words", ylabel="offers")
    figure.legend(fontsize=9, loc="outside lower center", ncols=2)
    _save(figure, path)


def _summary(counts: Mapping[int, int]) -> str:
    """Return the number of titles and the median of their words, as text."""
    num_titles = sum(counts.values())
    if not num_titles:
        return "no titles"
    numbers = sorted(counts)
    passed = itertools.accumulate(counts[number] for number in numbers)
    median = next(number for number, so_far in zip(numbers, passed, strict=True) if 2 * so_far >= num_titles)
    return f"{num_titles:,} titles, median {median} words"


def draw_catalog_sizes(sizes: Mapping[Any, int], path: Path) -> None:
    """Draw the number of catalogs of each size.

    Args:
        sizes: Number of catalogs by number of offers in them.
        path: PNG file to write.
    """
    counts = _numbers(sizes)
    largest = max(counts, default=1)
    bounds, names = size_bars(largest)
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.6), layout="constrained")
    _draw_counts(axes, {"catalogs": counts}, bounds, names, (_KEPT,), scale="symlog")
    num_offers = sum(size * catalogs for size, catalogs in counts.items())
    axes.set(title=f"{sum(counts.values()):,} catalogs of {num_offers:,} offers", xlabel="offers in a catalog")
    axes.set(ylabel="catalogs")
    if len(names) > 12:
        plt.setp(axes.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
    _save(figure, path)


def _numbers(counts: Mapping[Any, int]) -> dict[int, int]:
    """Return counts by number, also where JSON has turned the numbers into text."""
    return {int(number): rows for number, rows in counts.items() if rows}


def _draw_counts(
    axes: Any,
    series: Mapping[str, Mapping[int, int]],
    bounds: Sequence[int],
    names: Sequence[str],
    colours: Sequence[str],
    scale: str = "linear",
) -> None:
    """Draw counts by number as bars, a bar between two bounds, and the series side by side."""
    axes.set_yscale(scale)
    axes.margins(y=0.1)
    axes.yaxis.set_major_formatter(_short_tick)
    width = 0.8 / max(len(series), 1)
    for place, ((name, counts), colour) in enumerate(zip(series.items(), colours, strict=False)):
        rows, _ = np.histogram(list(counts), bins=bounds, weights=list(counts.values()))
        positions = np.arange(len(rows)) + (place - (len(series) - 1) / 2) * width
        bars = axes.bar(positions, rows, width, label=name, color=colour)
        if len(series) == 1:
            axes.bar_label(bars, [_short(round(row)) if row else "" for row in rows], fontsize=7)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(bottom=0, top=None if any(series.values()) else 1)
    if scale == "linear":
        axes.yaxis.get_major_locator().set_params(integer=True)


def _short(number: int) -> str:
    """Return a number in few characters, such as `"1,200"`, `"35k"` and `"1.5bn"`."""
    for unit, factor in (("bn", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= max(factor, 10**4):
            return f"{number / factor:.1f}".removesuffix(".0") + unit
    return f"{number:,}"


def _short_tick(number: float, _: float) -> str:
    return _short(round(number))


def draw_mismatch_scores(mismatches: Mapping[str, Any], path: Path) -> None:
    """Draw the histogram of the scores by which mismatched offers are found.

    Args:
        mismatches: The number of scored offers (`scored`), the histogram (`counts`, and `edges`, which are one more),
            and the largest dropped score (`threshold`, or none).
        path: PNG file to write.
    """
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.6), layout="constrained")
    axes.stairs(mismatches["counts"], mismatches["edges"], fill=True, color=_KEPT)
    threshold = mismatches.get("threshold")
    if threshold is not None:
        axes.axvline(threshold, color="tab:red", label=f"threshold {threshold:.4g}")
        axes.legend(fontsize=9)
    title = f"Do title and image belong together? Scores of {mismatches['scored']:,} offers"
    axes.set(title=title, xlabel="score", ylabel="offers")
    axes.yaxis.set_major_formatter(_short_tick)
    _save(figure, path)


def draw_dropped(reason: str, num_dropped: int, shown: Sequence[ShownExample], path: Path) -> None:
    """Draw offers that were dropped for one reason, each beside the offer that was kept instead, if there is one.

    Args:
        reason: The reason.
        num_dropped: Number of offers that were dropped for it.
        shown: Some of these offers.
        path: PNG file to write.
    """
    mistakes = []
    for example, tile, other_tile in shown:
        products = [(shown_title(example.title), tile.image)]
        if other_tile is not None:
            products.append((shown_title(example.other_title), other_tile.image))
        kept = "right: kept instead" if other_tile is not None else ""
        mistakes.append(ShownMistake(products, visible(example.why), kept))
    columns = min(max(sum(len(mistake.products) for mistake in mistakes), 4), 6)
    draw_mistakes(mistakes, f"{as_words(reason)}: {num_dropped:,} dropped, {len(shown)} shown", path, columns)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
