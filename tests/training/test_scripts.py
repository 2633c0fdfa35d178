"""The scripts as a user runs them: quickstart, launched training, evaluation."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import LAUNCH, ROOT
from ranks import run_script

SMALL = ["--toy_offers", "80", "--max_samples", "64", "--batch_size", "32", "--num_workers", "0"]

# Without dropout, whose random states are each rank's own, runs on one rank and on two differ by rounding alone. With
# one layer, since what is compiled takes long to trace.
NO_DROPOUT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
              "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
TOWERS = ["--text_config", json.dumps({"model_type": "bert", **NO_DROPOUT})]
TOWERS += ["--vision_config", json.dumps({"model_type": "vit", "image_size": 64, "patch_size": 16, **NO_DROPOUT})]


def run(*command, cwd=ROOT, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", **environment}
    result = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_quickstart_then_evaluation(tmp_path):
    output_dir = tmp_path / "quickstart"
    printed = run("training/quickstart.py", *SMALL, "--output_dir", str(output_dir), "--save_every_samples", "32")
    assert "EClipModel from" in printed and "the same embeddings" in printed
    assert "untrained" in printed and "recall@10" in printed
    names = {path.name for path in output_dir.iterdir()}
    assert {"catalogue.png", "history.png", "neighbours.png", "report.json", "model.safetensors"} <= names
    assert "checkpoint-32" in names

    report_dir = tmp_path / "evaluation"
    config = ["--config", "training/configs/quickstart.yaml", "--toy_offers", "80", "--num_workers", "0"]
    evaluation = ["--checkpoint", str(output_dir), "--output_dir", str(report_dir)]
    printed = run("training/evaluate_tasks.py", *config, *evaluation)
    report = json.loads((report_dir / "report.json").read_text())
    assert list(report) == ["untrained", str(output_dir)]
    assert set(report["untrained"]) == set(report[str(output_dir)])
    assert "text_to_image_recall@10" in printed


def test_launched_ranks_train_as_one(tmp_path):
    config = ["--config", "training/configs/quickstart.yaml", *SMALL, *TOWERS]
    config += ["--save_every_samples", "32", "--projection_epochs", "1"]
    histories = {}
    for ranks in ("1", "2", "3"):
        words = [*config, "--output_dir", str(tmp_path / ranks)]
        if ranks == "2":  # by the launcher itself, once: interpreters take longer to start than to train here
            # As `accelerate launch --dynamo_backend eager` has it: compiled around the reduction of gradients.
            printed = run(*LAUNCH, ranks, "training/train.py", *words, ACCELERATE_DYNAMO_BACKEND="EAGER")
            assert "2 ranks" in printed
        else:
            run_script("training/train.py", words, int(ranks))
        histories[ranks] = json.loads((tmp_path / ranks / "report.json").read_text())["history"]
    # Evaluations before and after the projections' training, two steps, an evaluation: the same for any number of
    # ranks. One batch in another order would show.
    for ranks in ("2", "3"):
        assert len(histories["1"]) == len(histories[ranks]) == 5
        for alone, shared in zip(histories["1"], histories[ranks], strict=True):
            assert alone == pytest.approx(shared, rel=1e-3)
    # Their dropout would not be the same: every rank draws, and resumes, with random numbers of its own.
    states = [
        torch.load(tmp_path / "3" / "checkpoint-32" / f"random_state_{rank}.pt", weights_only=True)
        for rank in range(3)
    ]
    assert len({state["torch"].numpy().tobytes() for state in states}) == 3
    # What one rank began, two go on with: the same rows come, whoever takes them.
    changed = tmp_path / "changed"
    shutil.copytree(tmp_path / "1" / "checkpoint-32", changed / "checkpoint-32")
    resume = ["--output_dir", str(changed), "--resume_from_checkpoint", "latest"]
    run_script("training/train.py", [*config, *resume], 2)
    history = json.loads((changed / "report.json").read_text())["history"]
    assert len(history) == 5
    for alone, shared in zip(histories["1"], history, strict=True):
        assert alone == pytest.approx(shared, rel=1e-3)


@pytest.mark.parametrize("method", ["full", "linear"])
def test_two_launched_ranks_learn_a_task_as_one(tmp_path, method):
    config = ["--config", "training/configs/quickstart.yaml", "--toy_offers", "120", "--num_workers", "0"]
    config += [*TOWERS, "--task", "category", "--method", method]
    config += ["--num_epochs", "1", "--batch_size", "30", "--modality_dropout", "0", "--eval_every_samples", "1000"]
    reports = {}
    for ranks in ("1", "2"):
        output_dir = tmp_path / ranks
        run_script("training/finetune.py", [*config, "--output_dir", str(output_dir)], int(ranks))
        reports[ranks] = json.loads((output_dir / "report.json").read_text())
        assert (output_dir / "model.safetensors").is_file()
    alone, shared = reports["1"], reports["2"]
    assert alone["rows"] == shared["rows"] and alone["validation"] == pytest.approx(shared["validation"], abs=0.1)
    if method == "full":
        losses = [
            [entry["loss"] for entry in one["training"]["history"] if "loss" in entry] for one in reports.values()
        ]
        assert len(losses[0]) >= 3 and losses[0] == pytest.approx(losses[1], rel=1e-3)
