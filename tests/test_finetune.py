"""Fine-tuning from arguments to saved heads, on a few drawn offers: every method, resuming, the best by validation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_eclip import EClipForCategoryClassification, EClipModel, EClipProcessor
from training.arguments import DataArguments, FinetuneArguments, ModelArguments
from training.best_weights import BestWeights
from training.build import build_model, build_processor, load_split
from training.checkpoint import find_checkpoints
from training.decisions import calibrate, threshold_of_best_f1, threshold_of_recall
from training.finetune import finetune
from training.task_models import load_head
from training.tasks import choose_labelled

# Towers as small as tests/conftest.py has them; dropout stays on, so that a resumed run must restore random states.
TOWERS = ModelArguments(
    vision_config=json.dumps(
        {"model_type": "vit", "image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2, "intermediate_size": 64}
    ),
    text_config=json.dumps(
        {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 64}
    ),
    vocab_size=300,
    projection_dim=16,
    max_title_length=16,
)  # fmt: skip
DATA = DataArguments(toy_offers=100, num_workers=0)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A base checkpoint with its processor."""
    folder = tmp_path_factory.mktemp("base")
    titles = load_split(DATA, "train")["title"]
    processor = build_processor(TOWERS, titles)
    build_model(TOWERS, processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return ModelArguments(checkpoint=str(folder))


def arguments(folder, **fields):
    settings = {"output_dir": str(folder), "num_epochs": 1.0, "batch_size": 16, "warmup_share": 0.0}
    return FinetuneArguments(**settings | fields)


def answers(head, processor, titles):
    head.eval()
    with torch.no_grad():
        return head(**processor(text=titles, return_tensors="pt")).logits


@pytest.mark.parametrize("modality", ["text", "both"])
def test_a_linear_probe_answers_in_words(base, tmp_path, modality):
    data = replace(DATA, validation_split="train")  # a few held-out rows of 30 kinds would choose by chance
    report = finetune(base, data, arguments(tmp_path, method="linear", modality=modality))
    head, processor = (
        EClipForCategoryClassification.from_pretrained(tmp_path),
        EClipProcessor.from_pretrained(tmp_path),
    )
    assert head.config.modality == modality
    rows = load_split(DATA, "train")
    found = head.decode(answers(head, processor, list(rows["title"])))
    right = [paths[0][0] == tuple(path) for paths, path in zip(found, rows["category"], strict=True)]
    assert np.mean(right) > 0.3  # of 30 kinds, from towers that have learned nothing
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["validation"] == report["validation"] and 0 <= report["validation"]["accuracy"] <= 1
    assert report["trained_weights"] < report["weights"] / 2
    before = load_file(f"{base.checkpoint}/model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(after[f"eclip.{name}"], value) for name, value in before.items())  # towers stay
    assert isinstance(EClipModel.from_pretrained(tmp_path), EClipModel)
