"""EClipModel: forward, either modality, every tower, the two ways to start from pretrained weights."""

import dataclasses
import json
import math
import os

import pytest
import torch
from conftest import TEXT_TOWERS, TRANSFORMER, VISION_TOWERS, VIT, VOCAB_SIZE, make_config, make_inputs, wake
from transformers import (
    AutoModel,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    ViTModel,
)

from modeling_eclip import EClipConfig, EClipModel, EClipOutput, contrastive_loss
from modeling_eclip.matching_eclip import MatchingOutput


def test_output_has_the_documented_shapes(model):
    output = model(**make_inputs(4), return_loss=True)
    assert isinstance(output, EClipOutput)
    assert output.loss.shape == ()
    assert output.logits_per_text.shape == output.logits_per_image.shape == (4, 4)
    assert output.text_embeds.shape == output.image_embeds.shape == (4, 16)
    assert output.text_model_output.last_hidden_state.shape == (4, 7, 32)
    assert output.text_model_output.pooler_output.shape == (4, 32)
    assert output.vision_model_output.pooler_output.shape == (4, 32)
    torch.testing.assert_close(output.text_embeds.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(output.logits_per_text, output.logits_per_image.T)
    expected = model.logit_scale.exp() * output.text_embeds @ output.image_embeds.T
    torch.testing.assert_close(output.logits_per_text, expected)


def test_positional_order_is_ids_mask_pixels(model):
    inputs = make_inputs(2)
    by_position = model(inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"])
    assert torch.equal(by_position.logits_per_text, model(**inputs).logits_per_text)


@pytest.mark.parametrize("mates", ["positive", "negative", "masked"])
def test_loss_is_the_contrastive_loss_of_the_configured_treatment(mates):
    model = EClipModel(make_config(catalog_mates=mates, catalog_weight=0.5)).eval()
    catalog_ids = torch.tensor([3, 3, -1, 3])
    output = model(**make_inputs(4), catalog_ids=catalog_ids, return_loss=True)
    expected = contrastive_loss(
        output.text_embeds, output.image_embeds, model.logit_scale, catalog_ids, catalog_weight=0.5, mates=mates
    )
    torch.testing.assert_close(output.loss, expected)


def test_either_modality_alone(model):
    inputs = make_inputs(3)
    both = model(**inputs)
    titles = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    images = model(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(titles.text_embeds, both.text_embeds)
    torch.testing.assert_close(images.image_embeds, both.image_embeds)
    assert titles.image_embeds is titles.logits_per_text is images.text_embeds is None


def test_errors_say_what_is_missing(model):
    inputs = make_inputs(2)
    with pytest.raises(ValueError, match="Neither `input_ids` nor `pixel_values`"):
        model()
    with pytest.raises(ValueError, match="`pixel_values` is None"):
        model(input_ids=inputs["input_ids"], return_loss=True)


def test_features_are_the_projections_before_normalisation(model):
    inputs = make_inputs(3)
    output = model(**inputs)
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    image = model.get_image_features(inputs["pixel_values"])
    torch.testing.assert_close(torch.nn.functional.normalize(text.pooler_output, dim=-1), output.text_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(image.pooler_output, dim=-1), output.image_embeds)
    assert isinstance(model.get_image_features(inputs["pixel_values"], return_dict=False), tuple)


def test_padding_does_not_change_a_title(model):
    inputs = make_inputs(1)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    padded_ids = torch.nn.functional.pad(ids, (0, 5))
    padded_mask = torch.nn.functional.pad(mask, (0, 5))
    torch.testing.assert_close(
        model(input_ids=padded_ids, attention_mask=padded_mask).text_embeds,
        model(input_ids=ids, attention_mask=mask).text_embeds,
    )


@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_every_vision_tower_trains_saves_and_loads(vision, tmp_path):
    check_tower_pair(make_config(vision=vision), tmp_path)


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_every_text_tower_trains_saves_and_loads(text, tmp_path):
    check_tower_pair(make_config(text=text), tmp_path)


def check_tower_pair(config, tmp_path):
    torch.manual_seed(0)
    model = wake(EClipModel(config)).train()
    inputs = make_inputs(4)
    model(**inputs, return_loss=True).loss.backward()
    without_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # DINO's mask token serves its own pre-training, CLIP's kin have none without.
    assert [name for name in without_gradient if not name.endswith("mask_token")] == []
    model.eval()
    expected = model(**inputs, output_hidden_states=True)
    assert len(expected.text_model_output.hidden_states) == 3
    assert len(expected.vision_model_output.hidden_states) >= 2
    model.save_pretrained(tmp_path)
    loaded, info = EClipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, weights in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name
    # Convolutions choose their kernels by where in memory the weights lie, so the same weights may round otherwise.
    # Logits are sums of 16 products of up to e^2.66 = 14, with a float32 rounding of 1e-6 each.
    torch.testing.assert_close(loaded(**inputs).logits_per_text, expected.logits_per_text, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(expected.image_embeds.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("vision", ["vit", "convnext", "resnet", "efficientnet"])
def test_attention_can_be_switched_whatever_the_towers(vision, tmp_path):
    torch.manual_seed(0)
    model = wake(EClipModel(make_config(vision=vision)))
    inputs = make_inputs(2)
    model.save_pretrained(tmp_path)
    eager = EClipModel.from_pretrained(tmp_path, attn_implementation="eager")
    sdpa = EClipModel.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert eager.text_model.config._attn_implementation == "eager"
    assert sdpa.text_model.config._attn_implementation == "sdpa"
    for name in ("text_embeds", "image_embeds"):
        torch.testing.assert_close(eager(**inputs)[name], sdpa(**inputs)[name], rtol=1e-4, atol=1e-5)  # other sums
    sdpa.set_attn_implementation("eager")
    assert sdpa.text_model.config._attn_implementation == "eager"
    attentions = sdpa(**inputs, output_attentions=True).text_model_output.attentions
    assert [tuple(attention.shape) for attention in attentions] == [(2, 2, 7, 7)] * 2


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "last"])
def test_poolings_of_both_towers(pooling):
    model = EClipModel(make_config(vision_pooling=pooling, text_pooling=pooling)).eval()
    output = model(**make_inputs(2), return_loss=True)
    assert torch.isfinite(output.loss)
    hidden = output.vision_model_output.last_hidden_state  # (2, 17, 32): a class token and 16 patches
    if pooling == "mean":
        torch.testing.assert_close(output.vision_model_output.pooler_output, hidden[:, 1:].mean(dim=1))


def test_new_weights_have_the_scale_of_clip():
    torch.manual_seed(0)
    model = EClipModel(make_config(projection_dim=256))
    for projection in (model.text_projection, model.visual_projection):
        assert projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.05)
    assert model.logit_scale.item() == pytest.approx(2.65926)


def test_a_sigmoid_has_a_bias_that_starts_as_siglips(model):
    assert model.logit_bias is None and "logit_bias" not in model.state_dict()
    sigmoid = EClipModel(make_config(loss="sigmoid", catalog_weight=0.5)).eval()
    assert (sigmoid.logit_scale.item(), sigmoid.logit_bias.item()) == (pytest.approx(math.log(10)), -10.0)
    catalog_ids = torch.tensor([3, 3, -1, 3])
    output = sigmoid(**make_inputs(4), catalog_ids=catalog_ids, return_loss=True)
    embeds, bias = (output.text_embeds, output.image_embeds), sigmoid.logit_bias
    torch.testing.assert_close(output.logits_per_image, 10 * embeds[1] @ embeds[0].T - 10)
    expected = contrastive_loss(*embeds, sigmoid.logit_scale, catalog_ids, logit_bias=bias, catalog_weight=0.5)
    torch.testing.assert_close(output.loss, expected)
    for value, kept in ((-200.0, -100.0), (-3.0, -3.0), (200.0, 100.0)):
        torch.nn.init.constant_(bias, value)
        sigmoid.clamp_logit_scale()
        assert bias.item() == kept


def test_device_map(model, tmp_path):
    model.save_pretrained(tmp_path)
    placed = EClipModel.from_pretrained(tmp_path, device_map="auto")
    inputs = make_inputs(2)
    torch.testing.assert_close(placed(**inputs).logits_per_text, model(**inputs).logits_per_text)


def test_logit_scale_is_clamped_from_above_only(model):
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(4.6051702)
    with torch.no_grad():
        model.logit_scale.fill_(-1.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == -1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype, tmp_path):
    inputs = make_inputs(4)
    expected = model(**inputs)
    model.save_pretrained(tmp_path)
    half = EClipModel.from_pretrained(tmp_path, dtype=dtype)
    output = half(**inputs, return_loss=True)
    assert output.text_embeds.dtype == dtype
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.image_embeds.float(), expected.image_embeds, rtol=0, atol=0.03)


def test_towers_compile_without_graph_breaks(model):
    inputs = make_inputs(2)
    expected = model(**inputs)
    # The eager backend traces as every other does, and needs no compiler on the machine.
    vision = torch.compile(model.encode_image, fullgraph=True, backend="eager")
    text = torch.compile(model.encode_text, fullgraph=True, backend="eager")
    with torch.no_grad():
        image_output = vision(inputs["pixel_values"])
        text_output = text(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(image_output.pooler_output, expected.vision_model_output.pooler_output)
    torch.testing.assert_close(text_output.pooler_output, expected.text_model_output.pooler_output)


def test_export(model):
    inputs = make_inputs(2)
    with torch.no_grad():
        program = torch.export.export(model, args=(), kwargs=inputs, strict=False)
        output = program.module()(**inputs)
        torch.testing.assert_close(output.logits_per_text, model(**inputs).logits_per_text)


@pytest.fixture
def tower_folders(tmp_path):
    """Return folders of a ViT and a BERT with weights."""
    torch.manual_seed(1)
    config = make_config()
    vision, text = tmp_path / "vit", tmp_path / "bert"
    ViTModel(config.vision_config).eval().save_pretrained(vision)
    BertModel(config.text_config).eval().save_pretrained(text)
    return vision, text


def test_from_towers_keeps_their_weights(tower_folders):
    vision, text = tower_folders
    model = EClipModel.from_towers(str(vision), str(text), projection_dim=16, vision_pooling="cls")
    assert not model.training
    assert (model.config.projection_dim, model.config.vision_pooling) == (16, "cls")
    inputs = make_inputs(3)
    output = model(**inputs)
    expected = ViTModel.from_pretrained(vision)(inputs["pixel_values"]).last_hidden_state[:, 0]
    torch.testing.assert_close(output.vision_model_output.pooler_output, expected)
    hidden = BertModel.from_pretrained(text)(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(output.text_model_output.pooler_output, (hidden * mask).sum(1) / mask.sum(1))
    assert model.vision_model.config is model.config.vision_config


def test_from_towers_takes_the_halves_of_composite_checkpoints(clip_folders, tower_folders):
    vision, text = tower_folders
    source = CLIPModel.from_pretrained(clip_folders["clip"])
    inputs = make_inputs(2)
    model = EClipModel.from_towers(str(clip_folders["clip"]), str(text), projection_dim=8)
    expected = source.vision_model(inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(model.encode_image(inputs["pixel_values"]).pooler_output, expected)
    model = EClipModel.from_towers(str(vision), str(clip_folders["siglip"]), projection_dim=8)
    source = SiglipModel.from_pretrained(clip_folders["siglip"])
    expected = source.text_model(inputs["input_ids"]).pooler_output
    torch.testing.assert_close(model.encode_text(inputs["input_ids"]).pooler_output, expected)


@pytest.fixture
def clip_folders(tmp_path):
    """Return folders of a CLIP, a SigLIP and a SigLIP 2 model with weights."""
    text = {**TRANSFORMER, "vocab_size": VOCAB_SIZE, "bos_token_id": 98, "eos_token_id": 99}
    flexible = {**TRANSFORMER, "patch_size": 8, "num_patches": 16}
    models = {
        "clip": CLIPModel(CLIPConfig(text_config=text, vision_config=VIT, projection_dim=24)),
        "siglip": SiglipModel(SiglipConfig(text_config=text, vision_config=VIT)),
        "siglip2": Siglip2Model(Siglip2Config(text_config=text, vision_config=flexible)),
    }
    generator = torch.Generator().manual_seed(2)
    for name, source in models.items():
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            source.logit_scale.fill_(3.0)
        source.save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in models}


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_from_clip_gives_the_embeddings_of_the_source(name, clip_folders, tmp_path):
    inputs = make_inputs(3)
    if name == "siglip2":
        inputs["pixel_values"] = torch.randn(3, 16, 192, generator=torch.Generator().manual_seed(0))
        inputs["pixel_attention_mask"] = torch.tensor([[1] * 16, [1] * 12 + [0] * 4, [1] * 8 + [0] * 8])
        inputs["spatial_shapes"] = torch.tensor([[4, 4], [3, 4], [2, 4]])
    source = AutoModel.from_pretrained(clip_folders[name]).eval()
    model = EClipModel.from_clip(str(clip_folders[name]))
    model.save_pretrained(tmp_path / "eclip")
    loaded = EClipModel.from_pretrained(tmp_path / "eclip")
    with torch.no_grad():
        expected = source(**inputs)
        for candidate in (model, loaded):
            output = candidate(**inputs, return_loss=True)
            torch.testing.assert_close(output.text_embeds, expected.text_embeds, rtol=0, atol=1e-5)
            torch.testing.assert_close(output.image_embeds, expected.image_embeds, rtol=0, atol=1e-5)
            bias = source.logit_bias if hasattr(source, "logit_bias") else 0.0
            torch.testing.assert_close(output.logits_per_text + bias, expected.logits_per_text, rtol=0, atol=1e-3)
    assert candidate.logit_scale.item() == 3.0
    # With a sigmoid: SigLIP's logits, and its own loss, in which all offers are alone.
    sigmoid = EClipModel.from_clip(str(clip_folders[name]), loss="sigmoid")
    if name == "clip":  # which has no bias; its scale is not kept either
        assert (sigmoid.logit_scale.item(), sigmoid.logit_bias.item()) == (pytest.approx(math.log(10)), -10.0)
        return
    sigmoid.save_pretrained(tmp_path / "sigmoid")
    with torch.no_grad():
        expected = source(**inputs, return_loss=True)
        for candidate in (sigmoid, EClipModel.from_pretrained(tmp_path / "sigmoid")):
            output = candidate(**inputs, return_loss=True)
            torch.testing.assert_close(output.logits_per_image, expected.logits_per_image, rtol=0, atol=1e-3)
            torch.testing.assert_close(output.loss, expected.loss, rtol=1e-4, atol=0)
            assert (candidate.logit_scale.item(), candidate.logit_bias.item()) == (3.0, source.logit_bias.item())


def test_from_clip_refuses_other_models(tower_folders, clip_folders, model, tmp_path):
    with pytest.raises(ValueError, match="holds a ViTModel"):
        EClipModel.from_clip(str(tower_folders[0]))
    model.save_pretrained(tmp_path / "eclip")
    with pytest.raises(ValueError, match="holds a EClipModel"):
        EClipModel.from_clip(str(tmp_path / "eclip"))
    with pytest.raises(ValueError, match="projection and poolings are those of the checkpoint"):
        EClipModel.from_clip(str(clip_folders["clip"]), projection_dim=8)


def test_attention_and_dtype_reach_the_towers(tower_folders, clip_folders):
    settings = {"attn_implementation": "eager", "dtype": torch.bfloat16}
    joined = EClipModel.from_towers(*map(str, tower_folders), tower_kwargs=settings)
    continued = EClipModel.from_clip(str(clip_folders["clip"]), clip_kwargs=settings)
    for model in (joined, continued):
        assert model.dtype == torch.bfloat16
        assert model.text_model.config._attn_implementation == "eager"
        assert model.vision_model.config._attn_implementation == "eager"


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_gradient_checkpointing_with_every_vision_tower(vision, use_reentrant):
    torch.manual_seed(0)
    model = EClipModel(make_config(vision=vision)).train()
    if not model.vision_model.supports_gradient_checkpointing:
        pytest.skip(f"{vision} does not support gradient checkpointing")
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model(**make_inputs(2), return_loss=True).loss.backward()
    assert model.visual_projection.weight.grad.abs().sum() > 0


def test_export_with_a_free_batch_size():
    model = EClipModel(make_config(text_pooling="last")).eval()
    inputs = make_inputs(4)
    batch = torch.export.Dim("batch", min=2)
    shapes = {name: {0: batch} for name in inputs}
    with torch.no_grad():
        program = torch.export.export(model, args=(), kwargs=inputs, dynamic_shapes=shapes, strict=False)
        other = make_inputs(3, seed=1)
        torch.testing.assert_close(program.module()(**other).text_embeds, model(**other).text_embeds)


def test_auto_map_is_written_into_the_config(model, tmp_path):
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert written == {
        "AutoConfig": "configuration_eclip.EClipConfig",
        "AutoModel": "modeling_eclip.EClipModel",
        "AutoModelForZeroShotImageClassification": "modeling_eclip.EClipModel",
    }
    for reference in written.values():
        assert (tmp_path / f"{reference.split('.')[0]}.py").is_file()
    assert type(AutoModel.from_pretrained(tmp_path)) is EClipModel


def test_pixels_take_the_number_format_of_the_tower_not_of_quantised_weights():
    model = EClipModel(make_config()).eval()
    pixels = make_inputs()["pixel_values"]
    expected = model.encode_image(pixels).pooler_output
    # as bitsandbytes keeps a projection's weights: whole numbers in place of the floats
    model.visual_projection.weight = torch.nn.Parameter(
        model.visual_projection.weight.detach().to(torch.int8), requires_grad=False
    )
    assert torch.equal(model.encode_image(pixels).pooler_output, expected)


def test_trainer_does_not_collect_the_towers_outputs():
    ignored = EClipConfig().keys_to_ignore_at_inference
    fields = {field.name for field in dataclasses.fields(EClipOutput)}
    assert fields - set(ignored) == {"loss", "logits_per_text", "logits_per_image", "text_embeds", "image_embeds"}
    assert {field.name for field in dataclasses.fields(MatchingOutput)} - set(ignored) == {"loss", "logits"}


def test_weights_are_written_for_whoever_may_read_the_other_files(model, tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            model.save_pretrained(tmp_path / str(mask), max_shard_size="50KB")
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / str(mask)).iterdir()}
        assert len([name for name in modes if name.endswith(".safetensors")]) > 1
        assert set(modes.values()) == {0o666 & ~mask}, modes
