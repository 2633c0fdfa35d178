"""Runs on offers with several texts and images: trained, resumed, fine-tuned, embedded as they were trained."""

import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from conftest import DATA, MODEL, saved_weights, train_arguments
from PIL import Image

from modeling_eclip import EClipForCategoryClassification, EClipModel, EClipProcessor, embed_products
from training.arguments.embed import EmbedArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.publish import PublishArguments
from training.embedding.embed_corpus import embed_corpus
from training.engine.build import load_split
from training.engine.contrastive_training import train
from training.engine.feature_cache import cache_vectors
from training.evaluation.task_evaluation import evaluate_head
from training.hub.card_facts import checkpoint_facts
from training.retrieval.offer_embeddings import embed_dataset
from training.tasks.features import represent
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head
from training.tasks.registry import find_task

TEXTS = ["title=1", "description=1", "brand=0", "joined=2"]
IMAGES = ["front=1", "photos=3"]


def png(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def offers(tmp_path_factory):
    """48 offers of two categories, which only the description tells; a third of them have no photos."""
    folder = tmp_path_factory.mktemp("offers")
    number = 48
    photos = [[png(1000 + 2 * row), png(1001 + 2 * row)] if row % 3 else [] for row in range(number)]
    photos[4] = [b"no image", png(1009)]
    kinds = ["shoe" if row % 2 else "mug" for row in range(number)]
    table = {
        "title": [f"item {row}" if row % 5 else None for row in range(number)],
        "description": [f"a {kind}" for kind in kinds],
        "brand": ["acme"] * number,
        "front": [png(row) for row in range(number)],
        "photos": photos,
        "category": [[kind] for kind in kinds],
        "id": [f"offer {row}" for row in range(number)],
    }
    pq.write_table(pa.table(table), folder / "offers.parquet", row_group_size=16)
    return folder / "offers.parquet"


@pytest.fixture(scope="module")
def data(offers):
    path = str(offers)
    return replace(DATA, train_data=[path], validation_data=[path], test_data=[path], text_columns=TEXTS,
                   image_columns=IMAGES, id_column="id")  # fmt: skip


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of four steps, which saw every offer more than once."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(MODEL, data, train_arguments(folder))


def test_a_run_resumes_with_the_same_draws_and_keeps_the_fields(data, run, offers):
    folder, result = run
    expected = saved_weights(folder)
    resumed = {"resume_from_checkpoint": str(folder / "checkpoint-32"), "overwrite_output_dir": True}
    again = train(MODEL, data, train_arguments(folder, **resumed))
    losses = [[record["loss"] for record in one.history if "loss" in record] for one in (result, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert all(torch.equal(value, saved_weights(folder)[name]) for name, value in expected.items())
    texts = [["title", 1.0], ["description", 1.0], ["brand", 0.0], ["joined", 2.0]]  # in this order
    fields = {"text": texts, "image": [["front", 1.0], ["photos", 3.0]]}
    assert EClipProcessor.from_pretrained(folder).fields == fields
    assert sum(again.skips["passed_over"].values()) <= 2 and again.skips["reasons"] == {}
    joined = train(MODEL, replace(data, text_columns=["title=0", "description=0", "joined=1"]),
                   train_arguments(folder / "joined"))  # fmt: skip
    assert [record["loss"] for record in joined.history if "loss" in record] != losses[0]


def test_frozen_towers_are_not_cached_for_fields(data, tmp_path):
    arguments = train_arguments(tmp_path, cache_frozen_towers=True)
    with pytest.raises(ValueError, match="`cache_frozen_towers` is true, and `image_columns` names several"):
        train(replace(MODEL, freeze=[r"^vision_model\."]), data, arguments)


def test_texts_are_drawn_beside_a_frozen_image_tower(data, tmp_path):
    # Cached vectors know no dropout.
    vision_config = json.dumps({**json.loads(MODEL.vision_config), "hidden_dropout_prob": 0.0})
    model = replace(MODEL, freeze=[r"^vision_model\."], vision_config=vision_config)
    runs = {
        cached: train(
            model,
            replace(data, image_columns=["front"], min_crop_scale=1.0, flip_probability=0.0),
            train_arguments(tmp_path / str(cached), cache_frozen_towers=cached),
        )
        for cached in (False, True)
    }
    # The image tower has batches of its own, whose sums round otherwise.
    for plain, cached in zip(*(one.history for one in runs.values()), strict=True):
        assert cached == pytest.approx(plain, rel=1e-3)


def test_a_teacher_sees_the_joined_text_and_the_first_image(run, data, offers, tmp_path):
    model, processor = EClipModel.from_pretrained(run[0]).eval(), EClipProcessor.from_pretrained(run[0])
    products = load_split(replace(data, image_columns=["photos"]), "train")  # of which some offers have none
    settings = {"batch_size": 8, "cache_dir": tmp_path}
    arguments = (model, processor, Accelerator(cpu=True))
    images = cache_vectors(products, "image", *arguments, **settings)["image_pooler_output"]
    texts = cache_vectors(products, "text", *arguments, **settings)["text_pooler_output"]
    rows = pq.read_table(offers).to_pylist()
    assert [vector is None for vector in images] == [not row["photos"] for row in rows]
    with torch.no_grad():
        image = model.encode_image(**processor(images=rows[1]["photos"][0], return_tensors="pt")).pooler_output[0]
        text = model.encode_text(
            **processor(text="item 1 | description: a shoe | brand: acme", return_tensors="pt")
        ).pooler_output[0]
    torch.testing.assert_close(torch.tensor(images[1]), image, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(texts[1]), text, atol=1e-4, rtol=0)


def test_the_card_names_the_fields(run):
    facts = checkpoint_facts(run[0], PublishArguments(checkpoint=str(run[0]), repo="someone/model"))
    assert facts.training.endswith(
        "Of an offer, its images are `front`, `photos` and its texts are `title`, `description`, `brand`."
    )


def embedded(checkpoint, offers, folder, **settings):
    given = {"image_batch_size": 5, "num_workers": 0, "rows_per_shard": 20, "id_column": "id", **settings}
    report = embed_corpus(
        EmbedArguments(checkpoint=str(checkpoint), input=[str(offers)], output_dir=str(folder), **given)
    )
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    return report, {name: torch.tensor(table[name].to_pylist()) for name in ("text_embeds", "image_embeds")}


def expected_of(checkpoint, offers, pooling):
    """The same by the package alone, weights of images by hand."""
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    rows = pq.read_table(offers).to_pylist()
    joined = [f"{row['title'] or ''} | description: {row['description']} | brand: acme".lstrip(" |") for row in rows]
    texts = embed_products(model, processor, joined)["text_embeds"]
    if pooling == "mean":  # of weight 1 each, and no brand; five titles are missing
        descriptions = embed_products(model, processor, [row["description"] for row in rows])["text_embeds"]
        titles = embed_products(model, processor, [row["title"] or row["description"] for row in rows])["text_embeds"]
        texts = torch.nn.functional.normalize(titles + descriptions, dim=1)
    images = []
    for row in rows:
        usable = [photo for photo in row["photos"] if photo != b"no image"]
        vectors = embed_products(model, processor, images=[row["front"], *usable])["image_embeds"]
        # A broken image leaves its share of the column's weight out.
        weights = torch.tensor([1.0, *(3.0 / len(row["photos"]) for _ in usable)])
        images.append(torch.nn.functional.normalize((weights[:, None] * vectors).sum(0), dim=0))
    return texts, torch.stack(images)


@pytest.mark.parametrize("pooling", ["joined", "mean"])
def test_products_are_embedded_with_the_fields_of_the_training(run, offers, tmp_path, pooling):
    report, found = embedded(run[0], offers, tmp_path / "own", field_pooling=pooling)
    texts, images = expected_of(run[0], offers, pooling)
    # Batches differ, hence to rounding.
    torch.testing.assert_close(found["text_embeds"], texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["image_embeds"], images, atol=1e-5, rtol=0)
    assert report["skipped"] == {"text": {}, "image": {}}
    assert report["passed_over"] == {"text": {}, "image": {"not_an_image": 1}}


def test_other_columns_may_be_embedded(run, offers, tmp_path):
    model, processor = EClipModel.from_pretrained(run[0]).eval(), EClipProcessor.from_pretrained(run[0])
    _, found = embedded(run[0], offers, tmp_path, text_columns=["description"], image_columns=["front"])
    rows = pq.read_table(offers).to_pylist()
    expected = embed_products(model, processor, [row["description"] for row in rows], [row["front"] for row in rows])
    for name, vectors in expected.items():
        torch.testing.assert_close(found[name], vectors, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="was begun with"):
        embedded(run[0], offers, tmp_path)


def test_offers_are_measured_with_all_their_images(run, data, offers):
    model, processor = EClipModel.from_pretrained(run[0]).eval(), EClipProcessor.from_pretrained(run[0])
    products = load_split(data, "validation")
    found = embed_dataset(model, processor, products, Accelerator(cpu=True), batch_size=7, num_workers=0)
    texts, images = expected_of(run[0], offers, "joined")
    torch.testing.assert_close(found.text_embeds, texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image_embeds, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["linear", "full"])
def test_a_head_learns_from_all_fields(run, data, offers, tmp_path, monkeypatch, method):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    arguments = FinetuneArguments(output_dir=str(tmp_path / "head"), method=method, num_epochs=1.0, batch_size=16)
    report = finetune(ModelArguments(checkpoint=str(run[0])), data, arguments)
    head, processor = load_head(str(tmp_path / "head")), EClipProcessor.from_pretrained(tmp_path / "head")
    assert isinstance(head, EClipForCategoryClassification) and set(processor.fields) == {"text", "image"}
    if method == "linear":
        assert report["validation"]["accuracy"] == 1.0  # the description tells
    task = find_task("category")
    found = evaluate_head(task, head, processor, load_split(data, "test"), data,
                          EvaluationArguments(checkpoint=str(tmp_path / "head"), modality="text"),
                          Accelerator(cpu=True))  # fmt: skip
    assert found is not None


def test_a_head_sees_the_mean_of_the_image_towers_vectors(run, data, offers):
    head = EClipForCategoryClassification.from_pretrained(
        run[0], category_paths=[["shoe"], ["mug"]], modality="image"
    ).eval()
    processor = EClipProcessor.from_pretrained(run[0])
    rows = load_split(data, "test")
    found = represent(head, rows, processor, Accelerator(cpu=True), batch_size=5).embeds.image
    row = pq.read_table(offers).to_pylist()[1]
    with torch.no_grad():
        inputs = processor(images=[row["front"], *row["photos"]], return_tensors="pt")
        vectors = torch.nn.functional.normalize(head.eclip.encode_image(**inputs).pooler_output, dim=1)
        pooled = (vectors * torch.tensor([1.0, 1.5, 1.5])[:, None]).sum(0, keepdim=True)
        expected = head.represent(image_pooler_output=pooled).image
    torch.testing.assert_close(found[1:2], expected, atol=1e-4, rtol=0)


def test_the_processor_keeps_no_fields_where_there_is_one_of_each(tmp_path):
    from training.engine.build import trained_fields

    assert trained_fields(DATA) is None
    source = json.dumps({"files": "a.parquet", "text_columns": ["name", "brand"]})
    fields = trained_fields(replace(DATA, train_data=["toy", source]))
    assert fields == {"text": [["name", 1.0], ["brand", 1.0], ["joined", 2.0]]}
