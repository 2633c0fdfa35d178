"""Pictures of what people would rather look at than read."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from .fonts import fonts  # noqa: E402

plt.rcParams["font.family"] = list(fonts()[0])


def draw_history(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw loss and recall over the samples seen.

    Args:
        history: Records of a run: those of steps have `loss`, those of evaluations `text_to_image_recall@k`.
        path: PNG file to write.
    """
    steps = [record for record in history if "loss" in record]
    evaluations = [record for record in history if "text_to_image_recall@1" in record]
    figure, (loss_axes, recall_axes) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    loss_axes.plot([record["samples"] for record in steps], [record["loss"] for record in steps])
    loss_axes.set(xlabel="samples seen", ylabel="contrastive loss", title="Training loss")
    for k in (1, 5, 10):
        values = [record[f"text_to_image_recall@{k}"] for record in evaluations]
        (line,) = recall_axes.plot(
            [record["samples"] for record in evaluations], values, marker="o", label=f"recall@{k}"
        )
        if evaluations:
            recall_axes.axhline(evaluations[0][f"chance@{k}"], linestyle=":", color=line.get_color())
    recall_axes.plot([], [], linestyle=":", color="grey", label="chance")
    recall_axes.set(xlabel="samples seen", title="Image found for a title, held-out offers", ylim=(0, 1))
    recall_axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_neighbours(rows: Sequence[tuple[str, Any, Sequence[tuple[Any, bool]]]], path: Path) -> None:
    """Draw titles with the images that are nearest to each.

    Args:
        rows: Per query its title, its own image (Pillow), and the nearest images, the nearest first, each with whether
            it is right.
        path: PNG file to write.
    """
    columns = 2 + max(len(images) for _, _, images in rows)
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(1.5 * (columns + 1), 1.6 * len(rows) + 0.6), squeeze=False, layout="constrained"
    )
    figure.suptitle("A title, its own image, and the images nearest to the title (green: same product, red: another)")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        axes.spines[:].set_visible(False)
    for axes, heading in zip(grid[0], ["title", "its own image", "nearest", "second"], strict=False):
        axes.set_title(heading, fontsize=10)
    for axes_row, (query, own, images) in zip(grid, rows, strict=True):
        # A title is text and nothing else: dollar signs in it are no formulas.
        wrapped = textwrap.fill(query, 22).replace("$", r"\$")
        axes_row[0].text(0.5, 0.5, wrapped, ha="center", va="center", fontsize=9)
        framed = [(own, "tab:blue"), *((image, "tab:green" if right else "tab:red") for image, right in images)]
        for axes, (image, colour) in zip(axes_row[1:], framed, strict=False):
            axes.imshow(image, extent=(0, 1, 0, 1))
            axes.spines[:].set(visible=True, color=colour, linewidth=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_found(rows: Sequence[tuple[str, Any, Sequence[tuple[Any, str]]]], path: Path) -> None:
    """Draw questions to a search with the products that it found, a line each.

    Args:
        rows: Per question its words, its picture (Pillow, `None` for none), and what was found, the nearest first:
            pictures, each with what is written below it.
        path: PNG file to write.
    """
    columns = 1 + max(len(found) for _, _, found in rows)
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(1.9 * columns, 2.4 * len(rows)), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes_row, (question, own, found) in zip(grid, rows, strict=True):
        shown = [(own, question), *found]
        for place, (axes, (picture, words)) in enumerate(zip(axes_row, shown, strict=False)):
            # Words are text and nothing else: dollar signs in them are no formulas.
            wrapped = "\n".join(textwrap.wrap(words, 24)[:3]).replace("$", r"\$")
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            if picture is None:
                axes.text(0.5, 0.5, wrapped, ha="center", va="center", fontsize=11, weight="bold")
                continue
            axes.imshow(picture, extent=(0, 1, 0, 1))
            axes.text(0.5, -0.04, wrapped, ha="center", va="top", fontsize=8, weight="normal" if place else "bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


__all__ = ["draw_found", "draw_history", "draw_neighbours"]
