"""Retrieval and matching metrics, on embeddings set by hand."""

import dataclasses
import math

import datasets
import numpy as np
import pytest
import torch

from training.data.pairs import ProductPairs
from training.retrieval.offer_embeddings import ModalityEmbeddings, OfferEmbeddings
from training.retrieval.retrieval_metrics import matching_metrics, retrieval_metrics

# Offers a and b are alike in their titles, c and d in their images.
TEXTS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
IMAGES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])


def offers(titles=("one", "two", "three", "four")):
    return OfferEmbeddings(
        text_embeds=TEXTS,
        image_embeds=IMAGES,
        text_features=3 * TEXTS,
        image_features=5 * IMAGES,
        catalog_ids=torch.tensor([-1, -1, -1, -1]),
        row_ids=["10", "11", "12", "13"],
        positions=[0, 1, 2, 3],
        titles=list(titles),
    )


def pairs_of(rows, num_offers=4):
    left, right, labels = (np.array(column) for column in zip(*rows, strict=True))
    table = datasets.Dataset.from_dict({"row_id": [str(place) for place in range(num_offers)]})
    return ProductPairs(table, left, right, labels)


def test_average_precision_by_modality():
    # Titles put the pair (0, 1) first, images the pair (2, 3): average precision is 1 for the one, for the other
    # 1/2 (the true pair comes second of two).
    pairs = pairs_of([(0, 1, 1), (2, 3, 0)])
    metrics = matching_metrics(offers(), pairs)
    assert metrics["matching_features_text"] == metrics["matching_embeds_text"] == 1.0
    assert metrics["matching_features_image"] == metrics["matching_embeds_image"] == 0.5
    assert "matching_embeds_both" in metrics
    for modality, vectors in (("text", TEXTS), ("image", IMAGES)):
        alone = ModalityEmbeddings(modality, vectors, 3 * vectors, offers().catalog_ids, [0, 1, 2, 3])
        names = [f"matching_{kind}_{modality}" for kind in ("features", "embeds")]
        assert matching_metrics(alone, pairs) == {name: metrics[name] for name in names}


def test_pairs_of_offers_that_are_not_embedded(caplog):
    # The table has rows 0 and 3, too, which could not be embedded.
    embedded = dataclasses.replace(offers(), positions=[1, 2, 4, 5])
    metrics = matching_metrics(embedded, pairs_of([(1, 2, 1), (4, 5, 0), (1, 3, 1), (0, 2, 0)], num_offers=6))
    assert metrics == matching_metrics(offers(), pairs_of([(0, 1, 1), (2, 3, 0)]))
    assert "2 of 4 pairs are left out" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 pairs of `test_pairs`"):
        matching_metrics(embedded, pairs_of([(0, 3, 1), (0, 1, 0)], num_offers=6))


def test_equal_titles_count_as_right():
    apart = retrieval_metrics(offers())
    # Title 10 finds its own image; 11 finds 10's; 12 finds 11's; 13 ties with 12's.
    assert apart["text_to_image_recall@1"] == 0.25
    # Cosines to the images: 1, 0, -1, -1 for titles 10 and 11; 0, 1, 0, 0 for 12, whose own ties with two; -1, 0, 1, 1
    # for 13. In ties its own is last.
    ranks = [1, 2, 4, 2]
    assert apart["text_to_image_mean_reciprocal_rank"] == pytest.approx(sum(1 / rank for rank in ranks) / 4)
    assert apart["text_to_image_mean_average_precision"] == apart["text_to_image_mean_reciprocal_rank"]
    assert apart["text_to_image_ndcg@10"] == pytest.approx(sum(1 / math.log2(1 + rank) for rank in ranks) / 4)
    # With the title of 10, the image that 11 finds is right.
    assert retrieval_metrics(offers(("one", "one", "three", "four")))["text_to_image_recall@1"] == 0.5
