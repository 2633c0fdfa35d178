"""Parts are written to files of the corpus: every offer once, in the order of the decisions."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.corpus.write_shards import Shard, iterate_rows, plan_shards


def write_decisions(folder, *parts):
    """Decisions of parts, as splits; `None` is a dropped offer."""
    folder.mkdir()
    for number, splits in enumerate(parts):
        decided = {"row": pa.array(range(len(splits)), pa.uint64()), "split": pa.array(splits, pa.string())}
        pq.write_table(pa.table(decided), folder / f"part-{number:05d}.parquet")


def test_shards_by_hand(tmp_path):
    write_decisions(tmp_path / "d", ["train"] * 5 + [None], [], ["train", "test"] * 3, ["train"])
    assert plan_shards(tmp_path / "d", 4, 4) == [
        Shard("kept/train-00000-of-00003.parquet", "train", ((0, 0, 4),)),
        Shard("kept/train-00001-of-00003.parquet", "train", ((0, 4, 5), (2, 0, 3))),
        Shard("kept/train-00002-of-00003.parquet", "train", ((3, 0, 1),)),
        Shard("kept/test-00000-of-00001.parquet", "test", ((2, 0, 3),)),
        Shard("dropped/dropped-00000-of-00001.parquet", "dropped", ((0, 0, 1),)),
    ]
    assert [shard.in_corpus for shard in plan_shards(tmp_path / "d", 4, 4)] == [True] * 4 + [False]


@pytest.mark.parametrize("rows_per_shard", [1, 3, 7, 1000])
def test_shards_hold_every_offer_once(tmp_path, rows_per_shard):
    dice = random.Random(rows_per_shard)
    splits = [dice.choices(["train", "test", None], [8, 1, 1], k=dice.randrange(20)) for _ in range(6)]
    write_decisions(tmp_path / "d", *splits)
    shards = plan_shards(tmp_path / "d", 6, rows_per_shard)
    for name, split in (("train", "train"), ("test", "test"), ("dropped", None)):
        runs = [shard.runs for shard in shards if shard.split == name]
        sizes = [sum(end - start for _, start, end in of) for of in runs]
        assert all(size == rows_per_shard for size in sizes[:-1])
        held = [(part, row) for of in runs for part, start, end in of for row in range(start, end)]
        assert held == [(part, row) for part in range(6) for row in range(splits[part].count(split))]


def test_rows_are_taken_in_the_order_of_their_numbers(tmp_path):
    numbers = pa.array([2**48 + place for place in range(6)], pa.uint64())
    whole = pa.table({"row": numbers, "title": list("abcdef"), "image": [b"x"] * 6})
    for place in range(0, 6, 2):
        pq.write_table(whole.slice(place, 2), tmp_path / f"{9 - place}.parquet")
    wanted = pa.array([2**48 + place for place in (4, 0, 5, 3)], pa.uint64())
    found = [table.to_pydict() for table in iterate_rows(tmp_path, wanted, 3, columns=("title",))]
    assert found == [
        {"row": wanted.to_pylist()[:3], "title": ["e", "a", "f"]},
        {"row": wanted.to_pylist()[3:], "title": ["d"]},
    ]
    assert not list(iterate_rows(tmp_path, wanted[:0], 3))
