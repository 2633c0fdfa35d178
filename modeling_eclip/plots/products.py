"""Products that were found for a question, drawn as a grid of images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .fonts import fonts

__all__ = ["draw_found", "draw_neighbours"]


def draw_neighbours(rows: Sequence[tuple[str, Any, Sequence[tuple[Any, bool]]]], path: str | Path) -> None:
    """Draw titles with the images that are nearest to each.

    Args:
        rows: Per query its title, its own image (Pillow), and the nearest images, the nearest first, each with whether
            it is right.
        path: PNG file to write.
    """
    columns = 2 + max(len(images) for _, _, images in rows)
    with rc_context({"font.family": list(fonts()[0])}):
        figure = Figure(figsize=(1.5 * (columns + 1), 1.6 * len(rows) + 0.6), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        figure.suptitle(
            "A title, its own image, and the images nearest to the title (green: same product, red: another)"
        )
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
            axes.spines[:].set_visible(False)
        for axes, heading in zip(grid[0], ["title", "its own image", "nearest", "second"], strict=False):
            axes.set_title(heading, fontsize=10)
        for axes_row, (query, own, images) in zip(grid, rows, strict=True):
            axes_row[0].text(0.5, 0.5, _literal(textwrap.fill(query, 22)), ha="center", va="center", fontsize=9)
            framed = [(own, "tab:blue"), *((image, "tab:green" if right else "tab:red") for image, right in images)]
            for axes, (image, colour) in zip(axes_row[1:], framed, strict=False):
                axes.imshow(image, extent=(0, 1, 0, 1))
                axes.spines[:].set(visible=True, color=colour, linewidth=3)
        figure.savefig(path, dpi=110)


def draw_found(rows: Sequence[tuple[str, Any, Sequence[tuple[Any, str]]]], path: str | Path) -> None:
    """Draw questions to a search with the products that it found, a line each.

    Args:
        rows: Per question its words, its image (Pillow, `None` for none), and what was found, the nearest first:
            images, each with what is written below it.
        path: PNG file to write.
    """
    columns = 1 + max(len(found) for _, _, found in rows)
    with rc_context({"font.family": list(fonts()[0])}):
        figure = Figure(figsize=(1.9 * columns, 2.4 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes_row, (question, own, found) in zip(grid, rows, strict=True):
            shown = [(own, question), *found]
            for place, (axes, (image, words)) in enumerate(zip(axes_row, shown, strict=False)):
                wrapped = _literal("\n".join(textwrap.wrap(words, 24)[:3]))
                axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
                if image is None:
                    axes.text(0.5, 0.5, wrapped, ha="center", va="center", fontsize=11, weight="bold")
                    continue
                axes.imshow(image, extent=(0, 1, 0, 1))
                axes.text(0.5, -0.04, wrapped, ha="center", va="top", fontsize=8, weight="normal" if place else "bold")
        figure.savefig(path, dpi=110)


def _literal(text: str) -> str:
    """Escape dollar signs, which matplotlib takes for formulas."""
    return text.replace("$", r"\$")
