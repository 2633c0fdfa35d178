"""Batches do not depend on workers, ranks or resumption, and no row is lost silently."""

import io
import zipfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_eclip.processing_eclip import EClipProcessor
from training.augmentation import ProductAugmentation
from training.data import ProductCollator, evaluation_loader, train_loader
from training.product_ids import stable_id
from training.title_tokenizer import train_title_tokenizer

NUM_ROWS = 23  # a prime: no batch size divides it
FEATURES = datasets.Features(
    {
        "title": datasets.Value("string"),
        "image": datasets.Image(decode=False),
        "catalog_id": datasets.Value("int64"),
        "row_id": datasets.Value("string"),
        "label": datasets.Value("string"),
    }
)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_row(i: int, **fields) -> dict:
    row = {"title": f"title {i}", "image": {"bytes": png(i), "path": None}, "catalog_id": i // 2, "row_id": f"r{i}"}
    return {**row, "label": "x", **fields}


def make_products(num_rows: int = NUM_ROWS) -> datasets.Dataset:
    return datasets.Dataset.from_list([make_row(i) for i in range(num_rows)], features=FEATURES)


@pytest.fixture(scope="module")
def processor() -> EClipProcessor:
    image_processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    return EClipProcessor(image_processor, train_title_tokenizer(["title 1", "title 2"], vocab_size=300))


def load(products, processor, **arguments):
    arguments = {"batch_size": 5, "total_samples": 2 * NUM_ROWS, "seed": 1, **arguments}
    return list(train_loader(products, processor, augmentation=ProductAugmentation((8, 8)), **arguments))


def same(first, second):
    """Whether two lists of batches are equal to the bit."""
    assert [batch["row_ids"] for batch in first] == [batch["row_ids"] for batch in second]
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))
    return True


def ids(batches):
    return [row_id for batch in batches for row_id in batch["row_ids"]]


def test_a_batch_holds_what_the_model_needs(processor):
    batch = load(make_products(), processor)[0]
    assert set(batch) == {
        "input_ids",
        "attention_mask",
        "pixel_values",
        "catalog_ids",
        "row_ids",
        "skipped",
        "num_rows",
        "titles",
    }
    assert batch["pixel_values"].shape == (5, 3, 8, 8)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["catalog_ids"].dtype == torch.int64
    assert batch["catalog_ids"].tolist() == [int(row_id[1:]) // 2 for row_id in batch["row_ids"]]
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == [
        f"title {row_id[1:]}" for row_id in batch["row_ids"]
    ]
    assert (batch["num_rows"], batch["skipped"]) == (5, [])


@pytest.mark.parametrize("streamed", [False, True])
def test_every_pass_sees_every_row_once_and_the_last_batch_is_short(processor, streamed):
    products = make_products().to_iterable_dataset(num_shards=3) if streamed else make_products()
    batches = load(products, processor, shuffle_buffer=8)
    assert [batch["num_rows"] for batch in batches] == [5] * 9 + [1]
    rows = ids(batches)
    everything = sorted(f"r{i}" for i in range(NUM_ROWS))
    assert sorted(rows[:NUM_ROWS]) == sorted(rows[NUM_ROWS:]) == everything
    assert rows[:NUM_ROWS] != rows[NUM_ROWS:]
    assert rows != ids(load(products, processor, shuffle_buffer=8, seed=2))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(processor, streamed, num_workers):
    products = make_products().to_iterable_dataset(num_shards=3) if streamed else make_products()
    alone = load(products, processor, shuffle_buffer=8)
    assert same(alone, load(products, processor, shuffle_buffer=8, num_workers=num_workers))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_each_global_batch(processor, streamed, num_workers):
    products = make_products().to_iterable_dataset(num_shards=3) if streamed else make_products()
    whole = load(products, processor)
    shares = [load(products, processor, rank=rank, num_ranks=2, num_workers=num_workers) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first["row_ids"] + second["row_ids"] == batch["row_ids"]
        real = [share["pixel_values"][: len(share["row_ids"])] for share in (first, second)]
        assert torch.equal(torch.cat(real), batch["pixel_values"])
    # one row is left for the last batch: the other rank gets a stand-in of the same shape
    assert [share[-1]["num_rows"] for share in shares] == [0, 1]
    assert shares[0][-1]["pixel_values"].shape == (1, 3, 8, 8)
    assert shares[0][-1]["input_ids"].shape[0] == 1
    assert shares[0][-1]["row_ids"] == []
    assert shares[0][-1].keys() == shares[1][-1].keys()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("num_batches", [1, 5, 9])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(processor, streamed, num_batches):
    products = make_products().to_iterable_dataset() if streamed else make_products()
    whole = load(products, processor)
    assert same(whole[num_batches:], load(products, processor, start=5 * num_batches, num_workers=num_batches % 2))


def test_a_late_start_in_a_stream_rereads_one_pass_and_a_rest(processor):
    reads = []

    def rows():
        reads.append("pass")
        for i in range(4):
            yield make_row(i)

    products = datasets.IterableDataset.from_generator(rows, features=FEATURES)
    whole = ids(load(products, processor, batch_size=1, total_samples=42))
    reads.clear()
    assert ids(load(products, processor, batch_size=1, total_samples=42, start=41)) == whole[41:]
    assert len(reads) == 2  # the first pass for its length, and the eleventh


def test_the_batch_size_may_follow_the_samples_seen(processor):
    batches = load(make_products(), processor, batch_size=lambda seen: 4 if seen < 8 else 10, total_samples=20)
    assert [batch["num_rows"] for batch in batches] == [4, 4, 10, 2]


def test_a_row_is_augmented_anew_in_each_epoch(processor):
    batches = load(make_products(1), processor, batch_size=1, total_samples=2)
    assert not torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_loading_leaves_the_random_state_of_training_alone(processor):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(make_products(), processor, num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("streamed", [False, True])
def test_rows_that_cannot_be_used_are_listed(processor, streamed):
    rows = [
        make_row(0),
        make_row(1, title=None),
        make_row(2, title=" \t"),
        make_row(3, image={"bytes": png(3)[:-30], "path": None}),
        make_row(4, image={"bytes": b"<html>", "path": None}),
        make_row(5, image=None),
        make_row(6, image={"bytes": None, "path": "/nowhere/6.png"}),
        make_row(7, image={"bytes": None, "path": "https://example.org/7.png"}),
        make_row(8),
    ]
    products = datasets.Dataset.from_list(rows, features=FEATURES)
    (batch,) = evaluation_loader(products.to_iterable_dataset() if streamed else products, processor, batch_size=9)
    assert batch["row_ids"] == ["r0", "r8"]
    assert batch["pixel_values"].shape[0] == batch["input_ids"].shape[0] == 2
    assert batch["catalog_ids"].tolist() == [0, 4]
    assert batch["num_rows"] == 9
    assert batch["skipped"] == [
        ("r1", "empty_title"),
        ("r2", "empty_title"),
        ("r3", "truncated"),
        ("r4", "not_an_image"),
        ("r5", "missing"),
        ("r6", "missing"),
        ("r7", "unsupported"),
    ]


def test_a_batch_of_nothing_usable_still_has_its_keys(processor):
    products = datasets.Dataset.from_list([make_row(0, title="")], features=FEATURES)
    (batch,) = evaluation_loader(products, processor, batch_size=2)
    assert batch["pixel_values"].shape == (1, 3, 8, 8)
    assert batch["catalog_ids"].shape == (0,)
    assert batch["catalog_ids"].dtype == torch.int64
    assert (batch["num_rows"], batch["skipped"]) == (1, [("r0", "empty_title")])


def test_single_offers_get_a_catalog_of_their_own_in_training_only(processor):
    rows = [make_row(0, catalog_id=-1), make_row(1, catalog_id=5)]
    products = datasets.Dataset.from_list(rows, features=FEATURES)
    arguments = {"batch_size": 4, "total_samples": 4, "seed": 0}
    (batch,) = train_loader(products, processor, **arguments)
    own = {"r0": stable_id("r0"), "r1": 5}
    assert batch["catalog_ids"].tolist() == [own[row_id] for row_id in batch["row_ids"]]
    assert batch["row_ids"].count("r0") == 2  # it meets itself, and is its own mate
    (batch,) = train_loader(products, processor, own_catalog_for_singles=False, **arguments)
    assert sorted(batch["catalog_ids"].tolist()) == [-1, -1, 5, 5]
    (batch,) = evaluation_loader(products, processor, batch_size=4)
    assert batch["catalog_ids"].tolist() == [-1, 5]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_all_rows_once_in_order_as_they_are(processor, streamed, num_workers):
    products = make_products().to_iterable_dataset(num_shards=3) if streamed else make_products()
    batches = list(evaluation_loader(products, processor, batch_size=4, num_workers=num_workers))
    assert ids(batches) == [f"r{i}" for i in range(NUM_ROWS)]
    plain = processor(images=[png(i) for i in range(4)], return_tensors="pt")["pixel_values"]
    assert torch.equal(batches[0]["pixel_values"], plain)
    shares = [evaluation_loader(products, processor, batch_size=4, rank=rank, num_ranks=2) for rank in range(2)]
    for first, second, batch in zip(*shares, batches, strict=True):
        assert first["row_ids"] + second["row_ids"] == batch["row_ids"]


def test_pictures_inside_an_archive_are_read(processor, tmp_path):
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("images/0.png", png(0))
    archived = make_row(0, image={"bytes": None, "path": f"zip://images/0.png::{tmp_path}/shop.zip"})
    absent = make_row(1, image={"bytes": None, "path": f"zip://images/1.png::{tmp_path}/shop.zip"})
    batch = ProductCollator(processor)([archived, absent], [0, 1])
    assert torch.equal(batch["pixel_values"], processor(images=[png(0)], return_tensors="pt")["pixel_values"])
    assert batch["skipped"] == [("r1", "missing")]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_loader_left_early_leaves_no_workers(processor, streamed):
    products = make_products().to_iterable_dataset() if streamed else make_products()
    before = set(torch.multiprocessing.active_children())
    batches = iter(train_loader(products, processor, batch_size=2, total_samples=1000, seed=0, num_workers=2))
    next(batches)
    assert len(set(torch.multiprocessing.active_children()) - before) == 2
    del batches
    assert set(torch.multiprocessing.active_children()) == before


def test_an_empty_stream_is_an_error(processor):
    products = make_products().to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(ValueError, match="the stream of products holds no rows"):
        load(products, processor)


def test_a_rank_that_is_none_is_an_error(processor):
    for products in (make_products(), make_products().to_iterable_dataset()):
        with pytest.raises(ValueError, match="received rank=2, num_ranks=2"):
            load(products, processor, rank=2, num_ranks=2)
