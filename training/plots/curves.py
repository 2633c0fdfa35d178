"""Curves of a training run."""

from collections.abc import Sequence
from pathlib import Path

from training.plots.canvas import plt

__all__ = ["draw_history"]

_MATES = {"title": "a title", "image": "an image"}


def draw_history(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw loss and recall over the samples seen.

    Args:
        history: Records of a run: those of steps have `loss`, those of evaluations `text_to_image_recall@k`, or
            `title_mates_recall@k` where there are no images, or `image_mates_recall@k` where there are no titles. A
            last batch that is smaller is left out, and the title says so: its loss is less, since it has fewer
            negatives.
        path: PNG file to write.
    """
    steps = [record for record in history if "loss" in record]
    evaluations = [record for record in history if "loss" not in record]
    figure, (loss_axes, recall_axes) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    samples = [record["samples"] for record in steps]
    is_cut = len(steps) > 2 and samples[-1] - samples[-2] < samples[-2] - samples[-3]
    whole = slice(-1 if is_cut else None)
    loss_axes.plot(samples[whole], [record["loss"] for record in steps[whole]])
    title = "Training loss, without the smaller last batch" if is_cut else "Training loss"
    loss_axes.set(xlabel="samples seen", ylabel="contrastive loss", title=title)
    ways = [("text_to_image_recall", "chance", "Image found for a title")]
    ways += [
        (f"{one}_mates_recall", f"{one}_mates_chance", f"Catalog mate found for {a}") for one, a in _MATES.items()
    ]
    measured = [way for way in ways if any(f"{way[0]}@1" in record for record in evaluations)]
    found, chance, what = (measured or ways)[0]
    for k in (1, 5, 10):
        values = [record[f"{found}@{k}"] for record in evaluations]
        (line,) = recall_axes.plot(
            [record["samples"] for record in evaluations], values, marker="o", label=f"recall@{k}"
        )
        if evaluations:
            recall_axes.axhline(evaluations[0][f"{chance}@{k}"], linestyle=":", color=line.get_color())
    recall_axes.plot([], [], linestyle=":", color="grey", label="chance")
    recall_axes.set(xlabel="samples seen", title=f"{what}, held-out offers", ylim=(0, 1))
    recall_axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
