"""Ids and words are text, written by one rule whatever type a table holds them in."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from training.data.catalog_ids import catalog_numbers, stable_id
from training.data.ids import id_texts, word_of

EAN = 4006381333931


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        ([EAN, None], pa.int64(), ["4006381333931", None]),
        ([2**64 - 1], pa.uint64(), [str(2**64 - 1)]),
        ([float(EAN), None, float("nan")], pa.float64(), ["4006381333931", None, None]),
        (["00012345", "12345", "1.0", " a", " "], pa.string(), ["00012345", "12345", "1.0", " a", None]),
        ([Decimal("12"), Decimal("34.00")], pa.decimal128(9, 2), ["12", "34"]),
        ([b"abc", b"\xff\x01"], pa.binary(), ["abc", "ff01"]),
        ([datetime.date(2026, 1, 2)], pa.date32(), ["2026-01-02"]),
        (["7" * 5000], pa.string(), ["7" * 5000]),
    ],
)
def test_an_id_is_text(values, kind, texts):
    assert id_texts(pa.array(values, kind), "here").to_pylist() == texts


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float(2**53), "the last digits are lost"),
        (1e300, "the last digits are lost"),
        (0.5, "no whole number"),
        (float("inf"), "no whole number"),
        (True, "true or false"),
        ([1], "a list"),
        ({"a": 1}, "a dict"),
    ],
)
def test_what_is_no_id_is_refused(value, why):
    with pytest.raises(ValueError, match=f"^here holds .*{why}.*name another column, or store it as text"):
        id_texts(pa.array([value]), "here")


def test_a_short_float_loses_digits_sooner():
    assert id_texts(pa.array([2.0**24 - 1], pa.float32()), "here").to_pylist() == ["16777215"]
    with pytest.raises(ValueError, match="the last digits are lost"):
        id_texts(pa.array([4006381333931.0], pa.float32()), "here")


def test_large_catalog_ids_stay_different():
    wide = [str(2**63 + 40 + number) for number in range(40)] + ["7" * 5000, "7" * 4999]
    assert len(set(catalog_numbers(pa.array(wide), "here").tolist())) == 42
    largest = 2**63 - 1  # the same number, whichever type holds it
    assert catalog_numbers(pa.array([largest]), "here").tolist() == [largest]
    assert catalog_numbers(pa.array([str(largest)]), "here").tolist() == [largest]
    assert catalog_numbers(pa.array([b"\xff"]), "here").tolist() == [stable_id("ff")]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (40, "40"),
        (40.0, "40"),
        ("40.0", "40"),
        ("40", "40"),
        (Decimal("40.00"), "40"),
        (40.5, "40.5"),
        ("v2.0", "v2.0"),
        (" red ", "red"),
        ("None", "None"),
        (b"rot", "rot"),
        (True, "True"),
        (["red"], "red"),
        (["red", None, "red"], "red"),
        ([], None),
        (" ", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_word(value, word):
    assert word_of(value, "size") == word


@pytest.mark.parametrize("value", [["red", "blue"], {"a": 1}])
def test_several_values_are_no_word(value):
    with pytest.raises(ValueError, match="column 'size' holds"):
        word_of(value, "size")
