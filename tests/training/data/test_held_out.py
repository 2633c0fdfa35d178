"""Products that are held out for validation: whole catalogs, whatever else the data holds."""

import datasets
import pytest

from training.arguments.data import DataArguments
from training.data.catalog_ids import NO_CATALOG
from training.data.held_out import hold_out
from training.engine.build import load_split


def products(catalog_ids):
    ids = [f"row {number}" for number in range(len(catalog_ids))]
    return datasets.Dataset.from_dict({"row_id": ids, "catalog_id": catalog_ids})


def test_whole_catalogs_are_held_out_and_stay_so_when_products_are_added():
    given = [number % 400 if number < 1200 else NO_CATALOG for number in range(2000)]
    kept, held_out = hold_out(products(given), 0.25)
    assert len(kept) + len(held_out) == 2000
    assert not set(kept["catalog_id"]) & set(held_out["catalog_id"]) - {NO_CATALOG}
    assert 0.2 < len(held_out) / 2000 < 0.3  # five standard deviations of 1,200 draws
    more = hold_out(products([*given, *range(1000, 1100)]), 0.25)[1]
    assert set(held_out["row_id"]) <= set(more["row_id"])


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_an_empty_part_is_refused(share):
    with pytest.raises(ValueError, match=r"`validation_share` is .* give another share"):
        hold_out(products([1, 2, 3]), share)


def test_training_and_validation_share_the_sources(tmp_path):
    path = tmp_path / "offers.csv"
    rows = "".join(f"mug {number},{number}.jpg,{number // 2}\n" for number in range(300))
    path.write_text("title,image,catalog_id\n" + rows)
    data = DataArguments(train_data=[str(path)], validation_share=0.2)
    train, validation = load_split(data, "train"), load_split(data, "validation")
    assert len(train) + len(validation) == 300 and len(validation) > 20
    assert not set(train["catalog_id"]) & set(validation["catalog_id"])
    with pytest.raises(ValueError, match="`validation_share`"):
        load_split(DataArguments(train_data=[str(path)]), "validation")
    with pytest.raises(ValueError, match="name your own `train_data`"):
        DataArguments(train_data=["toy"], validation_data=[str(path)]).check_training()
