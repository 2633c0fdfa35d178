"""Catalogs: no chain of likenesses and no given id makes one of two products, and the order of offers is no reason."""

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.corpus.assign_splits import decide_part, read_decisions, split_of
from training.corpus.derive_catalogs import Likeness, derive_catalogs
from training.corpus.drops import Drops
from training.corpus.model_pairs import model_pairs
from training.data.catalog_ids import NO_CATALOG, stable_id


def derive(pairs, given=None, max_size=100, join_from=0.0, ids=None):
    """Groups of offers whose ids are 100 more than their rows."""
    pairs = [Likeness(*pair) for pair in pairs]
    rows = {row for pair in pairs for row in (pair.left, pair.right)}
    ids = {row: 100 + row for row in rows} if ids is None else ids
    return derive_catalogs(pairs, ids, given or {}, max_size, join_from=join_from)


def groups(found):
    """Rows by catalog."""
    catalogs = {}
    for row, catalog in found.of_row.items():
        catalogs.setdefault(catalog, set()).add(row)
    return catalogs


def as_sets(found):
    return sorted(map(sorted, groups(found).values()))


def clique(*rows, score=1.0):
    return [(left, right, score) for left in rows for right in rows if left < right]


def test_offers_that_are_all_alike_are_one_catalog():
    found = derive([*clique(3, 5, 4), *clique(0, 1)])
    assert groups(found) == {stable_id("derived:103"): {3, 4, 5}, stable_id("derived:100"): {0, 1}}
    assert (found.held_back, found.in_conflict) == (0, 0)


def test_nothing_is_derived_of_no_pairs():
    assert derive([]).of_row == {}


def test_a_chain_does_not_swallow():
    found = derive([(0, 1, 0.9), (1, 2, 0.8), (2, 3, 0.7), (3, 4, 0.6)])
    assert as_sets(found) == [[0, 1], [2, 3]] and found.held_back == 2  # 1-2 and 3-4
    # The most alike goes first, wherever it is in the chain.
    assert as_sets(derive([(0, 1, 0.7), (1, 2, 0.9), (2, 3, 0.8)])) == [[1, 2]]


def test_groups_are_joined_only_as_a_whole():
    two = [*clique(0, 1), *clique(2, 3)]
    across = [(left, right, 0.5) for left in (0, 1) for right in (2, 3)]
    assert as_sets(derive(two + across)) == [[0, 1, 2, 3]]
    for missing in across:
        assert as_sets(derive([*two, *(pair for pair in across if pair != missing)])) == [[0, 1], [2, 3]]


def test_pairs_below_the_score_do_not_join_but_do_not_keep_apart():
    pairs = [(0, 1, 1.5), (1, 2, 1.5), (0, 2, 1.4), (3, 4, 1.4)]
    assert as_sets(derive(pairs, join_from=1.45)) == [[0, 1, 2]]
    assert as_sets(derive(pairs, join_from=1.4)) == [[0, 1, 2], [3, 4]]
    assert as_sets(derive(pairs, join_from=1.6)) == []


def test_a_derived_catalog_has_no_more_than_its_largest_size():
    found = derive(clique(*range(6)), max_size=4)
    assert max(map(len, as_sets(found))) <= 4 and found.held_back
    assert as_sets(derive(clique(*range(6)), max_size=6)) == [[0, 1, 2, 3, 4, 5]]
    assert as_sets(derive(clique(0, 1), max_size=1)) == []


def test_given_ids_are_never_merged():
    found = derive([(0, 1, 1.0)], given={0: 7, 1: 8})
    assert found.of_row == {} and found.in_conflict == 1
    # Nor by way of an offer without one: it goes with the one that is most like it.
    found = derive([(0, 2, 0.9), (1, 2, 1.0), (0, 1, 0.8)], given={0: 7, 1: 8, 2: NO_CATALOG})
    assert found.of_row == {1: 8, 2: 8} and found.in_conflict == 2
    found = derive(clique(0, 1, 2, 3), given={0: 7, 3: 8})
    assert {found.of_row.get(0, 7), found.of_row.get(3, 8)} == {7, 8}


def test_given_ids_spread_to_offers_without():
    found = derive(clique(0, 1, 2), given={2: 0, 0: NO_CATALOG})
    assert found.of_row == {0: 0, 1: 0, 2: 0}  # also an id that is 0
    found = derive(clique(0, 1, 2, 3), given={0: 7, 3: 7}, max_size=2)
    assert found.of_row | {3: 7} == dict.fromkeys(range(4), 7)


def test_offers_of_one_given_id_need_not_be_alike():
    """A catalog may have two photographs: an offer that is like the one need not be like the other."""
    assert derive([(0, 1, 1.0), (2, 3, 1.0)], given={0: 7, 2: 7}).of_row == dict.fromkeys(range(4), 7)
    # Where the two are alike themselves, that makes no difference.
    found = derive([(0, 2, 2.0), (0, 1, 1.0), (2, 3, 1.0)], given={0: 7, 2: 7})
    assert found.of_row | {0: 7, 2: 7} == dict.fromkeys(range(4), 7) and not found.in_conflict


def test_a_given_id_does_not_spread_along_a_chain():
    found = derive([(0, 1, 0.9), (1, 2, 0.8), (2, 3, 0.7)], given={0: 7})
    assert found.of_row == {0: 7, 1: 7, 2: stable_id("derived:102"), 3: stable_id("derived:102")}
    assert found.held_back == 1


def random_pairs(seed, number=40):
    dice = random.Random(seed)
    product = [dice.randrange(12) for _ in range(number)]
    pairs = []
    for left in range(number):
        for right in range(left + 1, number):
            if dice.random() < (0.85 if product[left] == product[right] else 0.04):
                pairs.append((left, right, dice.choice([1.3, 1.5, 1.7])))
    return pairs, {row: dice.choice([NO_CATALOG, NO_CATALOG, 7, 8]) for row in range(number)}


@pytest.mark.parametrize("seed", range(5))
def test_promises_hold_for_any_pairs(seed):
    pairs, given = random_pairs(seed)
    found = derive(pairs, given, max_size=5, join_from=1.4)
    like = {frozenset(pair[:2]) for pair in pairs}
    for catalog, rows in groups(found).items():
        named = {given[row] for row in rows} - {NO_CATALOG}
        assert named <= {catalog}
        if not named:
            assert 2 <= len(rows) <= 5 and all(frozenset(pair[:2]) in like for pair in clique(*rows))


@pytest.mark.parametrize("seed", range(5))
def test_neither_the_order_of_pairs_nor_the_numbers_of_rows_change_the_groups(seed):
    pairs, given = random_pairs(seed)
    expected = derive(pairs, given, max_size=5, join_from=1.4)
    dice = random.Random(seed)
    shuffled = dice.sample(pairs, len(pairs))
    assert derive(shuffled, given, max_size=5, join_from=1.4) == expected
    numbers = dice.sample(range(1000), 40)
    renumbered = [(*dice.sample([numbers[left], numbers[right]], 2), score) for left, right, score in shuffled]
    ids = {number: 100 + row for row, number in enumerate(numbers)}
    found = derive(renumbered, {numbers[row]: of for row, of in given.items()}, 5, 1.4, ids)
    assert {ids[row] - 100: of for row, of in found.of_row.items()} == expected.of_row
    assert (found.held_back, found.in_conflict) == (expected.held_back, expected.in_conflict)


def test_ids_stay_when_later_offers_are_added():
    before = derive(clique(0, 1, 2)).of_row
    after = derive([*clique(0, 1, 2, 3), *clique(8, 9)]).of_row
    assert {row: after[row] for row in before} == before and after[3] == before[0]
    assert derive(clique(0, 1), ids={0: "b", 1: "a"}).of_row == dict.fromkeys((0, 1), stable_id("derived:a"))


def test_offers_without_an_id_are_named_after_their_content():
    found = derive([*clique(0, 1), *clique(2, 3), *clique(4, 5)], ids={0: 9, 1: 8, 2: 7, 3: "c1", 4: "c3", 5: "c2"})
    expected = [stable_id(f"derived:{name}") for name in ("8", "7", "c2")]
    assert found.of_row == {row: expected[row // 2] for row in range(6)}


def vectors(*rows):
    found = np.array(rows, dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_pairs_of_a_model_stand_out_from_their_neighbours():
    """Twelve products in two colours; and two offers of one product, in one colour."""
    dice = np.random.default_rng(0)
    images = vectors(*np.repeat(np.eye(12, 16), 2, axis=0) + 0.02 * dice.standard_normal((24, 16)))
    titles = [f"{word} {colour}" for word in "abcdefghijkl" for colour in ("red", "blue")]
    colours = np.zeros((24, 81), dtype=np.uint8)
    colours[range(24), [place % 2 for place in range(24)]] = 255
    colours[1], titles[1] = colours[0], titles[0]
    pairs, scores = model_pairs(images, images, titles, colours)
    assert pairs.shape == (len(scores), 2) and pairs.dtype == np.int64 and scores.dtype == np.float64
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    order = np.argsort(-scores)
    assert pairs[order[0]].tolist() == [0, 1]
    assert sorted(pairs[order[:12]].tolist()) == [[place, place + 1] for place in range(0, 24, 2)]
    twin = scores[order[1:12]].max()
    assert scores[order[0]] > twin + 0.75  # which has another colour, for one


def test_scores_of_a_model_by_hand():
    """Three offers: each has the two others as neighbours, and the background is the less alike of them."""
    images = vectors([1, 0], [0.8, 0.6], [0, 1])  # cosines 0.8, 0, 0.6
    colours = np.zeros((3, 81), dtype=np.uint8)
    colours[[0, 1, 2], [0, 0, 1]] = 255  # cosines 1, 0, 0
    pairs, scores = model_pairs(images, images, ["abc", "xyz", "uvw"], colours)  # with no letters in common
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    likeness = 2 * np.array([0.8, 0.0, 0.6])
    background = 2 * np.array([0.0, 0.6, 0.0])
    expected = [
        likeness[0] - (background[0] + background[1]) / 2 + 0.75,
        likeness[1] - (background[0] + background[2]) / 2,
        likeness[2] - (background[1] + background[2]) / 2,
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("titles", [[], ["red mug"], ["red mug", "red mug"], ["a", "b"], ["", "", "x"]])
def test_pairs_of_very_few_offers(titles):
    number = len(titles)
    embeds = np.tile(vectors([1, 0, 0, 0]), (number, 1))
    pairs, scores = model_pairs(embeds, embeds, titles, np.full((number, 81), 28, dtype=np.uint8))
    assert pairs.shape == (number * (number - 1) // 2, 2) and len(scores) == len(pairs) and np.isfinite(scores).all()


def test_shares_of_the_splits():
    """Of 20,000 keys, 5 standard deviations about the shares."""
    counts = Counter(split_of(f"catalog:{number}", 0.1, 0.05) for number in range(20_000))
    for split, share in (("train", 0.85), ("validation", 0.1), ("test", 0.05)):
        assert abs(counts[split] - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5
    assert {split_of(f"offer:{number}", 0.0, 0.0) for number in range(500)} == {"train"}


def test_splits_are_the_same_in_every_release():
    keys = [f"catalog:{number}" for number in range(8)]
    # Whoever has compared models on a test split must find the same offers there next year.
    found = [split_of(key, 0.25, 0.25) for key in keys]
    assert " ".join(found) == "test train validation train train validation test test"


def test_a_larger_test_split_keeps_what_it_had():
    for number in range(500):
        split = split_of(str(number), 0.1, 0.1)
        if split == "test":
            assert split_of(str(number), 0.1, 0.2) == "test"
        if split == "train":
            assert split_of(str(number), 0.05, 0.1) == "train"


def write_rows(folder, rows):
    """Offers as the first step leaves them."""
    (folder / "part-00000").mkdir(parents=True)
    columns = {"content": "c", "reason": None, "catalog_id": NO_CATALOG}
    columns |= {"title": "t", "title_original": "t", "title_rules": []}
    schema = [("row", pa.uint64()), ("id", pa.int64()), ("content", pa.string()), ("reason", pa.string())]
    schema += [("catalog_id", pa.int64()), ("title", pa.string()), ("title_original", pa.string())]
    schema += [("title_rules", pa.list_(pa.string()))]
    table = pa.Table.from_pylist([columns | row for row in rows], pa.schema(schema))
    pq.write_table(table, folder / "part-00000" / "a.parquet")


def test_what_becomes_of_each_offer_of_a_part(tmp_path):
    rows = [
        {"row": 0, "id": 5},
        {"row": 1, "id": 4, "reason": "empty_title", "catalog_id": 9},
        {"row": 2, "id": 3, "catalog_id": 9},
        {"row": 3, "id": 2},
        {"row": 4, "id": 1},
    ]
    write_rows(tmp_path / "rows", rows)
    drops = Drops()
    drops.add(4, "duplicate", kept=(5, 0))
    drops.add(3, "mismatched", note="score -4.00")
    decide_part(0, tmp_path / "rows", tmp_path / "decisions", drops, {0: 77, 2: 78}, {}, (0.0, 0.0))
    found = [tuple(row.values()) for row in read_decisions(tmp_path / "decisions", 0).to_pylist()]
    assert found == [
        (4, "duplicate", None, None, "5", None),
        (3, "mismatched", None, None, None, "score -4.00"),
        (2, None, "train", 9, None, None),  # the given id goes before the derived one
        (1, "empty_title", None, 9, None, None),
        (0, None, "train", 77, None, None),
    ]


def test_a_catalog_is_in_one_split_and_offers_without_an_id_are_in_all(tmp_path):
    alone = [{"row": row, "id": None, "content": f"content {row}"} for row in range(100)]
    together = [{"row": row, "id": row, "catalog_id": 3} for row in range(100, 150)]
    write_rows(tmp_path / "rows", alone + together)
    decide_part(0, tmp_path / "rows", tmp_path / "decisions", Drops(), {}, {}, (0.3, 0.3))
    decided = read_decisions(tmp_path / "decisions", 0).to_pylist()
    assert {row["split"] for row in decided if row["row"] < 100} == {"train", "validation", "test"}
    assert len({row["split"] for row in decided if row["row"] >= 100}) == 1
