"""What a probe on pairs leaves out, or cannot fit, is told."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MODEL

from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.tasks.finetuning import finetune

COLOURS = ["red", "blue", "green", "black", "white", "pink"]


@pytest.fixture
def probe(tmp_path):
    """Return what fits a matching head on pairs of titles, and the data it takes by default."""

    def write(name, number, *, empty=0, labels=(0, 1)):
        rng = np.random.default_rng(number)
        left = [f"{COLOURS[rng.integers(6)]} mug no {place}" for place in range(number)]
        label = [labels[place % len(labels)] for place in range(number)]
        right = [f"mug {one}" if same else f"lamp {one}" for one, same in zip(left, label, strict=True)]
        right[:empty] = [""] * empty
        pq.write_table(pa.table({"left": left, "right": right, "label": label}), tmp_path / f"{name}.parquet")
        return str(tmp_path / f"{name}.parquet")

    def run(train, validation, **settings):
        data = DataArguments(
            train_pairs=train, validation_pairs=validation, pair_id_column="title", num_workers=0, **settings
        )
        arguments = FinetuneArguments(
            task="matching", method="linear", modality="text", output_dir=str(tmp_path / "head"),
            overwrite_output_dir=True,
        )  # fmt: skip
        return finetune(MODEL, data, arguments)

    return run, write


def test_pairs_are_counted_not_their_titles(probe, caplog):
    run, write = probe
    train, validation = write("train", 120, empty=40), write("validation", 60)
    with pytest.raises(ValueError, match=r"40 of 120 rows skipped \(33.3%\): empty_title 40, which is more than"):
        run(train, validation)
    report = run(train, validation, max_skipped_share=0.5)
    assert report["rows"] == 80 and report["skipped"] == {"empty_title": 40}
    assert "training rows: 40 of 120 rows skipped (33.3%): empty_title 40" in caplog.text


@pytest.mark.parametrize(("labels", "missing"), [((0,), "one product"), ((1,), "two products")])
def test_pairs_of_one_kind_are_told(probe, caplog, labels, missing):
    run, write = probe
    run(write("train", 60), write("validation", 30, labels=labels))
    assert f"vectors answer alone: validation has no labelled pair of {missing}" in caplog.text
    assert "probabilities are not calibrated" in caplog.text
    caplog.clear()
    run(write("train", 60, labels=labels), write("validation", 30))
    assert f"vectors answer alone: training has no labelled pair of {missing}" in caplog.text
    assert "probabilities are not calibrated" not in caplog.text
