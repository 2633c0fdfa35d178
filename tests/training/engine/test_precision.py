"""Precision is decided by what was asked for and the kind of device; a CPU's instructions have no say."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import DATA, MODEL, save_checkpoint, train_arguments

from modeling_eclip import EClipModel
from training.arguments.groups import EvaluationArguments
from training.engine.precision import precision_of_device, training_precision
from training.evaluate_tasks import evaluate, load_checkpoint
from training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def fresh_state(monkeypatch):
    """The process's accelerator is chosen again in this test, and in the next one."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_a_cpu_computes_in_float32_unless_asked(has_bfloat16, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16, "amx_bf16": has_bfloat16})
    assert precision_of_device(CPU) == "no"
    if not torch.accelerator.is_available():
        assert training_precision("auto") == "no"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert training_precision("auto") == "no"


@pytest.mark.parametrize(("computes_in_it", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_computes_in_bfloat16_where_it_is_no_emulation(computes_in_it, precision, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes_in_it
    )
    assert precision_of_device(torch.device("cuda", 1)) == precision


def test_what_is_asked_for_is_done(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert training_precision("auto") == "bf16", "accelerate launch --mixed_precision bf16"
    assert training_precision("no") == "no"
    assert training_precision("fp16") == "fp16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as accelerate launch sets it without being asked
    assert training_precision("auto") == "no"


@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_a_training_says_what_it_computed_in(asked, fresh_state, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    seen = []
    forward = EClipModel.forward

    def spy(self, *words, **inputs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *words, **inputs)

    monkeypatch.setattr(EClipModel, "forward", spy)
    with caplog.at_level("INFO"):
        train(MODEL, replace(DATA), train_arguments(tmp_path, max_samples=16, mixed_precision=asked))
    computed = "bf16" if asked == "bf16" else "no"
    assert set(seen) == {computed == "bf16"}
    assert f"precision {computed}" in caplog.text
    assert json.loads((tmp_path / "report.json").read_text())["mixed_precision"] == computed


@pytest.mark.parametrize("asked", ["no", "bf16"])
def test_evaluation_is_in_float32_unless_asked(asked, fresh_state, tmp_path, monkeypatch):
    """Whatever precision the checkpoint was saved in, and whatever `accelerate launch` was told."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    model, _ = save_checkpoint(tmp_path)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_checkpoint(str(tmp_path))()
    assert loaded[0].dtype == torch.float32
    seen = []
    loaded[0].register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    evaluate({"model": lambda: loaded}, DATA, EvaluationArguments(eval_mixed_precision=asked))
    assert set(seen) == {asked == "bf16"}
