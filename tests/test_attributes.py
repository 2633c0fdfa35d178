"""EClipForAttributeExtraction: any attributes, absent labels, "not stated", and values without any training."""

import json

import pytest
import torch
from conftest import make_config, make_inputs
from torch.nn import functional as F
from transformers import ViTImageProcessorPil

from modeling_eclip import AttributeOutput, EClipForAttributeExtraction, EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer

# Not in alphabetical order; one name holds a point, one hides a method of torch's modules.
ATTRIBUTES = {"type": ["a", "b", "c", "d"], "season": ["summer", "winter"], "base.colour": ["blue", "n/a", "red"]}


def make_head(**fields):
    torch.manual_seed(0)
    return EClipForAttributeExtraction(make_config(attributes=ATTRIBUTES, **fields)).eval()


def test_output_has_the_documented_shapes():
    output = make_head()(**make_inputs(3), labels=torch.tensor([[0, 1, 3]] * 3))
    assert isinstance(output, AttributeOutput)
    assert {name: tuple(logits.shape) for name, logits in output.logits.items()} == {
        "base.colour": (3, 3),
        "season": (3, 2),
        "type": (3, 4),
    }


def test_order_survives_saving(tmp_path):
    head, inputs = make_head(), make_inputs(3)
    head.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attributes"] == ATTRIBUTES
    loaded = EClipForAttributeExtraction.from_pretrained(tmp_path)
    assert list(loaded.values) == loaded.config.attribute_names == ["base.colour", "season", "type"]
    assert loaded.values == ATTRIBUTES
    expected = head(**inputs).logits
    assert list(expected) == loaded.config.attribute_names
    for name, logits in loaded(**inputs).logits.items():
        assert torch.equal(logits, expected[name])


def test_the_loss_is_the_mean_over_attributes_with_labels():
    head = make_head(modality="image", label_smoothing=0.1)
    inputs = make_inputs(3)
    logits = head(**inputs).logits
    labels = torch.tensor([[2, -100, 0], [-100, -100, 3], [0, -100, 1]])
    colour = F.cross_entropy(logits["base.colour"][[0, 2]], labels[[0, 2], 0], label_smoothing=0.1)
    kind = F.cross_entropy(logits["type"], labels[:, 2], label_smoothing=0.1)
    torch.testing.assert_close(head(**inputs, labels=labels).loss, (colour + kind) / 2)


def test_an_absent_label_has_no_gradient():
    head = make_head(modality="text")
    head(**make_inputs(2), labels=torch.tensor([[-100, 1, 2], [-100, 0, 1]])).loss.backward()
    gradients = [classifier.text.weight.grad.abs().sum() for classifier in head.classifier.attributes]
    assert gradients[0] == 0 and gradients[1] > 0 and gradients[2] > 0


def test_answers_are_values_or_not_stated():
    head = make_head()
    logits = {
        "base.colour": torch.tensor([[0.2, 0.1, 0.7], [0.4, 0.3, 0.3]]).log(),
        "season": torch.tensor([[0.9, 0.1], [0.45, 0.55]]).log(),
        "type": torch.tensor([[0.25, 0.25, 0.26, 0.24], [0.0, 0.0, 0.0, 1.0]]).log(),
    }
    assert head.decode(logits) == [
        {"base.colour": "red", "season": "summer", "type": "c"},
        {"base.colour": "blue", "season": "winter", "type": "d"},
    ]
    head.config.decision_threshold = 0.5
    head.config.not_stated = "unknown"
    assert head.decode(logits) == [
        {"base.colour": "red", "season": "summer", "type": "unknown"},
        {"base.colour": "unknown", "season": "winter", "type": "d"},
    ]


def test_values_below_their_confidence_are_sent_to_review():
    # Of an attribute without a threshold, whose precision was not reached, everything is.
    head = make_head(review_below={"base.colour": 0.8, "season": 0.55, "type": None}, not_stated="unknown")
    logits = {
        "base.colour": torch.tensor([[0.2, 0.0, 0.8], [0.4, 0.3, 0.3]]).log(),
        "season": torch.tensor([[0.9, 0.1], [0.46, 0.54]]).log(),
        "type": torch.tensor([[0.25, 0.25, 0.26, 0.24], [0.0, 0.0, 0.0, 1.0]]).log(),
    }
    assert head.decode(logits) == [
        {"base.colour": "red", "season": "summer", "type": "sent to review"},
        {"base.colour": "sent to review", "season": "sent to review", "type": "sent to review"},
    ]
    assert head.decode(logits, review=False)[1] == {"base.colour": "blue", "season": "winter", "type": "d"}
    head.config.decision_threshold = 0.5
    assert head.decode(logits)[1]["base.colour"] == "unknown"


def test_errors_say_what_is_wanted():
    with pytest.raises(ValueError, match="`attributes` is None"):
        EClipForAttributeExtraction(make_config())
    with pytest.raises(ValueError, match=r"`labels` has shape \(2, 2\); give one column for each of \['base.colour'"):
        make_head()(**make_inputs(2), labels=torch.zeros(2, 2, dtype=torch.long))


def test_values_without_training():
    tokenizer = train_title_tokenizer(["blue red summer winter"], vocab_size=300)
    processor = EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    config = make_config(attributes=ATTRIBUTES)
    config.text_config.vocab_size = len(tokenizer)
    head = EClipForAttributeExtraction(config).eval()
    embeds = head.embed_values(processor)
    assert {name: tuple(each.shape) for name, each in embeds.items()} == {
        "base.colour": (3, 16),
        "season": (2, 16),
        "type": (4, 16),
    }
    titles = processor(text=["red", "winter", "b"], return_tensors="pt")
    answers = head.decode(head.zero_shot(embeds, **titles).logits)
    assert [answers[0]["base.colour"], answers[1]["season"], answers[2]["type"]] == ["red", "winter", "b"]
    other = head.embed_values(processor, templates=["{attribute} {value}"])
    assert not torch.allclose(other["season"], embeds["season"])
