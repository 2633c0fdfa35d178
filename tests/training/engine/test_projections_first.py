"""Projections that are trained before the towers are."""

import json
import os
import signal
from dataclasses import replace

import datasets
import pytest
import torch
from conftest import DATA, MODEL, saved_weights, train_arguments

from training.data import loaders
from training.engine import contrastive_training, feature_cache, projections_first
from training.engine.checkpoint import find_checkpoints
from training.engine.contrastive_training import train


@pytest.fixture(autouse=True)
def vectors_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def before_the_towers(monkeypatch):
    """Keep the model's weights, and what is trained of it, from the time just before the towers' training."""
    seen = {}

    class Loop(contrastive_training.TrainingLoop):
        def run(self, resume_from=None):
            seen["weights"] = {name: tensor.clone() for name, tensor in self.bare_model.state_dict().items()}
            seen["trained"] = {name for name, weight in self.bare_model.named_parameters() if weight.requires_grad}
            seen["forward"] = "forward" in vars(self.bare_model)
            return super().run(resume_from)

    monkeypatch.setattr(contrastive_training, "TrainingLoop", Loop)
    return seen


def test_towers_stay_until_projections_fit(tmp_path, before_the_towers):
    train(MODEL, DATA, train_arguments(tmp_path / "plain"))
    plain = dict(before_the_towers)
    result = train(MODEL, DATA, train_arguments(tmp_path / "first", projection_epochs=20, learning_rate=1e-2))
    changed = {
        name.split(".")[0]
        for name, weight in before_the_towers["weights"].items()
        if not torch.equal(weight, plain["weights"][name])
    }
    assert changed == {"visual_projection", "text_projection", "logit_scale"}
    assert before_the_towers["trained"] == plain["trained"], "after it the towers are trained"
    assert before_the_towers["forward"] == plain["forward"], "no second wrapper of mixed precision is left"
    assert saved_weights(tmp_path / "first").keys() == saved_weights(tmp_path / "plain").keys()

    # Before any training, after the projections', and after the towers'.
    evaluations = [record for record in result.history if "loss" not in record]
    assert [record["samples"] for record in evaluations] == [0, 0, 64]
    assert result.untrained == evaluations[0] and result.trained == evaluations[-1] and result.samples == 64
    report = json.loads((tmp_path / "plain" / "report.json").read_text())
    assert evaluations[0] == pytest.approx(report["untrained"])
    losses = [[record["loss"] for record in one if "loss" in record] for one in (result.history, report["history"])]
    assert losses[0][0] < losses[1][0], "the towers begin where projections fit"


def test_a_resumed_run_has_them_already(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(MODEL, DATA, train_arguments(whole, projection_epochs=1))
    (whole / "checkpoint-32").rename(tmp_path / "kept")
    stopped.mkdir()
    (tmp_path / "kept").rename(stopped / "checkpoint-32")
    monkeypatch.setattr(feature_cache, "_encode", None)
    monkeypatch.setattr(contrastive_training, "train_projections", None)
    result = train(MODEL, DATA, train_arguments(stopped, projection_epochs=1, resume_from_checkpoint="latest"))
    expected = saved_weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in saved_weights(stopped).items())
    assert [record["samples"] for record in result.history if "loss" not in record] == [0, 0, 64]


def test_a_run_that_is_stopped_in_them_starts_anew(tmp_path, monkeypatch, caplog):
    told = {}
    contrast = projections_first.ProjectionLoop._count

    def stopping(self, ranks):
        if told.setdefault("calls", 0) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        told["calls"] += 1
        return contrast(self, ranks)

    arguments = train_arguments(tmp_path / "out", projection_epochs=2)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(projections_first.ProjectionLoop, "_count", stopping)
        train(MODEL, DATA, arguments)
    assert stop.value.code == 128 + signal.SIGTERM
    assert "while projections were trained" in caplog.text and "start anew" in caplog.text
    assert not find_checkpoints(tmp_path / "out")
    train(MODEL, DATA, arguments)
    train(MODEL, DATA, train_arguments(tmp_path / "whole", projection_epochs=2))
    expected = saved_weights(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in saved_weights(tmp_path / "out").items())


def test_titles_alone_and_adapters(tmp_path):
    catalogs = replace(DATA, image_column="none", mates_share=1.0)
    result = train(
        replace(MODEL, lora_rank=2), catalogs, train_arguments(tmp_path, projection_epochs=1, mate_contrast_weight=1.0)
    )
    assert [record["samples"] for record in result.history if "loss" not in record] == [0, 0, 64]


def test_what_cannot_be_trained_first_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "train_loader", None)  # all of it is said before training
    arguments = train_arguments(tmp_path / "out", projection_epochs=0.5)
    with pytest.raises(ValueError, match=r"`projection_epochs` is 0\.5, but streamed offers .* leave out `streaming`"):
        train(MODEL, replace(DATA, streaming=True), arguments)
    several = replace(DATA, text_columns={"title": 1, "offer_id": 1})
    with pytest.raises(ValueError, match=r"`projection_epochs` is 0\.5, and `text_columns` names several"):
        train(MODEL, several, arguments)
    with pytest.raises(ValueError, match=r"`projection_epochs` is 0\.5, and `freeze` leaves no projection to train"):
        train(replace(MODEL, freeze=["_projection", "logit_"]), DATA, arguments)
    with pytest.raises(ValueError, match=r"`projection_epochs` is -1"):
        train_arguments(tmp_path, projection_epochs=-1.0)
