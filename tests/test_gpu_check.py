"""The check of a GPU: its dry run goes through all of it, and it tells what is wrong."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


def test_dry_run_goes_through_every_check(tmp_path):
    """In a process of its own, as compiled forms and accelerate's state would stay behind."""
    output = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--dry_run", "--output", str(output)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    found = json.loads(output.read_text())
    assert list(found) == ["gradients", "streams", "card", "loss", "steps", "profile", "faults"]
    assert len(found["gradients"]) == 2 * 3 * 4  # scales, what mates are, ways to compute
    assert len(found["streams"]) == 4 * 4 + 1  # runs with dropout, ways beside the first; one forward pass
    assert {row["compiled"] for row in found["streams"]} == {True, False}
    assert len(found["loss"]) == 2 * 5 + 1
    steps = found["steps"]
    assert [(row["compiled"], row["B"], row["keep_graphs"]) for row in steps] == [
        (compiled, *rest) for compiled in (False, True) for rest in ((24, "auto"), (72, "auto"), (72, "0"))
    ]
    assert all(row["MFU"] > 0 and row["kept"] == (0 if row["keep_graphs"] == "0" else row["streams"]) for row in steps)
    assert found["profile"]["kernels"] > 0
    # No figure of a CPU is told as that of a GPU.
    assert run.stdout.count(": not measured") == 2


def test_a_wrong_loss_is_told_of(check, monkeypatch, capsys):
    import gpu_correctness

    right = gpu_correctness.contrastive_loss
    monkeypatch.setattr(gpu_correctness, "contrastive_loss", lambda *a, **k: right(*a, **k) * (1 + 1e-3))
    assert check.main(["--dry_run", "--only", "gradients"]) == 1
    assert "WRONG: gradients, float32, masked, scale 14.3" in capsys.readouterr().out


def test_wrong_gradients_of_streams_are_told_of(check, monkeypatch, capsys, tmp_path):
    import gpu_correctness

    class DrawsAnew(gpu_correctness.MultiStreamAccumulation):
        """Forgets the random state that a stream was encoded with."""

        def _encode(self, model, inputs):
            torch.manual_seed(torch.seed())
            return super()._encode(model, inputs)

    monkeypatch.setattr(gpu_correctness, "MultiStreamAccumulation", DrawsAnew)
    bench = check.Bench(check.DRY, 1e12, math.inf, tmp_path)
    gpu_correctness._compare_ways(bench, 0.1, "no", compiled=False)
    assert any("encoded again" in fault for fault in bench.faults)


def test_a_section_that_fails_is_told_of(check, monkeypatch, capsys):
    def fails(bench):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(check.SECTIONS, "card", fails)
    assert check.main(["--dry_run", "--only", "card"]) == 1
    assert "card ended with RuntimeError('no such kernel')" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        check.main([])
    assert "--dry_run" in capsys.readouterr().err


def test_operations_are_those_that_torch_counts(check):
    import gpu_subject

    model = gpu_subject.build_model(16, 32, 32, (32, 2, 2), (48, 1, 2), torch.device("cpu")).eval()
    batch = gpu_subject.draw_batch(6, 32)
    full = batch["input_ids"].clamp(min=1), torch.ones_like(batch["attention_mask"])
    pixels = batch["normalization"](batch["pixel_values"])
    exact = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # a kernel of which torch counts all
    with torch.no_grad(), exact, FlopCounterMode(display=False) as counter:
        model(input_ids=full[0], attention_mask=full[1], pixel_values=pixels, return_logits=False)
    expected = gpu_subject.model_operations(model.config, full[1].sum(1), text_stream=4)
    # Beside the towers, their poolers: a product of one token.
    poolers = 2 * len(pixels) * (32**2 + 48**2)
    assert expected <= counter.get_total_flops() <= expected + poolers
