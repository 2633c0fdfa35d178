"""Addresses that open what they name: a run reads from them, resumes with a new signature, and writes none down."""

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import MODEL, save_checkpoint, train_arguments
from PIL import Image

from training.arguments.data import DataArguments
from training.arguments.embed import EmbedArguments
from training.arguments.prepare import PrepareArguments
from training.corpus.pipeline import prepare
from training.embedding.embed_corpus import embed_corpus
from training.engine.contrastive_training import train

# Some of its characters are those of patterns.
QUERY = "?names=[a*?]&X-Amz-Signature=s3cr3t"


@pytest.fixture
def source(store, tmp_path, monkeypatch):
    """A presigned address of a table, without its ending, and whose signature is yet to be numbered."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # the server is on this machine
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng, images = np.random.default_rng(0), [tmp_path / f"{number}.png" for number in range(24)]
    for path in images:
        Image.fromarray(rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)).save(path)
    table = pd.DataFrame({"title": [f"mug {row} of its kind" for row in range(24)], "image": map(str, images)})
    table.to_csv(tmp_path / "offers.csv", index=False)
    table.assign(image=[path.read_bytes() for path in images]).to_parquet(tmp_path / "offers.parquet")
    return f"{store[0]}/offers.{{}}{QUERY}"


def assert_told_nowhere(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(b"/offers." in path.read_bytes() for path in files)
    assert not [path for path in files if b"s3cr3t" in path.read_bytes()]


def test_a_training(source, tmp_path, caplog):
    folder = tmp_path / "run"
    for samples, resume in ((32, None), (48, "latest")):
        address = [source.format("csv") + str(samples)]
        data = DataArguments(train_data=address, validation_data=address, num_workers=0)
        train(MODEL, data, train_arguments(folder, max_samples=samples, resume_from_checkpoint=resume))
    assert (folder / "checkpoint-32/run.json").is_file()
    assert_told_nowhere(folder)
    assert "s3cr3t" not in caplog.text and "written again" not in caplog.text


def test_an_embedding(source, tmp_path):
    save_checkpoint(tmp_path / "model")
    for number in range(2):
        arguments = EmbedArguments(
            checkpoint=str(tmp_path / "model"),
            input=[source.format("csv") + str(number)],
            output_dir=str(tmp_path / "vectors"),
            modality="text",
            num_workers=0,
        )
        assert embed_corpus(arguments)["rows"] == 24
    assert_told_nowhere(tmp_path / "vectors")


def test_a_preparation(source, tmp_path):
    for number in range(2):
        report = prepare(
            PrepareArguments(input=[source.format("parquet") + str(number)], output_dir=str(tmp_path / "corpus"))
        )
        assert report["kept"] == 24
    assert_told_nowhere(tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"a column that .*offers\.parquet\?\.\.\. has not") as caught:
        prepare(
            PrepareArguments(input=[source.format("parquet")], output_dir=str(tmp_path / "other"), title_column="name")
        )
    assert "s3cr3t" not in str(caught.value)
