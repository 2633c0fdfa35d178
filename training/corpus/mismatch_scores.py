"""Score how well the title and the image of an offer fit, to find titles that belong to another product.

A model's cosine of title and image measures the fit. But some categories have lower cosines than others, and some
titles and images have high cosines with everything. So the score is relative: from the cosine, the mean cosine of the
title with all images and of the image with all titles is subtracted; then the category's median is subtracted, and
the result is divided by the category's spread. Median and spread of a small category are drawn towards those of all
offers.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling_eclip import EClipModel, EClipProcessor, embed_products
from training.corpus.read_offers import part_name
from training.corpus.write_shards import iterate_rows
from training.data.files import whole_file
from training.data.once import loaded_once
from training.data.parallel import for_each

__all__ = ["embed_parts", "read_embeddings", "relative_scores"]

_OFFERS_AT_ONCE = 256  # fixed, so that sums have the same order on every machine
_PRIOR_OFFERS = 20  # weight of all offers in a category's median and spread, in offers
_NORMAL = 1.4826  # standard deviation of a normal variable, in median absolute deviations


def relative_scores(image_embeds: np.ndarray, text_embeds: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Score how well titles fit their images, relative to other offers of their category.

    Args:
        image_embeds: Unit vectors of the images, shape `(N, D)`.
        text_embeds: Unit vectors of the titles, shape `(N, D)`.
        categories: Number of each offer's category, shape `(N,)`.

    Returns:
        Scores, float64, shape `(N,)`: roughly standard normal, and far below 0 for mismatched offers.
    """
    images, texts = image_embeds.astype(np.float64), text_embeds.astype(np.float64)
    fit = (images * texts).sum(axis=1) - (images @ texts.mean(axis=0) + texts @ images.mean(axis=0)) / 2
    middle, spread = _middle_and_spread(fit)
    scores = np.empty(len(fit))
    order = np.argsort(categories, kind="stable")
    for of in np.split(order, np.flatnonzero(np.diff(categories[order])) + 1):
        own_middle, own_spread = _middle_and_spread(fit[of])
        weight = len(of) / (len(of) + _PRIOR_OFFERS)
        centre = weight * own_middle + (1 - weight) * middle
        scores[of] = (fit[of] - centre) / max(weight * own_spread + (1 - weight) * spread, 1e-6)
    return scores


def _middle_and_spread(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    middle = float(np.median(values))
    return middle, _NORMAL * float(np.median(np.abs(values - middle)))


def embed_parts(checkpoint: str, wanted: dict[int, np.ndarray], rows: Path, folder: Path) -> None:
    """Embed offers with a model, and write the vectors of each part to a file. A part with a file is not repeated.

    Args:
        checkpoint: Hub id or folder of an e-CLIP model.
        wanted: By part, the row numbers, in ascending order.
        rows: Folder of the offers' parts.
        folder: Folder of the files, `part-NUMBER.npz`.
    """

    def file_of(part: int) -> Path:
        return folder / f"{part_name(part)}.npz"

    def embed(part: int) -> None:
        arrays = _embed(checkpoint, rows / part_name(part), wanted[part])
        with whole_file(file_of(part)) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    for_each(embed, [part for part in wanted if not file_of(part).is_file()])


def read_embeddings(folder: Path) -> dict[str, np.ndarray]:
    """Return of all embedded parts the row numbers, `row`, and their `image_embeds` and `text_embeds`."""
    parts = [np.load(path) for path in sorted(folder.glob("part-*.npz"))]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("row", "image_embeds", "text_embeds")}


@loaded_once
def _load(checkpoint: str) -> tuple[Any, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = EClipModel.from_pretrained(checkpoint, dtype=torch.float32).eval().to(device)
    return model, EClipProcessor.from_pretrained(checkpoint)


def _embed(checkpoint: str, part: Path, numbers: np.ndarray) -> dict[str, np.ndarray]:
    model, processor = _load(checkpoint)
    found: dict[str, list[np.ndarray]] = {"image_embeds": [], "text_embeds": []}
    for batch in iterate_rows(part, pa.array(numbers), _OFFERS_AT_ONCE, columns=("title", "image")):
        output = embed_products(model, processor, batch["title"].to_pylist(), batch["image"].to_pylist())
        for name in found:
            if not output[name].isfinite().all():
                raise FloatingPointError(
                    f"`{name}` of {checkpoint} are not finite; give a checkpoint whose training went well."
                )
            found[name].append(output[name].numpy())
    return {"row": numbers, **{name: np.concatenate(blocks) for name, blocks in found.items()}}
