"""Importing the package registers its classes with transformers: Auto classes and pipelines know them."""

import subprocess
import sys

import pytest
from conftest import ROOT, make_config, save_checkpoint
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification, pipeline

import modeling_eclip
from modeling_eclip import (
    EClipConfig,
    EClipForAdultRecognition,
    EClipForCategoryClassification,
    EClipModel,
)
from modeling_eclip.hub.auto_classes import HEADS

# Each order of imports in a process of its own.
CHECKS = """
from transformers import AutoConfig, AutoModel, AutoProcessor, CONFIG_MAPPING, MODEL_MAPPING
assert CONFIG_MAPPING["eclip"].__name__ == "EClipConfig"
assert [each.__name__ for each in MODEL_MAPPING[CONFIG_MAPPING["eclip"]]][0] == "EClipModel"
from transformers.pipelines import PIPELINE_REGISTRY
assert "eclip-product-matching" in PIPELINE_REGISTRY.supported_tasks
"""


@pytest.mark.parametrize(
    "first",
    [
        "import modeling_eclip; from transformers import AutoConfig",
        "from transformers import AutoModel; import modeling_eclip",
        "import modeling_eclip.towers_eclip",
        "from modeling_eclip.retrieval.linkage import average_linkage",
    ],
)
def test_classes_are_registered_whatever_is_imported_first(first):
    done = subprocess.run([sys.executable, "-c", f"{first}\n{CHECKS}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    assert all(getattr(modeling_eclip, name) is not None for name in modeling_eclip.__all__)


def test_a_configuration_without_a_head_is_of_the_base_model():
    assert type(AutoModel.from_config(make_config())) is EClipModel
    assert EClipConfig().architectures == ["EClipModel"]


def test_auto_model_picks_the_class_that_was_saved(tmp_path):
    EClipForAdultRecognition(make_config()).save_pretrained(tmp_path / "adult")
    EClipModel(make_config()).save_pretrained(tmp_path / "base")
    assert type(AutoModel.from_pretrained(tmp_path / "adult")) is EClipForAdultRecognition
    assert type(AutoModel.from_pretrained(tmp_path / "base")) is EClipModel


@pytest.mark.parametrize("head_class", [EClipForCategoryClassification, EClipForAdultRecognition])
def test_no_auto_class_returns_another_head_without_a_word(head_class, tmp_path):
    save_checkpoint(tmp_path, head_class, category_paths=[["Shoes"], ["Bags"]])
    for auto_class in (AutoModelForImageClassification, AutoModelForSequenceClassification):
        with pytest.raises(ValueError, match="EClipConfig.*pipeline\\('eclip-product-classification'"):
            auto_class.from_pretrained(tmp_path)
    for task in ("image-classification", "text-classification"):
        with pytest.raises(ValueError, match="pipeline\\('eclip-product-classification'"):
            pipeline(task, model=str(tmp_path))
    with pytest.raises(ValueError, match=head_class.__name__):
        pipeline("eclip-product-matching", model=str(tmp_path))


def test_registering_twice_changes_nothing():
    modeling_eclip.hub.auto_classes.register_auto_classes()
    assert AutoModel._model_mapping[EClipConfig] == (EClipModel, *HEADS)
