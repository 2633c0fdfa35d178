"""Vectors of frozen towers: what they are, when they are made anew, and what has none."""

import copy
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from accelerate import Accelerator
from conftest import make_config
from PIL import Image

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments.model import ModelArguments
from training.data.inputs import model_inputs
from training.data.loaders import evaluation_loader
from training.data.read_tables import load_products
from training.engine import feature_cache
from training.engine.build import build_processor
from training.engine.feature_cache import cache_frozen_towers
from training.engine.optimization import freeze_parameters

TITLES = ["red shoe", "blue shoe with a strap", "  ", "green bag", None, "red bag", "cap"]
BROKEN = 3  # the row whose image can't be decoded


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offers")
    rng = np.random.default_rng(0)
    images = []
    for place in range(len(TITLES)):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(file, "PNG")
        images.append({"bytes": b"no image" if place == BROKEN else file.getvalue(), "path": None})
    features = datasets.Features({"title": datasets.Value("string"), "image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"title": TITLES, "image": images}, features=features)
    table.to_parquet(folder / "train.parquet")
    return load_products([str(folder / "train.parquet")])


@pytest.fixture(scope="module")
def processor():
    vision_config = json.dumps({"model_type": "vit", "image_size": 32})
    return build_processor(ModelArguments(vision_config=vision_config, text_config="{}", vocab_size=300), TITLES)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = make_config()
    config.text_config.vocab_size = 300
    return EClipModel(config).eval()


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def no_encoding(*arguments, **keywords):
    raise AssertionError("encoded")


@pytest.mark.parametrize("frozen", [["image"], ["text"], ["image", "text"]])
def test_vectors_are_those_of_evaluation(frozen, model, products, processor, accelerator, tmp_path):
    freeze_parameters(
        model, [{"image": r"^vision_model\.", "text": r"^text_model\."}[modality] for modality in frozen]
    )
    model.train()
    cached = cache_frozen_towers(products, model, processor, accelerator, batch_size=3, cache_dir=tmp_path)
    assert model.training
    assert cached.column_names == [*products.column_names, *(f"{modality}_pooler_output" for modality in frozen)]
    assert cached["row_id"] == products["row_id"]
    model.eval()
    expected = {"image": [None] * len(TITLES), "text": [None] * len(TITLES)}
    places = {row_id: place for place, row_id in enumerate(products["row_id"])}
    for batch in evaluation_loader(products, processor, batch_size=2):
        images = model.encode_image(model_inputs(batch, accelerator.device)["pixel_values"]).pooler_output
        texts = model.encode_text(batch["input_ids"], batch["attention_mask"]).pooler_output
        for row_id, image, text in zip(batch["row_ids"], images, texts, strict=False):
            expected["image"][places[row_id]] = image
            expected["text"][places[row_id]] = text
    for modality in frozen:
        found = cached[f"{modality}_pooler_output"]
        nulls = [BROKEN] if modality == "image" else [2, 4]
        assert [place for place, vector in enumerate(found) if vector is None] == nulls
        wanted = [place for place, vector in enumerate(expected[modality]) if vector is not None]
        assert wanted == [0, 1, 5, 6]
        for place in wanted:
            assert torch.allclose(torch.tensor(found[place]), expected[modality][place], atol=1e-5)


def test_a_loader_starts_its_workers_once(model, products, processor, accelerator, tmp_path, loaders_started):
    freeze_parameters(model, [r"^vision_model\."])
    cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    assert len(loaders_started) == 1


def test_workers_may_be_spawned(model, products, processor, accelerator, tmp_path, start_method):
    start_method("spawn")
    freeze_parameters(model, [r"^vision_model\."])
    first, second = (
        cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path / str(n), num_workers=n)
        for n in (0, 1)
    )
    assert first["image_pooler_output"] == second["image_pooler_output"]


def test_offers_are_encoded_once(model, products, processor, accelerator, tmp_path, monkeypatch):
    freeze_parameters(model, [r"^vision_model\."])
    monkeypatch.setattr(feature_cache, "_ROWS_IN_A_PIECE", 3)
    first = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)["image_pooler_output"]
    pieces = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert pieces == ["0.arrow", "3.arrow", "6.arrow"]

    encode, encoded = model.encode_image, []
    monkeypatch.setattr(model, "encode_image", no_encoding)
    again = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    assert again["image_pooler_output"] == first

    # A run that was stopped goes on with the pieces that are not there yet.
    def count(pixel_values):
        encoded.append(len(pixel_values))
        return encode(pixel_values)

    monkeypatch.setattr(model, "encode_image", count)
    next(tmp_path.rglob("3.arrow")).unlink()
    assert cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)[:]["image_pooler_output"]
    assert encoded == [2]  # of rows 3, 4 and 5, row 3 is broken


def test_titles_are_encoded_once_whatever_else_the_table_holds(
    model, products, processor, accelerator, tmp_path, monkeypatch
):
    freeze_parameters(model, [r"^text_model\."])
    monkeypatch.setattr(feature_cache, "_ROWS_IN_A_PIECE", 3)
    first = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)["text_pooler_output"][:]
    changed = products.map(lambda row: {"row_id": f"shop: {row['row_id']}"}).add_column("weight", [2.0] * len(TITLES))
    twice = datasets.concatenate_datasets([changed.select(range(6)), changed.select(range(3))])
    whole, encode = [], model.encode_text
    monkeypatch.setattr(model, "encode_text", no_encoding)
    found = cache_frozen_towers(twice, model, processor, accelerator, cache_dir=tmp_path)["text_pooler_output"][:]
    assert found == first[:6] + first[:3]

    def count(input_ids, attention_mask):
        whole.append(len(input_ids))
        return encode(input_ids, attention_mask)

    monkeypatch.setattr(model, "encode_text", count)
    other = [*products["title"][:3], "another title", *products["title"][4:]]
    renamed = products.remove_columns("title").add_column("title", other)
    found = cache_frozen_towers(renamed, model, processor, accelerator, cache_dir=tmp_path)["text_pooler_output"][:]
    assert found[:3] == first[:3] and found[6:] == first[6:] and found[3] != first[3]
    assert sum(whole) == sum(bool((title or "").strip()) for title in other[3:6])  # the piece of the other title alone


def test_files_of_images_that_change_appear_or_go_are_encoded_anew(
    model, processor, accelerator, tmp_path, monkeypatch
):
    freeze_parameters(model, [r"^vision_model\."])
    monkeypatch.setattr(feature_cache, "_ROWS_IN_A_PIECE", 2)
    for place in range(4):
        Image.effect_noise((32, 32), 50 + place).convert("RGB").save(tmp_path / f"{place}.png")
    paths = [f"{place}.png" for place in range(6)]  # two of which are not there
    pa.csv.write_csv(pa.table({"title": paths, "image": paths}), tmp_path / "train.csv")
    table = load_products([str(tmp_path / "train.csv")])
    written = []
    write = feature_cache._write
    monkeypatch.setattr(feature_cache, "_write", lambda path, *rest: (written.append(path.stem), write(path, *rest)))

    def vectors():
        written.clear()
        cached = cache_frozen_towers(table, model, processor, accelerator, cache_dir=tmp_path / "cache")
        return cached["image_pooler_output"][:]

    first = vectors()
    assert written == ["0", "2", "4"] and first[4:] == [None, None]
    assert vectors() == first and not written
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "1.png")
    second = vectors()
    assert written == ["0"] and second[2:] == first[2:] and second[1] != first[1]
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "4.png")
    (tmp_path / "3.png").unlink()
    third = vectors()
    assert written == ["2", "4"] and third[3] is None
    np.testing.assert_allclose(third[4], second[1], atol=1e-5)  # the same picture, in batches of one and of two


@pytest.mark.parametrize("cut", [0, 200, -1])
def test_a_piece_that_is_broken_is_made_anew(cut, model, products, processor, accelerator, tmp_path):
    freeze_parameters(model, [r"^vision_model\."])
    first = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)["image_pooler_output"][:]
    (piece,) = tmp_path.rglob("*.arrow")
    whole = piece.read_bytes()
    piece.unlink()  # its bytes are mapped into memory
    piece.write_bytes(whole[: cut if cut >= 0 else len(whole) // 2])
    again = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)["image_pooler_output"][:]
    assert again == first and piece.read_bytes() == whole


def test_a_run_that_finds_vectors_goes_on_as_one_that_makes_them(model, products, processor, accelerator, tmp_path):
    freeze_parameters(model, [r"^vision_model\."])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in range(2):
        copied = copy.deepcopy(model)
        cache_frozen_towers(products, copied, processor, accelerator, cache_dir=tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        weight = copied.vision_model.embeddings.patch_embeddings.projection.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_resumed_run_finds_them(model, products, processor, accelerator, tmp_path, monkeypatch):
    freeze_parameters(model, [r"^vision_model\.", r"^text_model\."])
    first = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path / "cache")
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    resumed = EClipModel.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    freeze_parameters(resumed, [r"^vision_model\.", r"^text_model\."])
    monkeypatch.setattr(feature_cache, "_encode", no_encoding)
    again = cache_frozen_towers(
        products,
        resumed,
        EClipProcessor.from_pretrained(tmp_path / "checkpoint"),
        accelerator,
        cache_dir=tmp_path / "cache",
    )
    assert again[:] == first[:]


def change_weights(model, processor, products):
    with torch.no_grad():
        model.vision_model.layernorm.bias[0] += 1e-3
    return model, processor, products


def change_pooling(model, processor, products):
    model.config.vision_pooling = "mean"
    return model, processor, products


def change_processor(model, processor, products):
    processor = EClipProcessor(
        type(processor.image_processor)(size={"height": 32, "width": 32}, image_mean=[0.4] * 3), processor.tokenizer
    )
    return model, processor, products


def change_products(model, processor, products):
    return model, processor, products.select([1, 0])


@pytest.mark.parametrize("change", [change_weights, change_pooling, change_processor, change_products])
def test_what_the_vectors_depend_on_makes_them_anew(
    change, model, products, processor, accelerator, tmp_path, monkeypatch
):
    freeze_parameters(model, [r"^vision_model\."])
    cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    with torch.no_grad():
        model.text_projection.weight.zero_()  # nothing to the image tower
    monkeypatch.setattr(model, "encode_image", no_encoding)
    cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    model, processor, products = change(model, processor, products)
    with pytest.raises(AssertionError, match="encoded"):
        cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)


def test_ranks_share_the_work(model, products, processor, accelerator, tmp_path, monkeypatch):
    freeze_parameters(model, [r"^vision_model\."])
    monkeypatch.setattr(feature_cache, "_ROWS_IN_A_PIECE", 2)
    expected = cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path / "one")
    written = []
    write = feature_cache._write
    monkeypatch.setattr(feature_cache, "_write", lambda path, *rest: (written.append(path.stem), write(path, *rest)))

    barrier = threading.Barrier(2, timeout=300)
    processors = [copy.deepcopy(processor) for _ in range(2)]  # ranks are processes and share none

    def run(number):
        rank = SimpleNamespace(
            process_index=number,
            num_processes=2,
            device=torch.device("cpu"),
            mixed_precision="no",
            is_local_main_process=number == 0,
            autocast=accelerator.autocast,
            wait_for_everyone=barrier.wait,
        )
        return cache_frozen_towers(products, model, processors[number], rank, cache_dir=tmp_path / "two")

    with ThreadPoolExecutor(2) as threads:
        ranks = list(threads.map(run, range(2)))
    assert sorted(written) == ["0", "2", "4", "6"], "each piece by one rank"
    for cached in ranks:
        assert cached["image_pooler_output"][:] == expected["image_pooler_output"][:]


def test_what_has_no_frozen_tower_is_refused(model, products, processor, accelerator, tmp_path):
    freeze_parameters(model, [r"^vision_model\.layers\.0\."])
    with pytest.raises(ValueError, match="parameters of both towers are trained; freeze a whole one"):
        cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    freeze_parameters(model, [r"^vision_model\."])
    with pytest.raises(ValueError, match="leave out `streaming`"):
        cache_frozen_towers(products.to_iterable_dataset(), model, processor, accelerator, cache_dir=tmp_path)


def test_encoding_is_evaluation(products, processor, accelerator, tmp_path):
    model = EClipModel(make_config("resnet")).train()
    freeze_parameters(model, [r"^vision_model\."])
    before = model.vision_model.embedder.embedder.normalization.running_mean.clone()
    cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    assert torch.equal(before, model.vision_model.embedder.embedder.normalization.running_mean)


def test_vectors_that_are_not_finite_are_not_kept(model, products, processor, accelerator, tmp_path):
    freeze_parameters(model, [r"^text_model\."])
    titles = [set(processor.tokenizer(title or "")["input_ids"]) for title in products["title"][:]]
    row = max(range(len(titles)), key=lambda row: len(titles[row]))
    (token, *_) = titles[row].difference(*titles[:row], *titles[row + 1 :])  # that no other title has
    with torch.no_grad():
        model.text_model.get_input_embeddings().weight[token] = float("nan")
    with pytest.raises(FloatingPointError, match=f"text in row {row} that is not finite"):
        cache_frozen_towers(products, model, processor, accelerator, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))
