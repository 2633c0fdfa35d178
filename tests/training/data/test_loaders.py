"""Batches do not depend on workers, ranks or resumption, and no row is lost silently."""

import io
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.processing_eclip import EClipProcessor
from training.data.augmentation import ProductAugmentation
from training.data.catalog_ids import stable_id
from training.data.collator import ProductCollator
from training.data.columns import ProductColumns
from training.data.images import image_state
from training.data.inputs import model_inputs
from training.data.loaders import evaluation_loader, train_loader
from training.data.pairs import ProductPairs
from training.data.parquet_stream import StreamedProducts, TableBlocks
from training.data.read_tables import load_products

_READ = StreamedProducts.read_block
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


def png_of(i: int) -> dict:
    return {"bytes": png(i), "path": None}


def make_row(i: int, **fields) -> dict:
    row = {"title": f"title {i}", "image": png_of(i), "catalog_id": i // 2, "row_id": f"r{i}"}
    return {**row, "label": "x", **fields}


def make_products(num_rows: int = NUM_ROWS) -> datasets.Dataset:
    return datasets.Dataset.from_list([make_row(i) for i in range(num_rows)], features=FEATURES)


def stream(products: datasets.Dataset, folder: Path, rows_per_block: int = 2) -> StreamedProducts:
    """The same rows as a stream of two files."""
    half = len(products) // 2
    for number, rows in enumerate((range(half), range(half, len(products)))):
        products.select(rows).to_parquet(folder / f"{number}.parquet", batch_size=rows_per_block)
    return load_products([str(folder / "*.parquet")], ProductColumns(row_id="row_id"), streaming=True)


@pytest.fixture(params=["map", "stream"])
def products(request, tmp_path) -> datasets.Dataset | StreamedProducts:
    return make_products() if request.param == "map" else stream(make_products(), tmp_path)


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
        "normalization",
        "catalog_ids",
        "row_ids",
        "positions",
        "skipped",
        "passed_over",
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


def test_every_pass_sees_every_row_once_and_the_last_batch_is_short(processor, products):
    batches = load(products, processor)
    assert [batch["num_rows"] for batch in batches] == [5] * 9 + [1]
    rows = ids(batches)
    everything = sorted(f"r{i}" for i in range(NUM_ROWS))
    assert sorted(rows[:NUM_ROWS]) == sorted(rows[NUM_ROWS:]) == everything
    assert rows[:NUM_ROWS] != rows[NUM_ROWS:]
    assert rows != ids(load(products, processor, seed=2))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(processor, products, num_workers):
    assert same(load(products, processor), load(products, processor, num_workers=num_workers))


@pytest.mark.parametrize(("num_workers", "part_size"), [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("memory_gib", [4.0, 0.0], ids=["memory", "file"])
def test_batches_do_not_depend_on_how_they_are_read(processor, num_workers, part_size, memory_gib):
    """In parts of any size, with titles of other lengths and rows that are skipped, in memory and in a file."""
    rows = [make_row(i, title="title" + i % 5 * " 1") for i in range(NUM_ROWS)]
    for place in (0, 3, 4, 11, 12, 13):
        rows[place]["image"] = None
    products = datasets.Dataset.from_list(rows, features=FEATURES)
    found = load(products, processor, num_workers=num_workers, part_size=part_size, memory_gib=memory_gib)
    assert same(load(products, processor), found)
    assert sum(len(batch["skipped"]) for batch in found) == 12


def test_pairs_do_not_depend_on_how_they_are_read(processor):
    products = datasets.Dataset.from_list(
        [make_row(i, title="title" + i % 5 * " 1") for i in range(8)], features=FEATURES
    )
    pairs = ProductPairs(products, np.arange(7), np.arange(1, 8), np.arange(7) % 2)
    whole, parts = (load(pairs, processor, batch_size=4, total_samples=12, part_size=size) for size in (64, 1))
    assert same(whole, parts)
    assert parts[0]["pixel_values"].shape == (4, 2, 3, 8, 8)


def test_no_worker_holds_more_than_a_part(processor):
    """Neither a worker nor the queue from it grows with the batch, and pixels are a byte each on the way."""
    products = make_products()
    few, many = (train_loader(products, processor, batch_size=size, total_samples=64, seed=0, part_size=4).parts
                 for size in (8, 64))  # fmt: skip
    assert len(few.dataset) == len(many.dataset) == 16
    for parts in (few, many):
        assert {part["num_rows"] for part in parts} == {4}
        assert {part["pixel_values"].dtype for part in parts} == {torch.uint8}
    with pytest.raises(ValueError, match="part_size must be at least 1, received 0"):
        load(products, processor, part_size=0)


def test_a_batch_of_nothing_usable_comes_in_parts(processor):
    products = datasets.Dataset.from_list([make_row(i, title="") for i in range(4)], features=FEATURES)
    (batch,) = load(products, processor, batch_size=4, total_samples=4, part_size=2)
    assert batch["pixel_values"].shape == (1, 3, 8, 8) and batch["catalog_ids"].shape == (0,)
    assert (batch["num_rows"], len(batch["skipped"])) == (4, 4)


def test_the_next_batch_is_read_while_one_is_trained_on(processor):
    loader = train_loader(
        make_products(), processor, batch_size=8, total_samples=64, seed=0, part_size=4, num_workers=1
    )
    numbers, assemble, begun = [], loader._assemble, threading.Semaphore(0)

    def counted(parts, number, is_stopped):
        numbers.append(number)
        begun.release()
        return assemble(parts, number, is_stopped)

    loader._assemble = counted
    batches = iter(loader)
    for place in range(3):
        next(batches)
        for _ in range(2 if place == 0 else 1):
            assert begun.acquire(timeout=60)
        assert numbers == list(range(place + 2))  # one ahead, and no more


def test_images_of_more_than_one_size_are_refused_by_name(processor):
    unresized = EClipProcessor(ViTImageProcessorPil(do_resize=False), processor.tokenizer)
    sides = [io.BytesIO(), io.BytesIO()]
    for side, buffer in zip((8, 9), sides, strict=True):
        Image.new("RGB", (side, side)).save(buffer, "PNG")
    rows = [make_row(i, image={"bytes": buffer.getvalue(), "path": None}) for i, buffer in enumerate(sides)]
    products = datasets.Dataset.from_list(rows, features=FEATURES)
    with pytest.raises(ValueError, match="rows of `pixel_values` have the shapes"):
        list(train_loader(products, unresized, batch_size=2, total_samples=2, seed=0, part_size=1))


def test_a_disk_without_room_is_an_error_that_says_so(processor, monkeypatch):
    def no_room(descriptor, num_bytes):
        raise OSError("No space left on device")

    monkeypatch.setattr("training.data.assembly._reserve", no_room)
    with pytest.raises(OSError, match="raise `batch_memory_gib`"):
        load(make_products(), processor, memory_gib=0.0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_each_global_batch(processor, products, num_workers):
    whole = load(products, processor)
    shares = [load(products, processor, rank=rank, num_ranks=2, num_workers=num_workers) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first["row_ids"] + second["row_ids"] == batch["row_ids"]
        real = [share["pixel_values"][: len(share["row_ids"])] for share in (first, second)]
        assert torch.equal(torch.cat(real), batch["pixel_values"])
    # one row is left for the last batch: the other rank gets a placeholder of the same shape
    assert [share[-1]["num_rows"] for share in shares] == [0, 1]
    assert shares[0][-1]["pixel_values"].shape == (1, 3, 8, 8)
    assert shares[0][-1]["input_ids"].shape[0] == 1
    assert shares[0][-1]["row_ids"] == []
    assert shares[0][-1].keys() == shares[1][-1].keys()


@pytest.mark.parametrize("num_batches", [1, 5, 9])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(processor, products, num_batches):
    whole = load(products, processor)
    assert same(whole[num_batches:], load(products, processor, start=5 * num_batches, num_workers=num_batches % 2))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_growing_batch_loses_and_repeats_no_row(processor, products, num_ranks, num_workers):
    arguments = {
        "batch_size": lambda seen: 3 if seen < 9 else 7 if seen < 30 else 16,
        "total_samples": 3 * NUM_ROWS,
        "num_workers": num_workers,
    }
    whole = load(products, processor, **{**arguments, "num_workers": 0})
    assert [batch["num_rows"] for batch in whole] == [3, 3, 3, 7, 7, 7, 16, 16, 7]
    for epoch in range(3):
        assert sorted(ids(whole)[NUM_ROWS * epoch :][:NUM_ROWS]) == sorted(f"r{i}" for i in range(NUM_ROWS))
    for num_seen, num_batches in ((0, 0), (16, 4), (46, 7)):  # from the start, after one change, after two
        shares = [
            load(products, processor, start=num_seen, rank=rank, num_ranks=num_ranks, **arguments)
            for rank in range(num_ranks)
        ]
        joined = [[row_id for share in batch for row_id in share["row_ids"]] for batch in zip(*shares, strict=True)]
        assert joined == [batch["row_ids"] for batch in whole[num_batches:]]


def test_a_stream_that_starts_late_reads_what_it_needs(processor, tmp_path, monkeypatch):
    products = stream(make_products(20), tmp_path)
    whole = ids(load(products, processor, batch_size=2, total_samples=50))
    reads = []
    monkeypatch.setattr(
        "training.data.parquet_stream.StreamedProducts.read_block",
        lambda self, block: reads.append(block) or _READ(self, block),
    )
    assert ids(load(products, processor, batch_size=2, total_samples=50, start=48)) == whole[48:]
    assert 1 <= len(reads) <= 2  # the two rows lie in one block or in two
    reads.clear()
    assert ids(load(products, processor, batch_size=2, total_samples=50, start=40)) == whole[40:]
    assert len(reads) == len(set(reads)), "a block is read once in an epoch"


def test_a_row_is_augmented_anew_in_each_epoch(processor):
    batches = load(make_products(1), processor, batch_size=1, total_samples=2)
    assert not torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_loading_leaves_the_random_state_of_training_alone(processor):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(make_products(), processor, num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("streamed", [False, True])
def test_rows_that_cannot_be_used_are_listed(processor, streamed, tmp_path):
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
    products = stream(products, tmp_path) if streamed else products
    (batch,) = evaluation_loader(products, processor, batch_size=9)
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_all_rows_once_in_order_as_they_are(processor, products, num_workers):
    batches = list(evaluation_loader(products, processor, batch_size=4, num_workers=num_workers))
    assert ids(batches) == [f"r{i}" for i in range(NUM_ROWS)]
    plain = processor(images=[png(i) for i in range(4)], return_tensors="pt")["pixel_values"]
    found = model_inputs(batches[0], torch.device("cpu"))["pixel_values"]
    # values from -1 to 1: no further from the image processor's own than a level of 255
    assert (found - plain).abs().max() < 2.1 / 255
    shares = [evaluation_loader(products, processor, batch_size=4, rank=rank, num_ranks=2) for rank in range(2)]
    for first, second, batch in zip(*shares, batches, strict=True):
        assert first["row_ids"] + second["row_ids"] == batch["row_ids"]


def test_images_inside_an_archive_are_read(processor, tmp_path):
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("images/0.png", png(0))
    archived = make_row(0, image={"bytes": None, "path": f"zip://images/0.png::{tmp_path}/shop.zip"})
    absent = make_row(1, image={"bytes": None, "path": f"zip://images/1.png::{tmp_path}/shop.zip"})
    batch = ProductCollator(processor)([archived, absent], [0, 1])
    assert torch.equal(batch["pixel_values"], ProductCollator(processor)([make_row(0)], [0])["pixel_values"])
    assert batch["skipped"] == [("r1", "missing")]


@pytest.mark.parametrize(
    "path",
    [
        "HTTP://shop.test/0.png",
        "cdn://shop.test/0.png",
        "s3://shop/0.png",
        "gs://shop/0.png",
        "hf://datasets/shop/images/0.png",
        "data://0.png",
        "data:image/png;base64,AAAA",
        "zip://0.png::http://shop.test/shop.zip",
        "zip://0.png::zip://shop.zip::/tmp/shops.zip",
        "filecache::/tmp/0.png",
        "zip://0.png",
        "zip://0.png::",
        "zip://0.png::/dev/zero",
        "\0",
        "x" * 5000,
    ],
)
def test_addresses_of_images_are_skipped_and_counted_and_never_opened(path, processor, monkeypatch):
    def connect(*arguments, **options):
        raise AssertionError("connected")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    batch = ProductCollator(processor)([make_row(0, image={"bytes": None, "path": path}), make_row(1)], [0, 1])
    assert batch["row_ids"] == ["r1"] and [row_id for row_id, _ in batch["skipped"]] == ["r0"]
    assert image_state({"bytes": None, "path": path}) in (None, "absent", image_state({"path": "/dev/zero"}))


def test_a_loader_left_early_leaves_no_workers(processor, products):
    before = set(torch.multiprocessing.active_children())
    batches = iter(train_loader(products, processor, batch_size=2, total_samples=1000, seed=0, num_workers=2))
    next(batches)
    assert len(set(torch.multiprocessing.active_children()) - before) == 2
    del batches
    assert set(torch.multiprocessing.active_children()) == before


def test_a_rank_beyond_the_number_of_ranks_is_an_error(processor, products):
    with pytest.raises(ValueError, match="received rank=2, num_ranks=2"):
        load(products, processor, rank=2, num_ranks=2)


def test_mates_are_not_brought_together_in_a_stream(processor, tmp_path):
    with pytest.raises(ValueError, match=r"mates_share is 0.5.*do not stream"):
        load(stream(make_products(), tmp_path), processor, mates_share=0.5)


FROZEN = {"image_pooler_output": 3, "text_pooler_output": 2}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("columns", [["image_pooler_output"], ["text_pooler_output"], list(FROZEN)])
def test_vectors_of_frozen_towers_take_the_place_of_their_inputs(processor, columns, streamed):
    vector = {name: lambda i, width=width: [i + k / 4 for k in range(width)] for name, width in FROZEN.items()}
    rows = [
        # an image that is not needed is not read
        make_row(i, image={"bytes": b"no image", "path": None} if "image_pooler_output" in columns else png_of(i))
        | {name: None if i == 2 else vector[name](i) for name in columns}
        for i in range(5)
    ]
    features = datasets.Features({**FEATURES, **{name: datasets.List(datasets.Value("float32")) for name in columns}})
    products = datasets.Dataset.from_list(rows, features=features)
    # not by `load_products`: such a column of a user's table is another thing, and gets another name
    products = StreamedProducts([TableBlocks(products)]) if streamed else products
    (batch,) = evaluation_loader(products, processor, batch_size=5)
    assert batch["row_ids"] == ["r0", "r1", "r3", "r4"]
    assert batch["skipped"] == [("r2", "missing")]
    for name in columns:
        assert batch[name].dtype == torch.float32
        assert batch[name].tolist() == [vector[name](i) for i in (0, 1, 3, 4)]  # quarters are exact in float32
    assert ("pixel_values" in batch) == ("image_pooler_output" not in columns)
    assert ("input_ids" in batch) == ("text_pooler_output" not in columns)
    assert batch["titles"] == [f"title {i}" for i in (0, 1, 3, 4)]
    # a rank without a row of its own gets placeholders of the same width
    *_, last = train_loader(products, processor, batch_size=5, total_samples=6, seed=0, rank=0, num_ranks=2)
    assert last["num_rows"] == 0
    for name in columns:
        assert last[name].shape == (1, FROZEN[name])
    assert last.keys() == batch.keys()


def test_a_frozen_column_of_nulls_is_an_error(processor):
    products = make_products(2).add_column("image_pooler_output", [None, None])
    with pytest.raises(ValueError, match="'image_pooler_output' holds nothing but nulls: no product has an image"):
        evaluation_loader(products, processor, batch_size=2)


_ENDLESS = """
import multiprocessing, sys, time
multiprocessing.set_start_method({method!r})
sys.path.insert(0, {tests!r})
import datasets
from test_loaders import FEATURES, make_row
from modeling_eclip.processing_eclip import EClipProcessor
from transformers import ViTImageProcessorPil
from training.data.loaders import train_loader
from modeling_eclip.fitting.tokenizer import train_title_tokenizer

# The row ids of a batch are more than a pipe holds, so that every worker waits to hand its next one over.
rows = [make_row(i, row_id=str(i) * 100_000) for i in range(8)]
processor = EClipProcessor(
    ViTImageProcessorPil(size={{"height": 8, "width": 8}}), train_title_tokenizer(["title"], vocab_size=300)
)
loader = train_loader(
    datasets.Dataset.from_list(rows, features=FEATURES),
    processor,
    batch_size=8,
    total_samples=10**4,
    seed=0,
    num_workers=2,
)
batches = iter(loader)
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_their_killed_main_process(method, tmp_path):
    script = _ENDLESS.format(tests=str(Path(__file__).parent), method=method)
    root = Path(__file__).parents[3]
    main = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        workers = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
        assert len(workers) == 2 and all(worker.is_running() for worker in workers)
        assert main.stdout.readline() == "ready\n"
    finally:
        main.kill()
    assert main.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    survivors = alive(workers)
    for worker in survivors:
        worker.kill()
    assert survivors == []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    # what is dead and was not waited for is a zombie
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_offers_that_lack_a_side_have_no_placeholders(processor, num_workers, num_ranks):
    """Titles and images are those that there are, in the order of the rows; nothing but broken images is skipped."""
    lacking = [{}, {"image": None}, {"title": None}, {"title": " "}, {"image": None, "title": None}, {}]
    broken = {"image": {"bytes": b"no image", "path": None}}
    rows = [make_row(i, **lacking[i % 6]) for i in range(22)] + [make_row(22, **broken)]
    products = datasets.Dataset.from_list(rows, features=FEATURES)
    settings = {"batch_size": 12, "total_samples": 23, "seed": 0, "part_size": 2, "modality": "either"}
    for rank in range(num_ranks):
        loader = train_loader(products, processor, rank=rank, num_ranks=num_ranks, num_workers=num_workers, **settings)
        for batch in loader:
            places = [int(row_id[1:]) for row_id in batch["row_ids"]]
            assert batch["has_text"].tolist() == [bool((rows[place]["title"] or "").strip()) for place in places]
            assert batch["has_image"].tolist() == [rows[place]["image"] is not None for place in places]
            assert len(batch["input_ids"]) == batch["has_text"].sum()
            assert len(batch["pixel_values"]) == batch["has_image"].sum()
            shown = [place for place in places if rows[place]["image"] is not None]
            for pixels, place in zip(batch["pixel_values"], shown, strict=True):
                alone = products.select([place])
                (expected,) = train_loader(
                    alone, processor, batch_size=1, total_samples=1, seed=0, modality="image"
                )  # without augmentation, a row is the same wherever it comes
                assert torch.equal(pixels, expected["pixel_values"][0])
            skipped = dict(batch["skipped"])
            assert set(skipped.values()) <= {"empty_title", "not_an_image"}
            assert all(int(row_id[1:]) % 6 == 4 or row_id == "r22" for row_id in skipped)


def test_a_share_without_images_has_none(processor):
    products = datasets.Dataset.from_list([make_row(i, image=None) for i in range(4)], features=FEATURES)
    (batch,) = train_loader(products, processor, batch_size=4, total_samples=4, seed=0, part_size=3, modality="either")
    assert batch["pixel_values"].shape == (0, 3, 8, 8)
    assert len(batch["input_ids"]) == 4 and not batch["has_image"].any()
