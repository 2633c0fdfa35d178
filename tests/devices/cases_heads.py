"""Heads on the device: loss, gradients and predictions are those of the CPU."""

import copy

import pytest
import torch
from conftest import assert_same_gradients, make_config, make_inputs
from fake_cuda import CUDA, on_cpu

from modeling_eclip import (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
)

NUM_PRODUCTS = 6

# Of each head: fields of its configuration, labels of six products or three pairs, and how it predicts.
HEADS = {
    EClipForAdultRecognition: ({}, [1.0, 0.0, -100.0, 0.0, 1.0, 0.0], lambda head, output: head.decode(output.logits)),
    EClipForAttributeExtraction: (
        {"attributes": {"season": ["summer", "winter"], "colour": ["blue", "red"]}},
        [[0, 1], [1, -100], [-100, -100], [-100, 0], [0, 1], [1, 1]],
        lambda head, output: head.decode(output.logits),
    ),
    EClipForCategoryClassification: (
        {"category_paths": [["Shoes"], ["Shoes", "Boots"], ["Bags", "Totes"], ["Bags", "Belts"]]},
        [0, 2, -100, 3, 1, 1],
        lambda head, output: [[path for path, _ in best] for best in head.decode(output.logits, k=2)],
    ),
    EClipForProductClustering: ({}, [3, 3, 7, 7, -1, -1], lambda head, output: head.cluster(output.embeds).tolist()),
    EClipForProductMatching: ({}, [1, 0, -100], lambda head, output: (output.logits > 0).tolist()),
}


def inputs_of(head_class):
    inputs = make_inputs(NUM_PRODUCTS)
    if head_class is EClipForProductMatching:
        return {name: tensor.unflatten(0, (NUM_PRODUCTS // 2, 2)) for name, tensor in inputs.items()}
    return inputs


@pytest.mark.parametrize("modality", ["both", "text"])
@pytest.mark.parametrize("head_class", HEADS, ids=lambda head_class: head_class.__name__)
def test_loss_gradients_and_predictions(head_class, modality):
    fields, labels, predict = HEADS[head_class]
    head = head_class(make_config(modality=modality, **fields)).eval().double()
    with torch.no_grad():  # new weights say the same of all products
        for parameter in head.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    found = []
    for device, each in (("cpu", head), (CUDA, copy.deepcopy(head).to(CUDA))):
        inputs = {name: tensor.to(device) for name, tensor in inputs_of(head_class).items()}
        output = each(**inputs, labels=torch.tensor(labels).to(device))
        output.loss.backward()
        gradients = {name: p.grad for name, p in each.named_parameters() if p.grad is not None}
        with torch.no_grad():
            predictions = predict(each, each(**inputs))
        found.append((on_cpu(output.loss.detach()), on_cpu(gradients), predictions))
    (expected_loss, expected, expected_predictions), (loss, gradients, predictions) = found
    torch.testing.assert_close(loss, expected_loss)
    assert_same_gradients(gradients, expected, rtol=1e-4)  # heads answer in float32
    assert predictions == expected_predictions


def test_candidates_of_matching():
    head = EClipForProductMatching(make_config()).eval()
    found = []
    for device in ("cpu", CUDA):
        head = head.to(device)
        with torch.no_grad():
            embeds = head.represent(**{name: tensor.to(device) for name, tensor in make_inputs(8).items()})
            pairs = head.candidates(embeds, num_neighbors=2)
            found.append((on_cpu(pairs), on_cpu(head.score_pairs(embeds, pairs))))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1])
