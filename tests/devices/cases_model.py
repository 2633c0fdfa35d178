"""The model on the device: every tower, and a batch in streams."""

import copy
import itertools

import pytest
import torch
from conftest import TEXT_TOWERS, VISION_TOWERS, assert_same_gradients, make_inputs, make_training_model
from fake_cuda import CUDA, on_cpu

from modeling_eclip import MultiStreamAccumulation

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4, 7])
NUM_OFFERS = len(CATALOG_IDS)

# Every tower at least once.
PAIRS = list(zip(VISION_TOWERS, itertools.chain(TEXT_TOWERS, itertools.repeat("bert")), strict=False))


def gradients_of(model):
    return on_cpu({name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.numel()})


def test_all_towers_are_here():
    assert {vision for vision, _ in PAIRS} == set(VISION_TOWERS) and {text for _, text in PAIRS} == set(TEXT_TOWERS)


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_towers(vision, text):
    model = make_training_model(vision, text)
    moved = copy.deepcopy(model).to(CUDA)
    assert {parameter.device for parameter in moved.parameters()} == {CUDA}
    for each, device in ((model, "cpu"), (moved, CUDA)):
        torch.manual_seed(7)  # some towers draw positions in training
        inputs = {name: value.to(device) for name, value in make_inputs(NUM_OFFERS).items()}
        each(**inputs, catalog_ids=CATALOG_IDS.to(device), return_loss=True).loss.backward()
    moved.clamp_logit_scale()
    assert_same_gradients(gradients_of(moved), gradients_of(model))


# With dropout, the same draws: both devices take them from the CPU's generator here.
@pytest.mark.parametrize(("keep_graphs", "dropout"), [("auto", 0.3), (0.0, 0.3), (0.5, 0.3), (1.0, 0.0)])
def test_streams(keep_graphs, dropout):
    found = []
    for device in ("cpu", "cuda"):
        model = make_training_model(dropout=dropout).to(device)
        accumulate = MultiStreamAccumulation(model, text_stream_size=3, image_stream_size=2, keep_graphs=keep_graphs)
        for _ in range(1 + (keep_graphs == "auto")):  # which measures in the first step
            model.zero_grad()
            torch.manual_seed(7)
            inputs = {name: value.to(device) for name, value in make_inputs(NUM_OFFERS).items()}
            loss = accumulate(inputs, CATALOG_IDS)
        found.append((on_cpu(loss), gradients_of(model)))
        if keep_graphs == "auto" and device == "cuda":
            assert accumulate.num_kept == accumulate.num_streams
    (expected_loss, expected), (loss, gradients) = found
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients, expected)
