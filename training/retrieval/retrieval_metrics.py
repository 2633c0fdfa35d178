"""Metrics of embeddings without training on a task: retrieval by title and by image, and matching by similarity."""

import logging
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from sklearn.metrics import average_precision_score

from modeling_eclip.modeling_eclip import normalize
from modeling_eclip.retrieval.neighbors import nearest_neighbors
from modeling_eclip.retrieval.ranking import ranking_metrics
from training.data.catalog_ids import stable_id
from training.data.pairs import ProductPairs
from training.retrieval.offer_embeddings import ModalityEmbeddings, OfferEmbeddings

logger = logging.getLogger(__name__)


def retrieval_metrics(offers: OfferEmbeddings, accelerator: Accelerator | None = None) -> dict[str, float]:
    """Measure retrieval in both directions; offers of one catalog, and of equal titles, count as found.

    Args:
        offers: Embedded held-out offers.
        accelerator: The process's accelerator, on whose device similarities are computed; all of its ranks call this
            together and share the queries. Without one, this process computes all of them on the CPU.

    Returns:
        Per direction `recall@k`, `ndcg@10`, `mean_reciprocal_rank` and `mean_average_precision`, the direction before
        the name (`text_to_image_recall@1`, `image_to_text_ndcg@10`), and `chance@k`, as [`ranking_metrics`] has them.
    """
    titles = torch.tensor([stable_id(title) for title in offers.titles])
    groups = [offers.catalog_ids, titles]
    device = None if accelerator is None else accelerator.device
    shared = accelerator is not None and accelerator.num_processes > 1
    to_image, to_text = (
        ranking_metrics(queries, candidates, groups, device=device, distributed=shared)
        for queries, candidates in (
            (offers.text_embeds, offers.image_embeds),
            (offers.image_embeds, offers.text_embeds),
        )
    )
    return {
        **{f"text_to_image_{name}": value for name, value in to_image.items() if not name.startswith("chance")},
        **{f"image_to_text_{name}": value for name, value in to_text.items() if not name.startswith("chance")},
        **{name: value for name, value in to_image.items() if name.startswith("chance")},
    }


def mate_recall(
    embeds: torch.Tensor, catalog_ids: torch.Tensor, ranks: Sequence[int] = (1, 5, 10), *, of: str = "title"
) -> dict[str, float]:
    """Measure how often a catalog mate is among the nearest other titles, or images, over those that have mates.

    Args:
        embeds: Titles, or images, of unit length, shape `(N, D)`.
        catalog_ids: Their catalogs, int64, shape `(N,)`, negative for one that is alone.
        ranks: The `k` of each recall@k.
        of: What they are, `"title"` or `"image"`.

    Returns:
        `{"<of>_mates_recall@k": ..., "<of>_mates_chance@k": ...}`; chance is that of random vectors.
    """
    ids, groups, counts = torch.unique(catalog_ids, return_inverse=True, return_counts=True)
    num_mates = torch.where(ids[groups] < 0, 0, counts[groups] - 1)
    neighbors = nearest_neighbors(embeds, max(ranks))[1]
    # Where too many are equal, none is named: -1.
    are_mates = ((catalog_ids[neighbors] == catalog_ids[:, None]) & (neighbors >= 0))[num_mates > 0]
    num_others, mates = len(embeds) - 1, num_mates[num_mates > 0].double()
    metrics = {}
    for k in ranks:
        missed = torch.ones_like(mates)
        for drawn in range(min(k, num_others)):
            missed *= (num_others - mates - drawn).clamp_min(0) / (num_others - drawn)
        metrics[f"{of}_mates_recall@{k}"] = float(are_mates[:, :k].any(1).double().mean())
        metrics[f"{of}_mates_chance@{k}"] = float(1 - missed.mean())
    return metrics


def matching_metrics(offers: OfferEmbeddings | ModalityEmbeddings, pairs: ProductPairs) -> dict[str, float]:
    """Measure how well cosine similarity tells pairs of offers of one product from pairs of two.

    Measured on the towers' vectors and on the projected ones, from titles, from images, and from both (the mean of the
    two similarities), or from the one that there is.

    Args:
        offers: Embedded offers of the pairs' table.
        pairs: The labelled pairs. Those with an offer that is not embedded are left out, and counted.

    Returns:
        `{"matching_<features or embeds>_<text, image or both>": average precision}`.

    Raises:
        ValueError: no pair is of embedded offers.
    """
    places = torch.full((len(pairs.products),), -1)
    places[offers.positions] = torch.arange(len(offers.positions))
    left, right = places[pairs.left], places[pairs.right]
    usable = (left >= 0) & (right >= 0)
    if not usable.any():
        raise ValueError(
            f"none of the {len(pairs)} pairs of `test_pairs` is of two offers that could be embedded; look at the "
            "titles and images of the offers that they name."
        )
    if not usable.all():
        logger.warning(
            "%s of %s pairs are left out: an offer of theirs could not be embedded", int((~usable).sum()), len(pairs)
        )
    left, right, labels = left[usable], right[usable], pairs.labels[usable.numpy()]
    metrics = {}
    for kind in ("features", "embeds"):
        if isinstance(offers, OfferEmbeddings):
            views = {modality: getattr(offers, f"{modality}_{kind}") for modality in ("text", "image")}
        else:
            views = {offers.modality: getattr(offers, kind)}
        similarities = {}
        for modality, vectors in views.items():
            unit = normalize(vectors)
            similarities[modality] = (unit[left] * unit[right]).sum(dim=-1)
        if len(similarities) == 2:
            similarities["both"] = (similarities["text"] + similarities["image"]) / 2
        for modality, similarity in similarities.items():
            score = average_precision_score(labels, similarity.numpy())
            metrics[f"matching_{kind}_{modality}"] = float(score)
    return metrics


__all__ = ["matching_metrics", "mate_recall", "retrieval_metrics"]
