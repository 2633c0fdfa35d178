"""A checkpoint in mteb: real titles, images, products and pairs, and the numbers that this package tells of them."""

import numpy as np
import pytest
import torch
from conftest import REAL_DATA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from test_examples import load_example
from torch.nn.functional import normalize

from modeling_eclip import EClipModel, EClipProcessor, embed_products
from modeling_eclip.retrieval.ranking import ranking_metrics

mteb = pytest.importorskip("mteb", reason='needs mteb: pip install "modeling-eclip[mteb]"')
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def example():
    return load_example("with_mteb")


pytestmark = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the real data in shared/ beside the checkout")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a model of the small pretrained towers: untrained as a whole, it still tells titles, and images, apart."""
    folder = tmp_path_factory.mktemp("checkpoint")
    towers = [str(REAL_DATA / "towers" / name) for name in ("efficientnet-lite0", "minilm-l6")]
    torch.manual_seed(0)
    model = EClipModel.from_towers(*towers, projection_dim=64).eval()
    processor = EClipProcessor.from_towers(*towers, image_size=64, max_title_length=64)
    for part in (model, processor):
        part.save_pretrained(folder)
    return str(folder), model, processor


def read(name, split="test"):
    path = str(REAL_DATA / "data" / name / f"{split}.parquet")
    return datasets.load_dataset("parquet", data_files=path, split="train").rename_column("title", "text")


def scores_of(example, checkpoint, task):
    """Return the scores of a task, and the vectors that they are of, as they were encoded."""
    encoder, vectors = example.encoder(checkpoint[0]), []
    encode = encoder.encode
    encoder.encode = lambda *given, **settings: vectors.append(encode(*given, **settings)) or vectors[-1]
    results = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return results.task_results[0].scores["test"][0], [torch.as_tensor(one) for one in vectors]


@pytest.mark.parametrize("category", ["t2i", "i2t", "t2t", "it2it"])
def test_retrieval_is_what_this_package_measures(example, checkpoint, category):
    listings = read("amazon_apparel")
    # Listings of one catalog show the very same photograph: they tie, but only with each other.
    rows = {None: [], "mates": []}
    for row, catalog in enumerate(listings["catalog_id"]):
        rows["mates" if catalog is not None else None].append(row)
    chosen = listings.select(rows["mates"][:50] + rows[None][:50])
    offers = chosen.select_columns(["text", "image"]).add_column("id", [f"o{row}" for row in range(100)])
    catalogs = [-1 - row if one is None else one for row, one in enumerate(chosen["catalog_id"])]
    task = example.search_task("Listings", category, offers, catalogs)
    found, (queries, candidates) = scores_of(example, checkpoint, task)
    embeds = embed_products(checkpoint[1], checkpoint[2], offers["text"], offers["image"])
    sides = {"t": embeds["text_embeds"], "i": embeds["image_embeds"], "it": normalize(sum(embeds.values()), dim=-1)}
    for vectors, side in zip((queries, candidates), category.split("2"), strict=True):
        # This package decodes images no larger than needed, which moves pixels a little, and Pillow does not.
        assert torch.cosine_similarity(vectors, sides[side]).min() > (1 - 1e-5 if side == "t" else 0.99)
    groups = torch.tensor([max(one, -1) for one in catalogs])
    expected = ranking_metrics(queries, candidates, [groups], ranks=(1, 5, 10))
    ours = {"ndcg_at_10": "ndcg@10", "map_at_1000": "mean_average_precision", "mrr_at_1000": "mean_reciprocal_rank"}
    ours |= {f"hit_rate_at_{k}": f"recall@{k}" for k in (1, 5, 10)}
    # mteb rounds to five digits.
    assert {name: found[name] for name in ours} == pytest.approx({n: expected[o] for n, o in ours.items()}, abs=1e-5)
    assert 0 < found["ndcg_at_10"] <= 1 and found["recall_at_10"] <= found["hit_rate_at_10"]


@pytest.mark.parametrize("column", ["text", "image"])
def test_kinds_are_told_by_titles_and_by_images(example, checkpoint, column):
    tables = {}
    for split, num_rows in (("train", 120), ("test", 60)):
        table = read("flipkart", split).select(range(num_rows))
        tables[split] = table.select_columns(["text", "image"]).add_column(
            "label", [path[0] for path in table["category"]]
        )
    kind = {"text": "Classification", "image": "ImageClassification"}[column]
    # As many of each kind as there are, once: the classifier then learns from all rows.
    fields = {"input_column_name": column, "samples_per_label": 1000, "n_experiments": 1}
    task = example.table_task(
        example.AbsTaskClassification,
        kind,
        "Kinds",
        f"{column[0]}2c",
        "accuracy",
        datasets.DatasetDict(tables),
        **fields,
    )
    found, _ = scores_of(example, checkpoint, task)
    vectors = {}
    for split, table in tables.items():
        (embeds,) = embed_products(
            checkpoint[1], checkpoint[2], **{"titles" if column == "text" else "images": table[column]}
        ).values()
        vectors[split] = embeds.numpy()
    learned = LogisticRegression(max_iter=100).fit(vectors["train"], tables["train"]["label"])
    expected = learned.score(vectors["test"], tables["test"]["label"])
    # mteb shuffles what it learns from, which moves the solver's last digits: one answer may turn.
    assert found["accuracy"] == pytest.approx(expected, abs=1.5 / 60)


def test_pairs_of_titles_are_ordered_as_by_this_package(example, checkpoint):
    titles = read("pricerunner")
    path = str(REAL_DATA / "data" / "pricerunner" / "test_pairs.parquet")
    pairs = datasets.load_dataset("parquet", data_files=path, split="train")
    titles = {str(one): title for one, title in zip(titles["offer_id"], titles["text"], strict=True)}
    # Equal titles tie at a cosine of 1, give or take the last digit, which would order them by chance.
    words = [[titles[str(row[side])].lower().split() for side in ("left", "right")] for row in pairs]
    pairs = pairs.select([row for row, (one, other) in enumerate(words) if one != other][:200])
    sides = [[titles[str(one)] for one in pairs[side]] for side in ("left", "right")]
    table = datasets.Dataset.from_dict({"sentence1": sides[0], "sentence2": sides[1], "labels": pairs["label"]})
    base = mteb.abstasks.AbsTaskPairClassification
    task = example.table_task(base, "PairClassification", "Pairs", "t2t", "max_ap", datasets.DatasetDict(test=table))
    found, (left, right) = scores_of(example, checkpoint, task)
    for vectors, side in zip((left, right), sides, strict=True):
        torch.testing.assert_close(vectors, embed_products(*checkpoint[1:], side)["text_embeds"], rtol=0, atol=1e-5)
    expected = average_precision_score(np.array(pairs["label"]), (left * right).sum(dim=-1).numpy())
    assert found["cosine_ap"] == pytest.approx(expected, abs=1e-5) and 0 < expected < 1


def test_the_example_runs(example, checkpoint, capsys):
    scores = example.main(checkpoint[0], num_offers=300)
    assert scores.keys() == {"TitleToImage", "ProductToProduct", "Classification", "ImageClassification"}
    assert all(0 <= score <= 1 for score in scores.values()) and "ProductToProduct" in capsys.readouterr().out
