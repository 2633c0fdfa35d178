"""EClipForAdultRecognition: weight of the rare class, calibration, threshold."""

import math

import pytest
import torch
from conftest import make_config, make_inputs
from torch.nn import functional as F

from modeling_eclip import AdultOutput, EClipForAdultRecognition


def make_head(**fields):
    torch.manual_seed(0)
    return EClipForAdultRecognition(make_config(**fields)).eval()


def test_output_has_the_documented_shapes():
    output = make_head()(**make_inputs(3), labels=torch.tensor([True, False, False]))
    assert isinstance(output, AdultOutput)
    assert (output.loss.shape, output.logits.shape) == ((), (3,))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_loss_is_the_weighted_binary_cross_entropy(modality):
    head = make_head(modality=modality, positive_weight=3.0)
    inputs, labels = make_inputs(4), torch.tensor([1.0, 0.0, -100.0, 0.0])
    output = head(**inputs, labels=labels)
    kept = [0, 1, 3]
    weights = torch.tensor([3.0, 1.0, 1.0])
    losses = F.binary_cross_entropy_with_logits(output.logits[kept], labels[kept], weight=weights, reduction="sum")
    torch.testing.assert_close(output.loss, losses / 5)  # the weights' sum


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_labels_of_any_kind(dtype):
    head, inputs = make_head(), make_inputs(2)
    loss = head(**inputs, labels=torch.tensor([1, 0]).to(dtype)).loss
    assert torch.equal(loss, head(**inputs, labels=torch.tensor([1, 0])).loss)


def test_calibration_and_threshold_travel(tmp_path):
    head = make_head(calibration=(2.0, -1.0), decision_threshold=0.2, target_recall=0.95)
    head.save_pretrained(tmp_path)
    loaded = EClipForAdultRecognition.from_pretrained(tmp_path)
    assert (loaded.config.calibration, loaded.config.decision_threshold) == ([2.0, -1.0], 0.2)
    assert loaded.config.target_recall == 0.95
    logits = torch.tensor([-0.3, 0.5, -0.1])
    expected = [1 / (1 + math.exp(1.6)), 0.5, 1 / (1 + math.exp(1.2))]
    assert loaded.probabilities(logits).tolist() == pytest.approx(expected)
    assert loaded.decode(logits) == [False, True, True]  # .168, .5, .231


def test_the_threshold_is_a_half_unless_told():
    assert make_head().decode(torch.tensor([-0.01, 0.0, 0.01])) == [False, True, True]
    assert make_head(decision_threshold=0).decode(torch.tensor([-50.0])) == [True]


def test_both_sides_are_sent_to_review(tmp_path):
    make_head(decision_threshold=0.4, review_below={"yes": 0.9, "no": 0.75}, target_precision=0.95).save_pretrained(
        tmp_path
    )
    head = EClipForAdultRecognition.from_pretrained(tmp_path)
    assert head.config.target_precision == 0.95
    logits = torch.tensor([0.95, 0.85, 0.41, 0.39, 0.2]).logit()
    assert head.decode(logits) == [True, None, None, None, False]
    head.config.review_below = {"yes": None, "no": 0.0}
    assert head.decode(logits) == [None, None, None, False, False]
