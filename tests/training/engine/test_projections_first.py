"""Projections that are trained before the towers are."""

import itertools
import json
import os
import signal
from dataclasses import replace

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import DATA, MODEL, saved_weights, train_arguments

from training.data import loaders
from training.engine import contrastive_training, feature_cache, projections_first
from training.engine.checkpoint import find_checkpoints
from training.engine.contrastive_training import train


@pytest.fixture(autouse=True)
def a_process_of_its_own(tmp_path, monkeypatch):
    """Keep vectors in a folder of the test's own, and let it choose a precision."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def before_the_towers(monkeypatch):
    """Keep the model's weights, and what is trained of it, from the time just before the towers' training."""
    seen = {}

    def keep_dtype(layer, inputs, output):
        seen["dtype"] = output.dtype

    class Loop(contrastive_training.TrainingLoop):
        def run(self, resume_from=None):
            seen["weights"] = {name: tensor.clone() for name, tensor in self.bare_model.state_dict().items()}
            seen["trained"] = {name for name, weight in self.bare_model.named_parameters() if weight.requires_grad}
            layer = self.bare_model.text_model.encoder.layer[0].intermediate.dense
            hook = layer.register_forward_hook(keep_dtype)
            result = super().run(resume_from)
            hook.remove()
            return result

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
    assert saved_weights(tmp_path / "first").keys() == saved_weights(tmp_path / "plain").keys()

    # Before any training, after the projections', and after the towers'.
    evaluations = [record for record in result.history if "loss" not in record]
    assert [record["samples"] for record in evaluations] == [0, 0, 64]
    assert result.untrained == evaluations[0] and result.trained == evaluations[-1] and result.samples == 64
    report = json.loads((tmp_path / "plain" / "report.json").read_text())
    assert evaluations[0] == pytest.approx(report["untrained"])
    losses = [[record["loss"] for record in one if "loss" in record] for one in (result.history, report["history"])]
    assert losses[0][0] < losses[1][0], "the towers begin where projections fit"


def test_towers_compute_as_they_would_without(tmp_path, before_the_towers):
    """Accelerate marks a model that it has prepared, and does not wrap it again."""
    train(MODEL, DATA, train_arguments(tmp_path, projection_epochs=1, mixed_precision="bf16", max_samples=16))
    assert before_the_towers["dtype"] == torch.bfloat16


@pytest.mark.parametrize("fields", [{}, {"mixed_precision": "bf16"}, {"cache_frozen_towers": True}])
def test_a_resumed_run_has_them_already(tmp_path, monkeypatch, fields):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    model = replace(MODEL, freeze=[r"^vision_model\."]) if "cache_frozen_towers" in fields else MODEL
    train(model, DATA, train_arguments(whole, projection_epochs=1, **fields))
    (whole / "checkpoint-32").rename(tmp_path / "kept")
    stopped.mkdir()
    (tmp_path / "kept").rename(stopped / "checkpoint-32")
    monkeypatch.setattr(feature_cache, "_encode", None)
    monkeypatch.setattr(contrastive_training, "train_projections", None)
    resumed = train_arguments(stopped, projection_epochs=1, resume_from_checkpoint="latest", **fields)
    result = train(model, DATA, resumed)
    expected = saved_weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in saved_weights(stopped).items())
    assert [record["samples"] for record in result.history if "loss" not in record] == [0, 0, 64]


@pytest.mark.parametrize("name", ["_count", "_evaluate"])
def test_a_run_that_is_stopped_in_them_starts_anew(tmp_path, monkeypatch, caplog, name):
    calls = itertools.count()
    called = getattr(projections_first.ProjectionLoop, name)

    def stopping(self, *given):
        if next(calls) == 1:  # the second batch; the evaluation at the end
            os.kill(os.getpid(), signal.SIGTERM)
        return called(self, *given)

    arguments = train_arguments(tmp_path / "out", projection_epochs=2)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(projections_first.ProjectionLoop, name, stopping)
        train(MODEL, DATA, arguments)
    assert stop.value.code == 128 + signal.SIGTERM
    assert "while projections were trained" in caplog.text and "start anew" in caplog.text
    assert not find_checkpoints(tmp_path / "out")
    train(MODEL, DATA, arguments)
    train(MODEL, DATA, train_arguments(tmp_path / "whole", projection_epochs=2))
    expected = saved_weights(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in saved_weights(tmp_path / "out").items())


def test_trackers_count_from_the_towers_training(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        contrastive_training.TrainingLoop,
        "_log",
        lambda loop, values: told.append(
            (loop.progress.samples_seen, sorted({"loss", "text_to_image_recall@1", "samples"} & values.keys()))
        ),
    )
    train(MODEL, DATA, train_arguments(tmp_path, projection_epochs=1, max_samples=32))
    recall = ["text_to_image_recall@1"]
    assert told == [(0, recall), (16, ["loss"]), (32, ["loss"]), (32, recall)]


def test_projections_learn_what_a_teacher_tells(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "teacher", seed=1))
    taught = {"teacher": str(tmp_path / "teacher"), "learning_rate": 1e-2, "max_samples": 16}
    distances = []
    for number, (epochs, weight) in enumerate(((0.0, 1.0), (20.0, 1e-6), (20.0, 100.0))):
        arguments = {**taught, "projection_epochs": epochs, "teacher_weight": weight}
        result = train(MODEL, DATA, train_arguments(tmp_path / f"run-{number}", **arguments))
        # of the step before any weight of the towers has moved
        distances.append(next(record["teacher_distance"] for record in result.history if "loss" in record))
    untrained, hardly_taught, taught_most = distances
    assert taught_most < 0.9 * min(untrained, hardly_taught), distances


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
        train(replace(MODEL, freeze=["_projection"]), DATA, arguments)
    # What the towers' training refuses is refused before theirs.
    monkeypatch.setattr(projections_first, "cache_frozen_towers", None)
    with pytest.raises(ValueError, match="`compile_backend` is 'none'"):
        train(MODEL, DATA, replace(arguments, compile=True, compile_backend="none"))
    convolutions = json.dumps({"model_type": "convnext", "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2})
    with pytest.raises(ValueError, match="`keep_patches` is 0.5, but ConvNextModel needs its patches"):
        train(replace(MODEL, vision_config=convolutions), DATA, replace(arguments, keep_patches=0.5))
    with pytest.raises(ValueError, match="parameters of both towers are trained"):
        train(MODEL, DATA, replace(arguments, cache_frozen_towers=True))
    with pytest.raises(ValueError, match=r"`projection_epochs` is -1"):
        train_arguments(tmp_path, projection_epochs=-1.0)
