"""Ids that are the same everywhere."""

import subprocess
import sys

import pyarrow as pa
import pytest

from training.data.catalog_ids import NO_CATALOG, catalog_numbers, stable_id


def numbers(values, kind=None):
    return catalog_numbers(pa.array(values, type=kind), "here").tolist()


def test_stable_id_does_not_depend_on_the_process():
    code = "from training.data.catalog_ids import stable_id; print(stable_id('신발 👟'))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == stable_id("신발 👟")
    assert 0 <= stable_id("a") < 2**63
    assert stable_id("a") != stable_id("b")


def test_integers_are_kept_and_gaps_are_alone():
    assert numbers([0, None, 7, -1]) == [0, NO_CATALOG, 7, NO_CATALOG]
    assert numbers([5.0, None, float("nan")]) == [5, NO_CATALOG, NO_CATALOG]
    assert numbers([1, 255], pa.uint8()) == [1, 255]
    assert numbers([], pa.int64()) == []
    assert numbers([None, None]) == [NO_CATALOG, NO_CATALOG]


def test_text_is_hashed_and_numbers_written_as_text_are_numbers():
    assert numbers(["B07", "", " ", None, "12", "012"]) == [
        stable_id("B07"),
        NO_CATALOG,
        NO_CATALOG,
        NO_CATALOG,
        12,
        stable_id("012"),
    ]


def test_integers_beyond_the_range_are_hashed():
    assert numbers([-5, 3]) == [stable_id("-5"), 3]
    assert numbers([2**64 - 1, 3], pa.uint64()) == [stable_id(str(2**64 - 1)), 3]


@pytest.mark.parametrize("values", [[True], [1.5], [["a"]]])
def test_other_types_are_refused(values):
    with pytest.raises(ValueError, match="here holds .* An id is text or a whole number"):
        numbers(values)
