"""Freezing, parameter groups, batch norm."""

import pytest
import torch
from conftest import make_config, make_inputs

from modeling_eclip import EClipModel
from training.optimization import build_optimizer, freeze_parameters, set_training_mode


def test_frozen_parameters_stay_as_they_are(model):
    patterns = [r"^vision_model\.", r"^text_model\.embeddings\."]
    frozen = freeze_parameters(model, patterns)
    expected = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("vision_model.", "text_model.emb")))
    assert frozen == expected
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, learning_rate=0.1)
    model(**make_inputs(4), return_loss=True).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith(("vision_model.", "text_model.embeddings."))
        assert torch.equal(before[name], parameter) == is_frozen, name


def test_mask_tokens_are_always_frozen():
    model = EClipModel(make_config("dinov2"))
    freeze_parameters(model, [])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "vision_model.embeddings.mask_token"
    ]


def test_wrong_patterns_are_errors(model):
    with pytest.raises(ValueError, match="'^visual_model', which fits no parameter".replace("^", r"\^")):
        freeze_parameters(model, ["^visual_model"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze_parameters(model, ["."])


def test_parameter_groups(model):
    optimizer = build_optimizer(
        model, learning_rate=1e-3, tower_learning_rate=1e-4, weight_decay=0.1, no_weight_decay=[r"word_embeddings"]
    )
    setting = {}
    for group in optimizer.param_groups:
        assert group["lr"] == group["initial_lr"]
        for parameter in group["params"]:
            setting[id(parameter)] = (group["lr"], group["weight_decay"])
    named = {name: setting[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(setting) == len(named)
    assert named["text_projection.weight"] == (1e-3, 0.1)
    assert named["logit_scale"] == (1e-3, 0.0)
    assert named["text_model.encoder.layer.0.output.dense.weight"] == (1e-4, 0.1)
    assert named["text_model.encoder.layer.0.output.dense.bias"] == (1e-4, 0.0)
    assert named["text_model.embeddings.word_embeddings.weight"] == (1e-4, 0.0)
    assert named["vision_model.layernorm.weight"] == (1e-4, 0.0)


@pytest.mark.parametrize("fixed", [True, False])
def test_batch_norm_is_fixed_when_asked(fixed):
    model = EClipModel(make_config("resnet"))
    set_training_mode(model, fix_batch_norm=fixed)
    assert model.training and model.text_model.training
    before = model.vision_model.embedder.embedder.normalization.running_mean.clone()
    inputs = make_inputs(4)
    alone = model.encode_image(inputs["pixel_values"][:1]).pooler_output
    together = model.encode_image(inputs["pixel_values"]).pooler_output[:1]
    assert torch.equal(before, model.vision_model.embedder.embedder.normalization.running_mean) == fixed
    assert torch.allclose(alone, together, atol=1e-5) == fixed
