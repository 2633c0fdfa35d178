"""Number and size of catalogs, told and judged."""

import logging

import datasets
import numpy as np
import pytest

from training.data.catalogs import CatalogSizes, check_catalogs, tell_repeated_ids
from training.data.read_tables import load_products


def test_sizes_are_counted():
    sizes = CatalogSizes.of(np.array([7, 7, 7, 0, 0, -1, -1, 9]))
    assert sizes == CatalogSizes(num_rows=8, num_catalogs=3, largest=3, num_alone=2)
    assert str(sizes) == "8 offers in 3 catalogs, 3 of them in the largest (37.5%); 2 without a catalog"
    assert CatalogSizes.of(np.full(3, -1)) == CatalogSizes(3, 0, 0, 3)


@pytest.mark.parametrize("streaming", [False, True])
def test_one_catalog_of_most_offers_is_refused(tmp_path, monkeypatch, caplog, streaming):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ids = [5] * 300 + list(range(10, 210))
    table = datasets.Dataset.from_dict({"title": ["a"] * 500, "image": ["x.png"] * 500, "catalog_id": ids})
    table.to_parquet(str(tmp_path / "a.parquet"), batch_size=50)
    products = load_products([str(tmp_path / "a.parquet")], streaming=streaming)
    with pytest.raises(ValueError, match=r"offers: 500 offers in 201 catalogs, 300 .*one catalog may hold 50%"):
        check_catalogs(products, "offers", 0.5)
    with caplog.at_level(logging.INFO):
        check_catalogs(products, "offers", 0.6)
    assert "offers: 500 offers in 201 catalogs, 300 of them in the largest (60.0%)" in caplog.text


def test_a_few_offers_of_one_product_are_no_mistake():
    CatalogSizes.of(np.zeros(7, dtype=np.int64)).check("offers", 0.5)
    CatalogSizes.of(np.array([0] * 8 + [1])).check("offers", 0.5)
    with pytest.raises(ValueError, match="8 of them in the largest"):
        CatalogSizes.of(np.zeros(8, dtype=np.int64)).check("offers", 0.5)


def test_ids_that_several_offers_without_a_catalog_have_are_told(caplog):
    products = datasets.Dataset.from_dict({"row_id": ["a", "b", "b", "c", "c"], "catalog_id": [-1, -1, -1, 4, 4]})
    tell_repeated_ids(products, "offers")
    assert "offers: 1 ids, such as 'b', are those of several offers without a catalog" in caplog.text
    caplog.clear()
    tell_repeated_ids(products.select([0, 1, 3, 4]), "offers")
    assert not caplog.text
