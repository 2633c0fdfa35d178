"""Offers that are there twice: pairs against brute force, and which of several stays, whatever their order."""

import random

import daft
import numpy as np
import pyarrow as pa
import pytest

from training.corpus import similar_pairs as buckets
from training.corpus.drop_duplicates import drop_near_duplicates, drop_placeholders, drop_repeats
from training.corpus.drops import Drops, in_order
from training.corpus.similar_pairs import similar_pairs, title_similarity, title_triples

WORDS = ["red", "blue", "steel", "mug", "lamp", "chair", "nike", "oak", "mini", "pro"]


def random_offers(number, seed=0):
    """Offers of a few families: hashes some bits apart, mirrored or not, and titles some words apart."""
    dice = random.Random(seed)
    families = [(dice.getrandbits(64), dice.getrandbits(64), dice.sample(WORDS, 4)) for _ in range(number // 5)]
    rows = []
    for row in range(number):
        upright, mirrored, words = dice.choice(families)
        if dice.random() < 0.4:
            upright, mirrored = mirrored, upright
        for _ in range(dice.randrange(3)):
            upright ^= 1 << dice.randrange(64)
            mirrored ^= 1 << dice.randrange(64)
        title = " ".join([*words[: dice.randrange(2, 5)], *dice.sample(WORDS, dice.randrange(2))])
        rows.append({"row": 7 * row + 3, "title_key": title, "image_hash": upright, "mirrored_hash": mirrored})
    return rows


def frame(rows):
    hashes = {
        name: pa.array([None if row[name] is None else row[name].to_bytes(8) for row in rows], pa.binary())
        for name in ("image_hash", "mirrored_hash")
    }
    numbers = pa.array([row["row"] for row in rows], pa.uint64())
    contents = pa.array([row.get("content", str(row["row"])) for row in rows], pa.string())
    titles = pa.array([row["title_key"] for row in rows], pa.string())
    return daft.from_pydict({"row": numbers, "content": contents, "title_key": titles, **hashes})


def by_brute_force(rows, max_distance, min_similarity):
    found = []
    for one in rows:
        for other in rows:
            if one["row"] >= other["row"]:
                continue
            as_it_is = (one["image_hash"] ^ other["image_hash"]).bit_count()
            turned = min(
                (one["image_hash"] ^ other["mirrored_hash"]).bit_count(),
                (one["mirrored_hash"] ^ other["image_hash"]).bit_count(),
            )
            left, right = ({key[i : i + 3] for key in [f" {title} "] for i in range(len(key) - 2)}
                           for title in (one["title_key"], other["title_key"]))  # fmt: skip
            similarity = len(left & right) / len(left | right)
            if min(as_it_is, turned) <= max_distance and similarity >= min_similarity:
                found.append((one["row"], other["row"], min(as_it_is, turned), turned < as_it_is, similarity))
    return sorted(found)


def found_pairs(rows, max_distance, min_similarity):
    pairs = similar_pairs(frame(rows), max_distance, min_similarity)
    return [tuple(pair.values()) for pair in pairs.to_pylist()]


@pytest.mark.parametrize("max_distance", [0, 1, 3, 15])
@pytest.mark.parametrize("min_similarity", [0.3, 0.8])
def test_pairs_are_those_of_brute_force(max_distance, min_similarity):
    rows = random_offers(120, seed=max_distance)
    expected = by_brute_force(rows, max_distance, min_similarity)
    assert found_pairs(rows, max_distance, min_similarity) == expected
    assert any(pair[3] for pair in expected) and any(not pair[3] for pair in expected)
    assert any(pair[2] == min(max_distance, 4) for pair in expected)


def test_hashes_that_differ_in_one_block_each_are_found():
    """Four bits, one in each of four of five blocks, and five, one in each: the limit is where it is said to be."""
    same = {"title_key": "red mug", "mirrored_hash": 0x0123456789ABCDEF}
    blocks = [64 * place // 5 for place in range(5)]
    four, five = (sum(1 << place for place in blocks[:number]) for number in (4, 5))
    rows = [same | {"row": number, "image_hash": of} for number, of in enumerate((0, four, five))]
    assert found_pairs(rows, 4, 1.0) == [(0, 1, 4, False, 1.0), (1, 2, 1, False, 1.0)]


def test_either_of_two_offers_may_be_the_mirrored_one():
    for place in (0, 1):
        rows = [
            {"row": number, "title_key": "red mug", "image_hash": 2**40 - 1, "mirrored_hash": 2**63}
            for number in (0, 1)
        ]
        rows[place] |= {"mirrored_hash": 2**20 - 1}
        rows[1 - place] |= {"image_hash": 2**20 - 2}
        assert found_pairs(rows, 1, 1.0) == [(0, 1, 1, True, 1.0)]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_without_any_pair_there_is_an_empty_table(number):
    rows = random_offers(5, seed=1)[:number]
    for place, row in enumerate(rows):
        row |= {"image_hash": 0x1111111111111111 * (place + 1), "mirrored_hash": 0x8888888888888888 ^ place << 60}
    pairs = similar_pairs(frame(rows), 0, 0.5)
    full = similar_pairs(frame(random_offers(50)), 1, 0.5)
    assert len(pairs) == 0 and len(full) and pairs.schema == full.schema
    drops = Drops()
    drop_near_duplicates(offers(range(number)), pairs, 1, 0.5, drops)
    assert not drops.reasons


def test_pairs_in_one_bucket_whose_titles_are_unlike_are_none():
    rows = [
        {"row": row, "title_key": title, "image_hash": 5, "mirrored_hash": 9}
        for row, title in enumerate(("red mug", "oak chair", ""))
    ]
    assert found_pairs(rows, 3, 0.5) == []


def test_offers_without_a_hash_are_like_none():
    rows = [{"row": row, "title_key": "red mug", "image_hash": None, "mirrored_hash": None} for row in range(3)]
    assert found_pairs(rows, 3, 0.5) == []


def test_the_order_of_rows_changes_nothing():
    rows = random_offers(120)
    expected = found_pairs(rows, 2, 0.5)
    random.Random(0).shuffle(rows)
    assert expected and found_pairs(rows, 2, 0.5) == expected


def test_the_numbers_of_rows_change_nothing():
    rows = random_offers(120)
    expected = {frozenset(pair[:2]): pair[2:] for pair in found_pairs(rows, 3, 0.5)}
    numbers = [row["row"] for row in rows]
    others = dict(zip(numbers, random.Random(1).sample(numbers, len(numbers)), strict=True))
    before = {other: number for number, other in others.items()}
    renumbered = [row | {"row": others[row["row"]]} for row in rows]
    found = {frozenset(before[row] for row in pair[:2]): pair[2:] for pair in found_pairs(renumbered, 3, 0.5)}
    assert found == expected


def test_a_large_bucket_is_compared_along_its_titles(monkeypatch):
    monkeypatch.setattr(buckets, "_LARGEST_BUCKET", 30)
    monkeypatch.setattr(buckets, "_NEIGHBORS", 2)
    numbers = list(range(40))
    random.Random(0).shuffle(numbers)
    rows = [
        {
            "row": row,
            "title_key": f"{'abcdefghij'[place // 4]} mug {'wxyz'[place % 4]}",
            "image_hash": 0,
            "mirrored_hash": 1,
        }
        for place, row in enumerate(numbers)
    ]
    found = {pair[:2] for pair in found_pairs(rows, 0, 0.0)}
    expected = {tuple(sorted(pair)) for step in (1, 2) for pair in zip(numbers, numbers[step:], strict=False)}
    assert found == expected
    monkeypatch.setattr(buckets, "_LARGEST_BUCKET", 40)
    assert len(found_pairs(rows, 0, 0.0)) == 40 * 39 // 2


def test_a_large_bucket_of_one_title_does_not_depend_on_the_numbers_of_rows(monkeypatch):
    monkeypatch.setattr(buckets, "_LARGEST_BUCKET", 10)
    monkeypatch.setattr(buckets, "_NEIGHBORS", 3)
    rows = random_offers(40)
    for place, row in enumerate(rows):
        row |= {"title_key": "red mug", "image_hash": place % 4, "mirrored_hash": 1 << 63, "content": f"{place:02d}"}
    content = {row["row"]: row["content"] for row in rows}
    expected = {frozenset(map(content.get, pair[:2])): pair[2:] for pair in found_pairs(rows, 3, 0.5)}
    renumbered = [row | {"row": 1000 - row["row"]} for row in rows]
    content = {row["row"]: row["content"] for row in renumbered}
    assert {frozenset(map(content.get, pair[:2])): pair[2:] for pair in found_pairs(renumbered, 3, 0.5)} == expected


def test_similarity_of_titles():
    assert title_triples("ab") == {" ab", "ab "}
    assert title_triples("") == frozenset()
    assert title_similarity(title_triples("abc"), title_triples("abd")) == 1 / 5
    assert title_similarity(title_triples(""), title_triples("")) == 0
    assert title_similarity(title_triples("red mug"), title_triples("red mug")) == 1


def offers(numbers, **columns):
    numbers = list(numbers)
    given = {
        "id": pa.array(numbers, pa.int64()),
        "content": pa.array([str(number) for number in numbers], pa.string()),
        "catalog_id": pa.array([-1] * len(numbers), pa.int64()),
        "colours": pa.array([bytes([255, 0, 0])] * len(numbers), pa.binary()),
    }
    return daft.from_pydict({"row": pa.array(numbers, pa.uint64()), **given, **columns})


def test_the_first_of_repeats_stays_and_is_named():
    rows = offers(
        range(6), id=pa.array([30, 10, 20, None, None, 5]), title_key=["a", "a", "a", "b", "b", "b"],
        pixel_hash=["x", "x", "x", "x", "x", "y"], content=["0", "1", "2", "4", "3", "5"],
    )  # fmt: skip
    drops = Drops()
    drop_repeats(rows, ["title_key", "pixel_hash"], "duplicate", drops)
    assert drops.reasons == dict.fromkeys([0, 2, 3], "duplicate")
    assert drops.kept == {0: 10, 2: 10, 3: None} and drops.kept_rows == {0: 1, 2: 1, 3: 4}


def test_offers_without_an_id_are_no_repeats():
    drops = Drops()
    drop_repeats(offers(range(5), id=pa.array([1, 1, None, None, 2])), ["id"], "repeated_id", drops)
    assert drops.reasons == {1: "repeated_id"} and drops.kept == {1: 1}


def test_no_repeats_in_no_offers():
    drops = Drops()
    drop_repeats(offers([]), ["id"], "repeated_id", drops)
    drop_repeats(offers([1, 2, 3]), ["id"], "repeated_id", drops)
    assert drops == Drops()


def test_what_is_dropped_first_stays_written_down():
    drops = Drops()
    drops.add(1, "duplicate", kept=("b", 2))
    drops.add(1, "mismatched", kept=("c", 3), note="score -3")
    drops.add(4, "mismatched", note="score -4")
    assert drops == Drops({1: "duplicate", 4: "mismatched"}, {1: "b"}, {1: 2}, {4: "score -4"})


def test_offers_are_ordered_by_id_then_content_and_those_without_come_last():
    rows = [
        {"id": None, "content": "a", "row": 1},
        {"id": 2, "content": "b", "row": 9},
        {"id": 2, "content": "b", "row": 0},
        {"id": 2, "content": "a", "row": 5},
        {"id": 1, "content": "z", "row": 4},
    ]
    assert [row["row"] for row in sorted(rows, key=in_order)] == [4, 5, 0, 9, 1]


def test_an_image_of_unrelated_titles_is_a_placeholder():
    unrelated = ["red mug", "oak chair", "nike shoe", "desk lamp"]
    related = ["nike air red", "nike air blue", "air jordan nike", "shoe by nike"]
    half = ["nike air", "nike pro", "oak chair", "desk lamp"]  # a word that is in half of them
    few = ["a", "b", "c", "c"]  # three different titles are too few
    titles = [*unrelated, unrelated[0], *related, *half, *few, ""]
    images = ["u"] * 5 + ["r"] * 4 + ["h"] * 4 + ["f"] * 4 + ["e"]
    rows = offers(range(len(titles)), title_key=titles, pixel_hash=images)
    drops = Drops()
    drop_placeholders(rows, 4, drops)
    assert drops.reasons == dict.fromkeys(range(5), "placeholder_image")
    assert set(drops.notes.values()) == {"one image, 4 titles"} and not drops.kept
    drops = Drops()
    drop_placeholders(rows, 5, drops)
    assert not drops.reasons
    drop_placeholders(rows, 3, drops)
    assert set(drops.reasons) == {*range(5), *range(13, 17)}


def pairs_of(*pairs):
    """Pairs as `similar_pairs` gives them: left, right, and what is not as near as can be."""
    rows = [
        {"left": left, "right": right, "distance": 0, "mirrored": False, "similarity": 1.0} | dict(*others)
        for left, right, *others in pairs
    ]
    return pa.Table.from_pylist(rows, pa.schema(similar_pairs(frame([]), 0, 1.0).schema))


def near_duplicates(rows, pairs):
    drops = Drops()
    drop_near_duplicates(rows, pairs, 1, 0.9, drops)
    assert set(drops.reasons.values()) <= {"near_duplicate"}
    return drops.kept


def test_what_is_dropped_is_like_one_that_stays():
    assert near_duplicates(offers(range(3)), pairs_of((0, 1), (1, 2))) == {1: 0}  # a chain: the third stays
    assert near_duplicates(offers(range(3)), pairs_of((0, 1), (1, 2), (0, 2))) == {1: 0, 2: 0}
    # 1 stays, so 0 and 2 go, which are like it; 3 is like 2 alone, and stays.
    order = pa.array([20, 10, 30, 40])
    assert near_duplicates(offers(range(4), id=order), pairs_of((0, 1), (1, 2), (2, 3))) == {0: 10, 2: 10}


def test_pairs_that_are_only_alike_are_no_duplicates():
    pairs = pairs_of(
        (0, 1, {"distance": 2}), (2, 3, {"mirrored": True}), (4, 5, {"similarity": 0.89}),
        (6, 7, {"distance": 1, "similarity": 0.9}),
    )  # fmt: skip
    assert near_duplicates(offers(range(8)), pairs) == {7: 6}


def test_an_image_in_other_colours_is_no_near_duplicate():
    colours = [bytes(of) for of in ([200, 158, 0], [255, 0, 0], [195, 164, 0])]  # cosines with the first: 0.78, 0.999
    rows = offers(range(3), colours=pa.array(colours, pa.binary()))
    assert near_duplicates(rows, pairs_of((0, 1), (0, 2), (1, 2))) == {2: 0}


def test_of_several_that_stay_the_first_is_named_whatever_the_numbers_of_rows():
    assert near_duplicates(offers(range(3), id=pa.array([1, 2, 3])), pairs_of((0, 2), (1, 2))) == {2: 1}
    assert near_duplicates(offers(range(3), id=pa.array([2, 1, 3])), pairs_of((0, 2), (1, 2))) == {2: 1}


def test_near_duplicates_of_any_pairs_hold_their_promise():
    dice = np.random.default_rng(0)
    for _ in range(10):
        ids = dice.permutation(30)
        like = {frozenset(dice.choice(30, 2, replace=False).tolist()) for _ in range(40)}
        pairs = pairs_of(*sorted(tuple(sorted(pair)) for pair in like))
        kept = near_duplicates(offers(range(30), id=pa.array(ids)), pairs)
        row_of = {int(number): row for row, number in enumerate(ids)}
        for row, number in kept.items():
            assert frozenset((row, row_of[number])) in like and number < ids[row] and row_of[number] not in kept
        staying = set(range(30)) - kept.keys()
        assert not any(pair <= staying for pair in like)


@pytest.mark.parametrize(
    "titles",
    [
        ["耐克男鞋黑色", "黑色耐克运动男鞋", "男鞋耐克经典款", "耐克男鞋新款", "正品耐克男鞋"],
        ["รองเท้าไนกี้สีดำ", "ไนกี้รองเท้าผู้ชาย", "รองเท้าวิ่งไนกี้", "รองเท้าไนกี้ของแท้", "ไนกี้รองเท้าใหม่"],
    ],
)
def test_titles_without_spaces_are_related_by_their_letters(titles):
    numbers = range(len(titles))
    hashes = ["same"] * len(titles)
    drops = Drops()
    drop_placeholders(offers(numbers, title_key=titles, pixel_hash=hashes), 5, drops)
    assert not drops.reasons


def test_an_image_of_one_given_catalog_is_no_placeholder():
    words = ["alder", "birch", "cedar", "ebony", "maple", "olive"]
    rows = offers(range(6), title_key=words, pixel_hash=["same"] * 6)
    drops = Drops()
    drop_placeholders(rows.with_column("catalog_id", daft.lit(7)), 5, drops)
    assert not drops.reasons
    drop_placeholders(rows, 5, drops)
    assert len(drops.reasons) == 6


def test_a_given_catalog_stays_with_the_offer_that_stays():
    rows = offers(range(3), title_key=["red mug"] * 3, pixel_hash=["same"] * 3)
    catalogs = daft.from_pydict({"row": pa.array(range(3), pa.uint64()), "catalog_id": [-1, 7, 9]})
    drops = Drops()
    drop_repeats(rows.exclude("catalog_id").join(catalogs, on="row"), ["title_key", "pixel_hash"], "duplicate", drops)
    assert set(drops.reasons) == {1, 2} and drops.given == {0: 7}


def test_titles_with_other_numbers_are_not_alike():
    title = "galaxy smartphone with a very long title of many words {} and a screen"
    rows = [
        {"row": place, "title_key": title.format(size), "image_hash": 5, "mirrored_hash": 1 << 40}
        for place, size in enumerate(["64gb", "128gb", "64gb"])
    ]
    assert {pair[:2] for pair in found_pairs(rows, 1, 0.8)} == {(0, 2)}
