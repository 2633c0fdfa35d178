"""Towers: width and pooling of every family."""

from types import SimpleNamespace

import pytest
import torch
from conftest import NUM_PATCHES, TEXT_TOWERS, VISION_TOWERS, make_config
from transformers import CONFIG_MAPPING

from modeling_eclip.towers_eclip import build_tower, count_patches, pool_tower_output, tower_width


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_width_is_that_of_the_pooled_output(vision, pooling):
    config = make_config(vision=vision).vision_config
    tower = build_tower(config, pooling).eval()
    output = tower(pixel_values=torch.zeros(2, 3, 32, 32))
    assert pool_tower_output(output, pooling).shape == (2, tower_width(config, pooling))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_width_of_text_towers(text, pooling):
    config = make_config(text=text).text_config
    output = build_tower(config, pooling).eval()(input_ids=torch.tensor([[1, 5, 99]]))
    assert pool_tower_output(output, pooling).shape == (1, tower_width(config, pooling))


def test_pooler_of_siglip_text_has_a_width_of_its_own():
    config = CONFIG_MAPPING["siglip_text_model"](**TEXT_TOWERS["siglip_text_model"], projection_size=24)
    output = build_tower(config, "pooler").eval()(input_ids=torch.tensor([[5, 6]]))
    assert pool_tower_output(output, "pooler").shape == (1, 24)
    assert (tower_width(config, "pooler"), tower_width(config, "mean")) == (24, 32)


def test_a_pooler_that_is_not_asked_for_is_not_built():
    config = make_config().text_config
    assert build_tower(config, "mean").pooler is None
    assert build_tower(config, "pooler").pooler is not None


TOKENS = torch.tensor([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [100.0]]])  # (2, 3, 1)


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("cls", None, [1.0, 3.0]),
        ("last", None, [6.0, 100.0]),
        ("last", [[1, 1, 1], [1, 1, 0]], [6.0, 5.0]),
        ("last", [[0, 1, 1], [0, 0, 1]], [6.0, 100.0]),
        ("mean", None, [3.0, 36.0]),
        ("mean", [[1, 1, 1], [1, 1, 0]], [3.0, 4.0]),
        ("mean", [[1, 1, 1], [0, 0, 0]], [3.0, 0.0]),
    ],
)
def test_pooling_of_tokens(pooling, mask, expected):
    output = SimpleNamespace(last_hidden_state=TOKENS)
    mask = None if mask is None else torch.tensor(mask)
    assert pool_tower_output(output, pooling, attention_mask=mask).flatten().tolist() == expected


def test_mean_of_an_image_leaves_class_and_register_tokens_out():
    output = SimpleNamespace(last_hidden_state=TOKENS)
    assert pool_tower_output(output, "mean", num_patches=2).flatten().tolist() == [4.0, 52.5]
    # Where some patches were dropped, and the other tokens with them, all that is left is patches.
    assert pool_tower_output(output, "mean", num_patches=5).flatten().tolist() == [3.0, 36.0]
    pixel_values = torch.zeros(1, 3, 32, 32)
    assert count_patches(make_config("dinov2_with_registers").vision_config, pixel_values) == NUM_PATCHES
    assert count_patches(make_config("convnext").vision_config, pixel_values) is None
    assert count_patches(make_config("swin").vision_config, pixel_values) is None


def test_maps_are_pooled_over_their_places():
    map_output = SimpleNamespace(last_hidden_state=torch.arange(8.0).reshape(1, 2, 2, 2))
    assert pool_tower_output(map_output, "mean").tolist() == [[1.5, 5.5]]
    pooled = SimpleNamespace(last_hidden_state=None, pooler_output=torch.ones(3, 2, 1, 1))
    assert pool_tower_output(pooled, "pooler").shape == (3, 2)
    with pytest.raises(ValueError, match="'cls'"):
        pool_tower_output(map_output, "cls")


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="set the tower's pooling"):
        pool_tower_output(SimpleNamespace(last_hidden_state=TOKENS), "pooler")
    with pytest.raises(ValueError, match="add `hidden_size`"):
        tower_width(CONFIG_MAPPING["mobilenet_v2"](), "pooler")
    assert tower_width(CONFIG_MAPPING["mobilenet_v2"](hidden_size=1280), "pooler") == 1280
    with pytest.raises(ValueError, match="no encoder for model type 't5'"):
        build_tower(CONFIG_MAPPING["t5"](), "mean")
