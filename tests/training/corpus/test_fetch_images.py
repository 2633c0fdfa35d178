"""Images of raw offers are fetched from the table, from files and from addresses, and nothing else is read."""

import os
from pathlib import Path

import daft
import pyarrow as pa
import pytest

from training.arguments.prepare import ImageLimits, PrepareArguments
from training.corpus import fetch_images
from training.corpus.failing_hosts import FailingHosts
from training.corpus.fetch_images import image_bytes
from training.corpus.image_facts import examine_image


@pytest.fixture
def shop(tmp_path):
    """A folder of a table with images, and a file beside it that is nobody's business."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a b%20ü.png").write_bytes(b"A")
    (folder / "long.png").write_bytes(bytes(2000))
    (tmp_path / "secret.png").write_bytes(b"S")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def fetch(column, folder, **settings):
    arguments = PrepareArguments(input=["raw.parquet"], download_timeout=1.0, max_image_bytes=1000, **settings)
    offers = daft.from_pydict({"image": column})
    found = offers.select(image_bytes(offers, folder, arguments).alias("image")).to_pydict()["image"]
    return [(row["bytes"], row["reason"]) for row in found]


REFUSED, UNREACHABLE, NONE = (None, "image_refused"), (None, "image_unreachable"), (None, None)


def test_bytes_in_the_table():
    assert fetch(pa.array([b"A", None, b""], pa.binary()), None) == [(b"A", None), NONE, (b"", None)]
    assert fetch(pa.array([b"A"], pa.large_binary()), None) == [(b"A", None)]


def test_images_as_datasets_stores_them(shop):
    rows = [
        {"bytes": b"B", "path": None},
        {"bytes": b"B", "path": "images/a b%20ü.png"},  # the bytes go first
        {"bytes": None, "path": "images/a b%20ü.png"},
        {"bytes": None, "path": "../secret.png"},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    expected = [(b"B", None), (b"B", None), (b"A", None), REFUSED, NONE, NONE]
    assert fetch(pa.array(rows, kind), shop) == expected
    assert fetch(pa.array([{"bytes": b"B", "path": None}]), shop) == [(b"B", None)]  # `path` has no type there


def test_paths_and_addresses(shop):
    image = shop / "images" / "a b%20ü.png"
    expected = {
        "images/a b%20ü.png": (b"A", None),
        "  ./images/../images/a b%20ü.png ": (b"A", None),
        str(image): (b"A", None),
        f"file://{image}": (b"A", None),
        "images/none.png": UNREACHABLE,
        "images": UNREACHABLE,
        ".": UNREACHABLE,
        "pipe.png": UNREACHABLE,
        "loop.png": UNREACHABLE,
        "nul\0.png": UNREACHABLE,
        "long" * 999: UNREACHABLE,
        "../secret.png": REFUSED,
        "images/../../secret.png": REFUSED,
        str(shop.parent / "secret.png"): REFUSED,
        f"file://{shop.parent}/secret.png": REFUSED,
        "file://../secret.png": REFUSED,
        "out.png": REFUSED,
        "/etc/passwd": REFUSED,
        "/dev/zero": REFUSED,
        "zip://a.png::http://127.0.0.1:9/a.zip": REFUSED,
        "cdn://shop.test/a.png": REFUSED,
        "data://a.png": REFUSED,
        "FILE:///etc/passwd": REFUSED,
        "ftp://127.0.0.1/a.png": REFUSED,
        "file://file:///etc/passwd": REFUSED,
        "http://127.0.0.1/a.png": REFUSED,
        "HTTP://127.0.0.1/a.png": REFUSED,
        "Https://[::1]/a.png": REFUSED,
        " http://169.254.169.254/latest ": REFUSED,
        "http://": REFUSED,
        "": NONE,
        "  ": NONE,
    }
    found = fetch([*expected, None], shop)
    assert dict(zip(expected, found, strict=False)) == expected and found[-1] == NONE


def test_no_path_is_read_where_the_table_is_not_local(shop):
    assert fetch(["images/a b%20ü.png", str(shop / "long.png"), None], None) == [REFUSED, REFUSED, NONE]


def test_no_more_of_a_file_is_read_than_shows_that_it_is_too_large(shop):
    ((found, reason),) = fetch(["long.png"], shop)
    assert (len(found), reason) == (1001, None)
    assert examine_image(found, ImageLimits(max_bytes=1000)).reason == "image_too_large"


def test_own_servers_are_asked_where_the_user_allows(shop):
    assert fetch(["http://127.0.0.1:9/a.png"], shop, allow_private_addresses=True) == [UNREACHABLE]


def test_rows_of_a_host_that_is_down_are_not_waited_for(shop, monkeypatch):
    monkeypatch.setattr(fetch_images, "FAILING_HOSTS", FailingHosts(most_failures=2))
    column = [f"http://127.0.0.1:9/{row}.png" for row in range(96)]
    reasons = [reason for _, reason in fetch(column, shop, allow_private_addresses=True)]
    assert set(reasons) == {"image_unreachable", "image_host_given_up"}
    assert reasons.count("image_unreachable") < 40  # two, and what was on its way beside them
    (shop / "a.png").write_bytes(b"A")
    assert fetch(["a.png", column[0]], shop, allow_private_addresses=True) == [
        (b"A", None),
        (None, "image_host_given_up"),
    ]


def test_a_table_without_any_image():
    assert fetch(pa.nulls(2), None) == [NONE, NONE]


def test_a_column_of_something_else_is_named():
    with pytest.raises(ValueError, match="`image_column` is 'image', which holds Int64"):
        fetch([1, 2], Path())
