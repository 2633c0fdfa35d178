"""Weight averaging: the numbers, the swap, the checkpoint."""

import copy

import pytest
import torch
from accelerate import Accelerator
from conftest import make_inputs
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.engine.ema import WeightAverage
from training.engine.optimization import build_optimizer, freeze_parameters


def set_weight(layer, value):
    with torch.no_grad():
        layer.weight.fill_(value)


def test_average_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    set_weight(layer, 100.0)
    average = WeightAverage(layer, 0.75)
    for weight, expected in ((8.0, 8.0), (4.0, 7.0), (3.0, 6.0)):  # 0.75 * 8 + 0.25 * 4, 0.75 * 7 + 0.25 * 3
        set_weight(layer, weight)
        average.update()
        with average.in_use():
            assert layer.weight.item() == expected
        assert layer.weight.item() == weight
    average.swap()
    assert layer.weight.item() == 6.0


def step(model, optimizer, seed):
    model(**make_inputs(4, seed), return_loss=True).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_average_is_that_of_torch_and_frozen_weights_have_none(model):
    freeze_parameters(model, [r"^vision_model\."])
    optimizer = build_optimizer(model, learning_rate=0.01)
    average, expected = WeightAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for seed in range(3):
        step(model, optimizer, seed)
        average.update()
        expected.update_parameters(model)
    assert not any(name.startswith("vision_model") for name in average.state_dict()["averages"])
    raw = copy.deepcopy(model.state_dict())
    with average.in_use():
        for name, tensor in expected.module.state_dict().items():
            assert torch.allclose(model.state_dict()[name], tensor, rtol=0, atol=1e-6), name  # three steps of float32
        assert not torch.equal(model.text_projection.weight, raw["text_projection.weight"])
    assert all(torch.equal(tensor, raw[name]) for name, tensor in model.state_dict().items())


def test_weights_come_back_after_an_error(model):
    average = WeightAverage(model, 0.9)
    before = model.text_projection.weight.clone()
    average.update()
    step(model, build_optimizer(model, learning_rate=0.1), seed=0)
    after = model.text_projection.weight.clone()
    with pytest.raises(RuntimeError, match="stop"), average.in_use():
        assert torch.equal(model.text_projection.weight, before)
        raise RuntimeError("stop")
    assert torch.equal(model.text_projection.weight, after)


def test_a_resumed_average_goes_on_bit_for_bit(model, tmp_path):
    accelerator = Accelerator(cpu=True)
    resumed = copy.deepcopy(model)
    optimizer = build_optimizer(model, learning_rate=0.01)
    average, resumed_average = WeightAverage(model, 0.9), WeightAverage(resumed, 0.9)
    accelerator.register_for_checkpointing(average)
    for seed in range(2):
        step(model, optimizer, seed)
        average.update()
    accelerator.save_state(str(tmp_path))
    resumed.load_state_dict(model.state_dict())
    resumed_average.load_state_dict(torch.load(tmp_path / "custom_checkpoint_0.pkl"))
    step(model, optimizer, seed=2)
    average.update()
    resumed.load_state_dict(model.state_dict())
    resumed_average.update()
    average.swap()
    resumed_average.swap()
    weights = resumed.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_errors_say_what_to_do(model):
    with pytest.raises(ValueError, match="`ema_decay` is 1.0"):
        WeightAverage(model, 1.0)
    state = WeightAverage(model, 0.9).state_dict()
    freeze_parameters(model, ["^logit_scale$"])
    with pytest.raises(ValueError, match=r"differ in \['logit_scale'\]; resume with the same `freeze`"):
        WeightAverage(model, 0.9).load_state_dict(state)
