"""EClipConfig: any two towers, checked values, round trip."""

import pytest
from conftest import TEXT_TOWERS, VISION_TOWERS, make_config
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig, CLIPConfig, ViTConfig

from modeling_eclip import EClipConfig


def fields_of(config):
    """Return all fields but the folder that the configuration was read from."""
    return {name: value for name, value in config.to_dict().items() if name not in ("_name_or_path", "auto_map")}


def test_defaults_are_a_vit_and_a_bert():
    config = EClipConfig()
    assert isinstance(config.vision_config, ViTConfig)
    assert isinstance(config.text_config, BertConfig)
    assert (config.projection_dim, config.catalog_mates, config.catalog_weight) == (512, "positive", 1.0)
    assert config.logit_scale_init_value == pytest.approx(2.6592600)


@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_round_trip_of_every_vision_tower(vision, tmp_path):
    config = make_config(vision=vision, catalog_mates="masked", catalog_weight=0.25, vision_pooling="mean")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is EClipConfig
    assert loaded.vision_config.model_type == vision
    assert fields_of(loaded) == fields_of(config)


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_round_trip_of_every_text_tower(text, tmp_path):
    config = make_config(text=text)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.text_config.model_type == text
    assert fields_of(loaded) == fields_of(config)


def test_pooling_follows_the_tower_unless_told():
    assert make_config(text="bert").text_pooling == "mean"
    assert make_config(text="clip_text_model").text_pooling == "pooler"
    assert make_config(text="clip_text_model", text_pooling="last").text_pooling == "last"
    assert make_config().vision_pooling == "pooler"


def test_halves_are_taken_of_a_composite_configuration():
    clip = CLIPConfig(text_config={"hidden_size": 32}, vision_config={"hidden_size": 96})
    config = EClipConfig(vision_config=clip.to_dict(), text_config=clip)
    assert config.vision_config.model_type == "clip_vision_model"
    assert config.vision_config.hidden_size == 96
    assert config.text_config.model_type == "clip_text_model"
    assert config.text_config.hidden_size == 32
    assert config.text_pooling == "pooler"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_pooling": "max"}, "`text_pooling` is 'max'"),
        ({"vision_pooling": "attention"}, "`vision_pooling` is 'attention'"),
        ({"projection_dim": 0}, "`projection_dim` is 0"),
        ({"catalog_weight": -0.5}, "`catalog_weight` is -0.5"),
        ({"logit_scale_init_value": 9.0}, "`logit_scale_init_value` is 9.0"),
        ({"logit_scale_init_value": float("nan")}, "`logit_scale_init_value` is nan"),
        ({"logit_scale_max_value": float("inf")}, "`logit_scale_max_value` is inf"),
        ({"catalog_mates": "friends"}, "catalog_mates"),
        ({"projection_dim": "many"}, "projection_dim"),
    ],
)
def test_errors_quote_the_value(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


def test_unknown_model_type_is_named():
    with pytest.raises(ValueError, match="no_such_tower"):
        EClipConfig(vision_config={"model_type": "no_such_tower"})
