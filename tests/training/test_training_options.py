"""What a run can do besides, from arguments to a saved model: each alone and together, stopped and resumed."""

import shutil
from dataclasses import replace

import datasets
import pytest
import torch
from conftest import DATA, MODEL, saved_weights, train_arguments
from safetensors.torch import load_file

from modeling_eclip import EClipModel
from training.engine import feature_cache
from training.engine.contrastive_training import train

LOCKED = {"freeze": [r"^vision_model\."]}


@pytest.mark.parametrize(
    ("model_fields", "fields"),
    [
        ({"lora_rank": 4}, {}),
        ({}, {"keep_patches": 0.5, "layer_decay": 0.5, "ema_decay": 0.5}),
        ({**LOCKED, "lora_rank": 4}, {"cache_frozen_towers": True, "ema_decay": 0.5}),
    ],
)
def test_a_resumed_run_ends_as_one_never_stopped(model_fields, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    model = replace(MODEL, **model_fields)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(model, DATA, train_arguments(whole, max_samples=48, **fields))
    shutil.copytree(whole / "checkpoint-32", stopped / "checkpoint-32")
    encoded = []
    monkeypatch.setattr(feature_cache, "_encode", lambda *given: encoded.append(given))
    train(model, DATA, train_arguments(stopped, max_samples=48, resume_from_checkpoint="latest", **fields))
    assert not encoded, "vectors of frozen towers are found again"

    expected = saved_weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved_weights(stopped).items())
    for folder in (stopped, whole / "checkpoint-32"):
        _, info = EClipModel.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), "a plain model, whatever was trained in it"
    before, after = load_file(whole / "checkpoint-16" / "model.safetensors"), expected
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    locked = {"vision_model"} if model.freeze else set()
    assert changed == {"vision_model", "text_model", "visual_projection", "text_projection", "logit_scale"} - locked


def test_the_final_model_is_the_averaged_one(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "raw", max_samples=48))
    train(MODEL, DATA, train_arguments(tmp_path / "averaged", max_samples=48, ema_decay=0.5))
    # Steps end at 16, 32 and 48 samples; the raw run's checkpoints and end are what the average is of.
    raw = [saved_weights(tmp_path / "raw" / name) for name in ("checkpoint-16", "checkpoint-32", ".")]
    averaged = saved_weights(tmp_path / "averaged")
    kept = saved_weights(tmp_path / "averaged" / "checkpoint-32")
    for name in averaged:
        expected = 0.25 * raw[0][name] + 0.25 * raw[1][name] + 0.5 * raw[2][name]
        assert torch.allclose(averaged[name], expected, atol=1e-6), name
        assert torch.equal(kept[name], raw[1][name]), "a checkpoint holds the weights that training goes on with"
