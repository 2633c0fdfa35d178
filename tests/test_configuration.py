"""EClipConfig: any two towers, checked values, round trip."""

import math

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
    assert config.loss == "softmax"


def test_a_sigmoid_starts_at_the_scale_of_siglip_unless_told():
    assert make_config(loss="sigmoid").logit_scale_init_value == pytest.approx(math.log(10))
    told = make_config(loss="sigmoid", logit_scale_init_value=1.5)
    assert EClipConfig.from_dict(told.to_dict()).logit_scale_init_value == 1.5


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
        ({"loss": "hinge"}, "loss"),
        ({"projection_dim": "many"}, "projection_dim"),
        ({"modality": "video"}, "modality"),
        ({"modality_dropout": 0.6}, "`modality_dropout` is 0.6; give a number from 0 to 0.5"),
        ({"category_paths": []}, r"`category_paths` is \[\]"),
        ({"category_paths": [["Shoes"], ["Bags", ""]]}, r"`category_paths` holds \['Bags', ''\]"),
        ({"category_paths": [["Shoes"], ["Shoes"]]}, r"names \('Shoes',\) more than once"),
        ({"category_paths": ["Shoes"]}, "category_paths"),
        ({"attributes": {}}, r"`attributes` is \{\}"),
        ({"attributes": {"colour": []}}, r"`attributes` holds \{'colour': \[\]\}"),
        ({"attributes": {"colour": ["red", "red"]}}, r"`attributes\['colour'\]` names 'red' more than once"),
        ({"decision_threshold": 1.5}, "`decision_threshold` is 1.5"),
        ({"positive_weight": 0}, "`positive_weight` is 0"),
        ({"calibration": [-1.0, 0.0]}, r"`calibration` is \[-1.0, 0.0\]"),
        ({"calibration": [1.0, float("nan")]}, r"`calibration` is \[1.0, nan\]"),
        ({"cluster_threshold": 2}, "`cluster_threshold` is 2"),
        ({"cluster_neighbors": 0}, "`cluster_neighbors` is 0"),
        ({"target_precision": 1.5}, "`target_precision` is 1.5"),
        ({"review_below": {"yes": 2.0}}, "`review_below` is {'yes': 2.0}"),
    ],
)
def test_errors_quote_the_value(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


def test_what_a_head_says_survives_saving(tmp_path):
    fields = {
        "modality": "image",
        "category_paths": [["Shoes"], ["Shoes", "Boots"]],
        "attributes": {"season": ["winter", "summer"], "colour": ["red"]},
        "not_stated": "unknown",
        "decision_threshold": 0.25,
        "target_recall": 0.95,
        "target_precision": 0.99,
        "review_below": {"yes": 0.75, "no": None},
        "calibration": (1.5, -2),
    }
    make_config(**fields).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == {**fields, "calibration": [1.5, -2]}
    assert loaded.attribute_names == ["colour", "season"]
    assert make_config().attribute_names == []


def test_unknown_model_type_is_named():
    with pytest.raises(ValueError, match="no_such_tower"):
        EClipConfig(vision_config={"model_type": "no_such_tower"})


def test_classes_may_be_tuples(tmp_path):
    paths, values = (("Shoes", "Boots"), ["Bags"]), {"colour": ("blue", "red")}
    config = make_config(category_paths=paths, attributes=values)
    config.save_pretrained(tmp_path)
    for each in (config, EClipConfig.from_pretrained(tmp_path)):
        assert each.category_paths == [["Shoes", "Boots"], ["Bags"]]
        assert list(each.attributes["colour"]) == ["blue", "red"]
    with pytest.raises(StrictDataclassError, match="category_paths.*more than once"):
        make_config(category_paths=[("Shoes",), ["Shoes"]])
