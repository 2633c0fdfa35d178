"""Interpolation of checkpoints: the numbers, the script, the errors."""

import json

import pytest
import torch
from call_script import call_script
from conftest import make_config, make_inputs
from transformers import CLIPConfig, CLIPModel

from modeling_eclip import EClipConfig, EClipForAdultRecognition, EClipModel, EClipProcessor
from training.arguments.model import ModelArguments
from training.engine.build import build_processor
from training.engine.interpolate import interpolate_models
from training.interpolate import main


def filled(value, vision="vit"):
    """Return a model all of whose weights are one number."""
    model = EClipModel(make_config(vision))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


@pytest.mark.parametrize(("share", "expected"), [(0.0, 2.0), (0.25, 3.0), (0.5, 4.0), (1.0, 6.0)])
def test_weights_lie_on_the_line(share, expected):
    model = interpolate_models(filled(2.0), filled(6.0), share)
    assert all((parameter == expected).all() for parameter in model.parameters())


def test_running_statistics_are_interpolated_and_counters_are_not():
    start, trained = filled(0.0, "resnet"), filled(0.0, "resnet")
    norms = [model.vision_model.embedder.embedder.normalization for model in (start, trained)]
    for norm, mean, count in zip(norms, (1.0, 3.0), (5, 10), strict=True):
        norm.running_mean.fill_(mean)
        norm.num_batches_tracked.fill_(count)
    norm = interpolate_models(start, trained, 0.25).vision_model.embedder.embedder.normalization
    assert (norm.running_mean == 1.5).all()
    assert norm.num_batches_tracked == 10


@pytest.fixture
def folders(model, tmp_path):
    """Return a start, as CLIP and as e-CLIP, and what a training could have made of it, with a processor."""
    text = make_config(text="clip_text_model").text_config.to_dict()
    vision = make_config(vision="clip_vision_model").vision_config.to_dict()
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(tmp_path / "clip")
    model = EClipModel.from_clip(str(tmp_path / "clip"))
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    model.save_pretrained(tmp_path / "trained")
    arguments = ModelArguments(
        vision_config=json.dumps({"model_type": "vit", "image_size": 32}), text_config="{}", vocab_size=300
    )
    build_processor(arguments, ["red shoe"]).save_pretrained(tmp_path / "trained")
    return tmp_path


@pytest.mark.parametrize("start", ["start", "clip"])
def test_the_script_writes_a_model_and_its_processor(start, folders):
    call_script(main, [str(folders / start), str(folders / "trained"), str(folders / "between"), "--share", "0.75"])
    between = EClipModel.from_pretrained(folders / "between").state_dict()
    starts, ends = (EClipModel.from_pretrained(folders / name).state_dict() for name in ("start", "trained"))
    for name, tensor in between.items():
        assert torch.allclose(tensor, 0.25 * starts[name] + 0.75 * ends[name], atol=1e-6), name
    assert not torch.equal(between["logit_scale"], ends["logit_scale"])
    processor = EClipProcessor.from_pretrained(folders / "between")
    assert (
        processor(text="red shoe").input_ids
        == EClipProcessor.from_pretrained(folders / "trained")(text="red shoe").input_ids
    )
    assert EClipModel.from_pretrained(folders / "between")(**make_inputs(2)).logits_per_text.shape == (2, 2)


def test_errors_name_the_tensor():
    wide = make_config()
    wide.projection_dim = 24
    with pytest.raises(ValueError, match=r"'text_projection.weight' has shape \(16, 32\) at the start and \(24, 32\)"):
        interpolate_models(filled(0.0), EClipModel(wide), 0.5)
    with pytest.raises(ValueError, match=r"tensor 'vision_model.+' has shape .+ at the start and None in the"):
        interpolate_models(filled(0.0, "resnet"), filled(0.0), 0.5)
    with pytest.raises(ValueError, match="`share` is 1.5"):
        interpolate_models(filled(0.0), filled(0.0), 1.5)
    with pytest.raises(ValueError, match="`loss` of the start is 'softmax' and that of the trained model 'sigmoid'"):
        interpolate_models(filled(0.0), EClipModel(make_config(loss="sigmoid")), 0.5)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    filled(2.0).save_pretrained(tmp_path / "start")
    filled(float("inf")).save_pretrained(tmp_path / "trained")
    with pytest.raises(SystemExit, match="not finite.*it is not saved"):
        call_script(main, [str(tmp_path / "start"), str(tmp_path / "trained"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_would_be_mixed_without_sense_is_refused(folders):
    head = EClipForAdultRecognition(EClipConfig.from_pretrained(folders / "trained"))
    head.save_pretrained(folders / "head")
    with pytest.raises(SystemExit, match="head is of EClipForAdultRecognition, whose own weights would be lost"):
        call_script(main, [str(folders / "start"), str(folders / "head"), str(folders / "out")])
    arguments = ModelArguments(
        vision_config=json.dumps({"model_type": "vit", "image_size": 32}), text_config="{}", vocab_size=300
    )
    build_processor(arguments, ["other words, other pieces of words"] * 3).save_pretrained(folders / "start")
    with pytest.raises(SystemExit, match="tokenizers of different vocabularies"):
        call_script(main, [str(folders / "start"), str(folders / "trained"), str(folders / "out")])
    assert not (folders / "out").exists()
