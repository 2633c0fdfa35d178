"""Hard negatives: offers of other catalogs whose titles share what few titles have."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import DATA, MODEL

from training.data import similar_titles
from training.data.loaders import train_loader
from training.data.parquet_stream import StreamedProducts, TableBlocks
from training.data.similar_titles import SIMILAR_ROWS, similar_rows
from training.engine.build import build_processor, load_split

TITLES = [
    "canon ixus 185 silver", "canon ixus 185 black", "canon ixus 190 black", "nikon d3500 kit", "nikon d3500 body",
    None, "", "a mug",
]  # fmt: skip


@pytest.mark.parametrize("rows_at_once", [3, 4096])
def test_similar_offers_are_of_other_catalogs(rows_at_once, monkeypatch):
    monkeypatch.setattr(similar_titles, "_ROWS_AT_ONCE", rows_at_once)
    found = similar_rows(TITLES, np.array([1, 1, 2, -1, -1, 3, 3, -1]), 4)
    assert found.shape == (8, 4)
    others = [set(row[row >= 0].tolist()) for row in found]
    # 0 and 1 are of one catalog; offers that are alone are not, though both have the number -1.
    assert others == [{2}, {2}, {0, 1}, {4}, {3}, set(), set(), set()]


def test_no_more_than_asked_for_are_kept():
    titles = [f"canon ixus 185 number{place}" for place in range(9)]
    found = similar_rows(titles, np.full(9, -1), 2)
    assert (found >= 0).all()
    assert all(place not in row for place, row in enumerate(found))


def test_the_most_similar_come_first_wherever_they_are():
    alone = [f"filler{place}" for place in range(19)]
    shares_all = "alpha bravo charlie delta echo"
    titles = [shares_all, *alone, f"{shares_all} foxtrot", *[f"foxtrot other{place}" for place in range(16)]]
    found = similar_rows(titles, np.full(len(titles), -1), 8)[20]
    assert found[0] == 0
    assert set(found[1:]) < set(range(21, 37))


def test_batches_hold_similar_offers_and_streams_are_refused(tmp_path):
    products = load_split(replace(DATA, toy_offers=400), "train")
    processor = build_processor(MODEL, products["title"])
    similar = similar_rows(products["title"][:], np.array(products["catalog_id"]), SIMILAR_ROWS)
    place = {row_id: row for row, row_id in enumerate(products["row_id"])}
    found = []
    for share in (0.0, 1.0):
        batches = train_loader(
            products, processor, batch_size=8, total_samples=320, seed=0, similar_share=share, modality="text"
        )
        rows = [[place[row_id] for row_id in batch["row_ids"]] for batch in batches]
        found.append(np.mean([np.isin(similar[row], batch).any() for batch in rows for row in batch]))
    assert found[1] > 1.5 * found[0] > 0  # half of the generated titles have nothing rare
    streamed = StreamedProducts([TableBlocks(products)])
    with pytest.raises(ValueError, match="similar_share is 1.0, which needs all offers in advance"):
        train_loader(streamed, processor, batch_size=32, total_samples=320, seed=0, similar_share=1.0)
