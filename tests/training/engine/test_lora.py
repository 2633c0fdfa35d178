"""Adapters: where they are, what is trained, what is saved, how training goes on."""

import copy

import pytest
import torch
from conftest import make_config, make_inputs

from modeling_eclip import EClipModel
from training.engine.lora import AdapterState, add_adapters, merge_adapters, plain_state_dict
from training.engine.optimization import build_optimizer, freeze_parameters
from training.engine.state_files import read_tensors, write_tensors


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_steps(model, optimizer, seeds):
    for seed in seeds:
        model(**make_inputs(4, seed), return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def embeddings(model):
    output = model.eval()(**make_inputs(4))
    return torch.cat([output.text_embeds, output.image_embeds])


def test_adapters_are_in_the_blocks_and_projections_stay_trained(model):
    before = embeddings(model)
    layers = add_adapters(model, rank=4)
    # Two blocks of four attention and two MLP layers, in each of two towers.
    assert len(layers) == 2 * 2 * 6
    # Per block: four adapters of 32 to 4 to 32, two between 32 and 64; two projections of 32 to 16; the temperature.
    assert sum(parameter.numel() for parameter in trained(model).values()) == (
        2 * 2 * (4 * 4 * (32 + 32) + 2 * 4 * (32 + 64)) + 2 * 32 * 16 + 1
    )
    assert {"logit_scale", "text_projection.weight", "visual_projection.weight"} <= trained(model).keys()
    assert torch.equal(embeddings(model), before), "a new adapter adds nothing yet"


@pytest.mark.parametrize("vision", ["vit", "siglip_vision_model", "dinov3_vit", "swin", "convnext"])
def test_the_merged_model_is_the_trained_one(vision, tmp_path):
    torch.manual_seed(0)
    model = EClipModel(make_config(vision))
    plain_names = list(model.state_dict())
    weights_before = copy.deepcopy(model.state_dict())
    add_adapters(model, rank=4, alpha=8)
    train_steps(model, build_optimizer(model, learning_rate=0.03), range(3))
    unmerged = embeddings(model)
    model.save_pretrained(tmp_path / "checkpoint", state_dict=plain_state_dict(model))
    assert torch.equal(embeddings(model), unmerged), "saving changes nothing"
    merge_adapters(model)
    assert sorted(model.state_dict()) == sorted(plain_names)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, weights_before[name])]
    assert any("vision_model" in name for name in changed)
    assert not any(name.endswith("bias") for name in changed)
    model.save_pretrained(tmp_path / "final")
    for folder in ("checkpoint", "final"):
        loaded, info = EClipModel.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not any(info.values()), info
        assert torch.allclose(embeddings(loaded), unmerged, atol=1e-5)
        assert not list((tmp_path / folder).glob("adapter*"))


def test_a_plain_model_has_a_plain_state(model):
    state = plain_state_dict(model)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())


def test_a_resumed_run_goes_on_bit_for_bit(model, tmp_path):
    add_adapters(model, rank=4)
    train_steps(model, build_optimizer(model, learning_rate=0.03), range(2))
    model.save_pretrained(tmp_path, state_dict=plain_state_dict(model))
    write_tensors(AdapterState(model).state_dict(), tmp_path / "adapters.pt")

    resumed = EClipModel.from_pretrained(tmp_path)
    add_adapters(resumed, rank=4)
    AdapterState(resumed).load_state_dict(read_tensors(tmp_path / "adapters.pt"))
    weights = resumed.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())

    other = EClipModel.from_pretrained(tmp_path)
    add_adapters(other, rank=2)
    with pytest.raises(ValueError, match="resume with the same `lora_rank`"):
        AdapterState(other).load_state_dict(read_tensors(tmp_path / "adapters.pt"))


def test_a_frozen_tower_has_no_adapters(model):
    freeze_parameters(model, [r"^text_model\.", r"layers\.0\.", "^logit_scale$"])
    layers = add_adapters(model, rank=2)
    assert len(layers) == 6
    assert all(name.startswith("vision_model.layers.1.") for name in layers)
    assert "logit_scale" not in trained(model)
    assert "text_projection.weight" in trained(model)


def test_layers_are_chosen_by_name():
    model = EClipModel(make_config("resnet"))
    assert add_adapters(model, rank=2, targets=[r"stages\.1.*convolution$", r"layer\.1\.attention\.self\.query$"]) == [
        "vision_model.encoder.stages.1.layers.0.shortcut.convolution",
        *(f"vision_model.encoder.stages.1.layers.0.layer.{number}.convolution" for number in range(3)),
        "text_model.encoder.layer.1.attention.self.query",
    ]
    unmerged = embeddings(model)
    merge_adapters(model)
    assert torch.allclose(embeddings(model), unmerged, atol=1e-5)


def test_errors_say_what_to_do(model):
    with pytest.raises(ValueError, match=r"vision_model \(ResNetModel\) has no linear layers .* `lora_targets`"):
        add_adapters(EClipModel(make_config("resnet")), rank=4)
    with pytest.raises(ValueError, match="`lora_rank` is 0"):
        add_adapters(model, rank=0)
    with pytest.raises(ValueError, match="'qproj', which fits no trained layer; names look like .'vision_model"):
        add_adapters(model, rank=4, targets=["qproj"])
    freeze_parameters(model, ["^vision_model", "^text_model"])
    with pytest.raises(ValueError, match="both towers are frozen"):
        add_adapters(model, rank=4)
