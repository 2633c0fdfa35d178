"""Retrieval and matching metrics, on embeddings set by hand."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from training.retrieval.offer_embeddings import OfferEmbeddings
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


def pairs_file(tmp_path, rows, names=("left", "right", "label")):
    columns = zip(*rows, strict=True)
    table = pa.table({name: list(values) for name, values in zip(names, columns, strict=True)})
    pq.write_table(table, tmp_path / "pairs.parquet")
    return str(tmp_path / "pairs.parquet")


def test_average_precision_by_modality(tmp_path):
    # Titles put the pair (10, 11) first, images the pair (12, 13): average precision is 1 for the one, for the other
    # 1/2 (the true pair comes second of two).
    path = pairs_file(tmp_path, [(10, 11, 1), (12, 13, 0)])
    metrics = matching_metrics(offers(), path)
    assert metrics["matching_features_text"] == metrics["matching_embeds_text"] == 1.0
    assert metrics["matching_features_image"] == metrics["matching_embeds_image"] == 0.5


def test_pairs_of_unknown_offers(tmp_path, caplog):
    path = pairs_file(tmp_path, [(10, 11, 1), (12, 13, 0), (10, 99, 1)])
    matching_metrics(offers(), path)
    assert "1 of 3 pairs" in caplog.text
    with pytest.raises(ValueError, match="set `pair_id_column` to the column"):
        matching_metrics(offers(), pairs_file(tmp_path, [(1, 2, 1)]))
    with pytest.raises(ValueError, match="no column 'label'"):
        matching_metrics(offers(), pairs_file(tmp_path, [(1, 2, 1)], names=("left", "right", "same")))


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
