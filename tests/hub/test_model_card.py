"""Cards: what they promise runs, word by word, and what stands in them stays in its place."""

import math
import re

import pytest
import torch
from conftest import noise_image, save_checkpoint
from transformers import pipeline

from modeling_eclip import (
    CardFacts,
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
    EClipModel,
    MetricValue,
)
from modeling_eclip.hub.model_card import build_model_card

FIELDS = {
    EClipForAdultRecognition: {},
    EClipForAttributeExtraction: {"attributes": {"colour": ["blue", "red"]}},
    EClipForCategoryClassification: {"category_paths": [["Bags"], ["Shoes", "Boots"], ["Shoes", "Sandals"]]},
    EClipForProductClustering: {},
    EClipForProductMatching: {},
}
IMAGE = noise_image(0)


def card_of(folder, model, adapter_config=None):
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return build_model_card(config, str(folder), CardFacts(), adapter_config=adapter_config)


def stock_answer(task, folder):
    """What transformers' pipeline of this name makes of the checkpoint."""
    stock = pipeline(task, model=str(folder))
    if task == "zero-shot-image-classification":
        return stock, stock(IMAGE, candidate_labels=["red shoes", "a blue shirt"])
    return stock, stock("red shoes" if task in ("feature-extraction", "text-classification") else IMAGE)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
@pytest.mark.parametrize("head_class", FIELDS)
def test_a_head_is_tagged_with_the_pipeline_that_runs_it_and_shown_in_its_own(
    head_class, modality, tmp_path, monkeypatch
):
    head, processor = save_checkpoint(tmp_path, head_class, modality=modality, **FIELDS[head_class])
    IMAGE.save(tmp_path / "shoe.jpg")
    monkeypatch.chdir(tmp_path)
    card = card_of(tmp_path, head)
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(blocks) == (3 if head_class is EClipForProductClustering else 4)
    if len(blocks) == 4:
        names = {}
        exec(blocks[3], names)
        assert len(names["labels"]) == 1
    tag = card.data.pipeline_tag
    assert (tag is not None) == (head_class is EClipForProductClustering)
    for task in ("text-classification", "image-classification", "feature-extraction", "image-feature-extraction"):
        try:
            stock, answer = stock_answer(task, tmp_path)
        except (AttributeError, TypeError, ValueError):
            assert task != tag
            continue
        # Features of a head that classifies would be its logits: no promise to make.
        assert type(stock.model) is head_class and task.endswith("feature-extraction")
        given = {"text": ["red shoes"]} if task == "feature-extraction" else {"images": [IMAGE]}
        with torch.no_grad():
            outputs = head(**processor(**given, return_tensors="pt"))
        assert torch.allclose(torch.tensor(answer), outputs.logits if tag is None else outputs.embeds, atol=1e-5)


def test_a_model_is_tagged_with_a_pipeline_that_runs_it(tmp_path):
    model, _ = save_checkpoint(tmp_path)
    tag = card_of(tmp_path, model).data.pipeline_tag
    stock, answer = stock_answer(tag, tmp_path)
    assert type(stock.model) is EClipModel and len(answer) == 2
    # peft's pipelines are none of these: `model=` of adapters would need their base model, too.
    adapters = {"base_model_name_or_path": "someone/eclip", "r": 8, "lora_alpha": 8}
    assert card_of(tmp_path, model, adapters).data.pipeline_tag is None


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        (MetricValue("f1", math.nan, "shop", "test"), "value"),
        (MetricValue("f1", None, "shop", "test"), "value"),
        (MetricValue("f1", 0.5, "shop", "test", interval=(0.1, math.inf)), "interval"),
        (MetricValue("f1", 0.5, "shop", "test", untrained=math.nan), "untrained"),
    ],
)
def test_a_metric_that_is_no_number_is_refused(metric, field):
    with pytest.raises(ValueError, match=f"`{field}` of the metric 'f1' is .*; give finite numbers"):
        build_model_card({"architectures": ["EClipModel"]}, "someone/eclip", CardFacts(metrics=[metric]))


def test_without_jinja_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("huggingface_hub.repocard.is_jinja_available", lambda: False)
    with pytest.raises(ImportError, match="pip install Jinja2"):
        build_model_card({"architectures": ["EClipModel"]}, "someone/eclip", CardFacts())


def test_names_of_several_lines_stay_in_their_row_or_item():
    config = {"architectures": ["EClipForAttributeExtraction"], "attributes": {"main\ncolour|hue": ["blue", "red"]}}
    facts = CardFacts(
        data={"Shop\n## Pictures": "my\r\nown"},
        metrics=[MetricValue("f1", 0.5, "held\nout", "the\u2028test")],
        limits=["It knows\n\n# no hats."],
        training="Trained\n## by hand.",
    )
    lines = build_model_card(config, "someone/eclip", facts).text.splitlines()
    assert "| attributes | main colour\\|hue (2) |" in lines
    assert "| Shop ## Pictures | my own |" in lines
    assert "| f1 | held out, the test | 0.500 |" in lines
    assert "- It knows # no hats." in lines
    assert "Trained ## by hand." in lines
    headings = [line for line in lines if line.startswith("#")]
    assert len(headings) == 6, headings
