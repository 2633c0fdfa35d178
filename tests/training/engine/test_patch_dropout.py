"""Patch dropping: how many patches are seen, which, when, and by which towers."""

import pytest
import torch
from conftest import NUM_PATCHES, make_config, make_inputs

from modeling_eclip import EClipModel
from training.engine.patch_dropout import drop_patches

# Tokens beside the 16 patches; DINOv2 with registers has four of these by default.
PREFIX_TOKENS = {
    "vit": 1,
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "dinov2": 1,
    "dinov2_with_registers": 5,
    "dinov3_vit": 1,
}


def tokens_of(model, pixel_values):
    return model.encode_image(pixel_values).last_hidden_state


@pytest.mark.parametrize(("share", "num_kept"), [(0.75, 12), (0.5, 8), (0.1, 2), (0.01, 1)])
@pytest.mark.parametrize("vision", PREFIX_TOKENS)
def test_the_share_of_patches_is_kept_and_every_other_token(vision, share, num_kept):
    model = EClipModel(make_config(vision, vision_pooling="pooler"))
    pixel_values = make_inputs(3)["pixel_values"]
    names = list(model.state_dict())
    drop_patches(model, share)
    assert list(model.state_dict()) == names
    assert tokens_of(model.train(), pixel_values).shape[1] == PREFIX_TOKENS[vision] + num_kept
    assert tokens_of(model.eval(), pixel_values).shape[1] == PREFIX_TOKENS[vision] + NUM_PATCHES


@pytest.mark.parametrize("vision", PREFIX_TOKENS)
def test_evaluation_is_as_it_was_and_hooks_come_off(vision):
    model = EClipModel(make_config(vision)).eval()
    pixel_values = make_inputs(3)["pixel_values"]
    before = model.encode_image(pixel_values).pooler_output
    dropping = drop_patches(model, 0.5)
    assert not model.training
    assert torch.equal(model.encode_image(pixel_values).pooler_output, before)
    dropping.remove()
    assert tokens_of(model.train(), pixel_values).shape[1] == PREFIX_TOKENS[vision] + NUM_PATCHES
    assert drop_patches(model, 1.0) is None


@pytest.mark.parametrize("vision", PREFIX_TOKENS)
def test_the_kept_patches_keep_their_positions(vision, monkeypatch):
    """All patches in another order, positions and all, are the same image to a tower."""
    model = EClipModel(make_config(vision, vision_pooling="mean"))
    pixel_values = make_inputs(3)["pixel_values"]
    expected = model.eval().encode_image(pixel_values).pooler_output
    dropping = drop_patches(model, 0.5)
    orders = torch.stack([torch.randperm(NUM_PATCHES) for _ in range(3)])
    monkeypatch.setattr(dropping, "choose", lambda *arguments: orders)
    model.train()
    for module in model.modules():  # dropout off; only the dropping trains
        module.training = module is model.vision_model.embeddings
    assert torch.allclose(model.encode_image(pixel_values).pooler_output, expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.75, 0.25])
def test_the_mean_is_of_the_kept_patches_alone(share):
    model = EClipModel(make_config("dinov2_with_registers", vision_pooling="mean")).train()
    pixel_values = make_inputs(3)["pixel_values"]
    drop_patches(model, share)
    output = model.encode_image(pixel_values)
    assert output.last_hidden_state.shape[1] == round(share * NUM_PATCHES)
    assert torch.equal(output.pooler_output, output.last_hidden_state.mean(dim=1))


def test_the_random_state_decides_which_patches_are_dropped():
    model = EClipModel(make_config()).train()
    pixel_values = make_inputs(3)["pixel_values"]
    state = torch.get_rng_state()
    drop_patches(model, 0.5)
    assert torch.equal(torch.get_rng_state(), state), "hooking draws nothing"
    first = model.encode_image(pixel_values).pooler_output
    other = model.encode_image(pixel_values).pooler_output
    torch.set_rng_state(state)
    again = model.encode_image(pixel_values).pooler_output
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_every_image_drops_patches_of_its_own_and_each_as_often():
    dropping = drop_patches(EClipModel(make_config()), 0.25)
    torch.manual_seed(0)
    kept = dropping.choose(4000, NUM_PATCHES, torch.device("cpu"))
    assert kept.shape == (4000, 4)
    assert all(len(set(row)) == 4 for row in kept.tolist())
    # A quarter of 4,000, give or take five standard deviations of sqrt(4000 / 4 * 3 / 4) = 27.
    assert ((kept.flatten().bincount() - 1000).abs() < 137).all()


@pytest.mark.parametrize("vision", PREFIX_TOKENS)
def test_gradients_flow_through_the_kept_patches(vision):
    model = EClipModel(make_config(vision)).train()
    drop_patches(model, 0.5)
    pixel_values = make_inputs(1)["pixel_values"].requires_grad_()
    model.encode_image(pixel_values).pooler_output.square().sum().backward()
    # Patches are 8 by 8 pixels: 4 rows of 4, half of which reach the output.
    reached = pixel_values.grad.abs().sum(dim=1).reshape(4, 8, 4, 8).sum(dim=(1, 3)) > 0
    assert reached.sum() == NUM_PATCHES // 2
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for name, parameter in model.vision_model.named_parameters()
        if "mask_token" not in name
    )


@pytest.mark.parametrize("vision", ["swin", "convnext", "resnet", "efficientnet", "dinov3_convnext"])
def test_towers_without_free_patches_are_refused(vision):
    model = EClipModel(make_config(vision))
    inputs = make_inputs(2)["pixel_values"]
    before = model.eval().encode_image(inputs).pooler_output
    with pytest.raises(ValueError, match=r"`keep_patches` is 0.5, but \w+Model needs its patches .* leave it at 1"):
        drop_patches(model, 0.5)
    assert torch.equal(model.encode_image(inputs).pooler_output, before)


def test_positions_that_blocks_look_up_are_refused():
    model = EClipModel(make_config())
    block = model.vision_model.layers[0]
    ramp = torch.linspace(0, 1, NUM_PATCHES + 1).reshape(1, -1, 1) * torch.linspace(-1, 1, 32)
    # A block that adds something to its tokens by their place in the sequence, as relative position biases do.
    block.register_forward_pre_hook(lambda module, args: (args[0] + ramp[:, : args[0].shape[1]], *args[1:]))
    with pytest.raises(ValueError, match="another image in another order"):
        drop_patches(model, 0.5)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_cannot_be_is_an_error(share, model):
    with pytest.raises(ValueError, match="`keep_patches` is"):
        drop_patches(model, share)
