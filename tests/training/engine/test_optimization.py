"""Freezing, parameter groups, the optimizer's steps."""

import copy

import pytest
import torch
from conftest import TEXT_TOWERS, VISION_TOWERS, make_config, make_inputs

from modeling_eclip import EClipModel
from training.engine.optimization import blocks_below_top, build_optimizer, freeze_parameters


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


def test_parameter_groups():
    model = EClipModel(make_config(loss="sigmoid"))
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
    assert named["logit_scale"] == named["logit_bias"] == (1e-3, 0.0)
    assert named["text_model.encoder.layer.0.output.dense.weight"] == (1e-4, 0.1)
    assert named["text_model.encoder.layer.0.output.dense.bias"] == (1e-4, 0.0)
    assert named["text_model.embeddings.word_embeddings.weight"] == (1e-4, 0.0)
    assert named["vision_model.layernorm.weight"] == (1e-4, 0.0)


def test_the_title_tower_has_a_rate_of_its_own(model):
    rates = {"learning_rate": 7.0, "tower_learning_rate": 1.0, "text_learning_rate": 0.1}
    for layer_decay, embeddings in ((1.0, 0.1), (0.5, 0.025)):
        optimizer = build_optimizer(model, **rates, layer_decay=layer_decay)
        rate = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        named = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
        assert named["text_model.encoder.layer.1.output.dense.weight"] == 0.1
        assert named["text_model.embeddings.word_embeddings.weight"] == pytest.approx(embeddings)
        assert named["vision_model.layernorm.weight"] == 1.0
        assert named["text_projection.weight"] == named["logit_scale"] == 7.0


def test_the_fused_optimizer_takes_the_steps_of_the_plain_one(model):
    plain_model = copy.deepcopy(model)
    optimizer = build_optimizer(model, learning_rate=1e-3, tower_learning_rate=1e-4)
    plain = build_optimizer(plain_model, learning_rate=1e-3, tower_learning_rate=1e-4)
    assert {group["fused"] for group in optimizer.param_groups} == {True}
    for group in plain.param_groups:
        group.update(fused=False, foreach=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, other in zip(model.parameters(), plain_model.parameters(), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            other.grad = parameter.grad.clone()
        optimizer.step()
        plain.step()
    for (name, parameter), other in zip(model.named_parameters(), plain_model.parameters(), strict=True):
        # Both round in float32, but not after the same operations.
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-7, msg=name)


# Rates at 1 with a decay of 0.5: the last block has 1, the one below 0.5, embeddings below two blocks 0.25.
@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        (
            "vit",
            {
                "embeddings.cls_token": 0.25,
                "layers.0.mlp.fc1.weight": 0.5,
                "layers.1.mlp.fc1.bias": 1.0,
                "layernorm.weight": 1.0,
                "pooler.dense.weight": 1.0,
            },
        ),
        (  # stages of 2 and 1 blocks: 3 blocks in all; a stage's downsampling goes with the block it is next to
            "swin",
            {
                "embeddings.norm.weight": 0.125,
                "encoder.layers.0.blocks.0.mlp.fc1.weight": 0.25,
                "encoder.layers.0.blocks.1.mlp.fc1.weight": 0.5,
                "encoder.layers.0.downsample.reduction.weight": 0.5,
                "encoder.layers.1.blocks.0.mlp.fc1.weight": 1.0,
                "layernorm.weight": 1.0,
            },
        ),
        (
            "convnext",
            {
                "embeddings.patch_embeddings.weight": 0.125,
                "encoder.stages.0.layers.0.dwconv.weight": 0.25,
                "encoder.stages.0.layers.1.dwconv.weight": 0.5,
                "encoder.stages.1.downsampling_layer.1.weight": 1.0,
                "encoder.stages.1.layers.0.dwconv.weight": 1.0,
            },
        ),
        (  # the convolutions inside a residual block are numbered, too
            "resnet",
            {
                "embedder.embedder.convolution.weight": 0.125,
                "encoder.stages.0.layers.1.layer.0.convolution.weight": 0.5,
                "encoder.stages.0.layers.1.layer.2.convolution.weight": 0.5,
                "encoder.stages.1.layers.0.layer.0.convolution.weight": 1.0,
            },
        ),
    ],
)
def test_rates_shrink_towards_the_embeddings(vision, expected):
    config = make_config(vision)
    if hasattr(config.vision_config, "depths"):
        config.vision_config.depths = [2, 1]
    model = EClipModel(config)
    optimizer = build_optimizer(model, learning_rate=7.0, tower_learning_rate=1.0, layer_decay=0.5)
    rate = {id(parameter): group["initial_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    named = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name: named[f"vision_model.{name}"] for name in expected} == expected
    assert named["text_model.embeddings.word_embeddings.weight"] == 0.25
    assert named["text_model.encoder.layer.0.output.dense.bias"] == 0.5
    assert named["text_model.encoder.layer.1.output.dense.bias"] == 1.0
    assert named["visual_projection.weight"] == named["logit_scale"] == 7.0


@pytest.mark.parametrize("tower_kind", ["vision", "text"])
def test_every_family_has_blocks_to_count(tower_kind):
    towers = VISION_TOWERS if tower_kind == "vision" else TEXT_TOWERS
    for tower in towers:
        depths = blocks_below_top(getattr(EClipModel(make_config(**{tower_kind: tower})), f"{tower_kind}_model"))
        assert min(depths.values()) == 0, tower
        assert max(depths.values()) == {"dinov3_convnext": 3, "efficientnet": 7}.get(tower, 2), tower


def test_layer_decay_that_cannot_be_is_an_error(model):
    with pytest.raises(ValueError, match="`layer_decay` is 1.5"):
        build_optimizer(model, learning_rate=1.0, layer_decay=1.5)
    with pytest.raises(ValueError, match="Linear has none with a number"):
        blocks_below_top(torch.nn.Linear(2, 2))
