"""The examples run, and print what they promise."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import TRANSFORMER, VIT
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, ViTImageProcessorPil

from modeling_eclip import EClipConfig, EClipForCategoryClassification, EClipModel, EClipProcessor
from training.title_tokenizer import train_title_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tokenizer():
    return train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)


def test_every_example_fits_on_a_page_and_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tasks = {"lora_category", "lora_matching", "trainer_category"}
    assert names == {"continue_from_clip", "embed", "export", "own_loop"} | tasks
    for name in names:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60, name


def save_checkpoint(folder, tokenizer=None):
    """Save a model that has learned nothing, with its processor."""
    torch.manual_seed(0)
    tokenizer = tokenizer or train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)
    text = {"model_type": "bert", **TRANSFORMER, "vocab_size": len(tokenizer)}
    config = EClipConfig(vision_config={"model_type": "vit", **VIT}, text_config=text, projection_dim=16)
    EClipModel(config).save_pretrained(folder)
    EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    save_checkpoint(tmp_path, tokenizer)
    return str(tmp_path)


def test_embed(checkpoint, capsys):
    load_example("embed").main(checkpoint)
    printed = capsys.readouterr().out
    assert "embeddings of 16 dimensions" in printed
    assert printed.count("-> image of:") == 5


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_export(checkpoint, tmp_path, capsys, format):
    for package in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(package)
    assert load_example("export").main(checkpoint, str(tmp_path / "exported"), format) < 1e-5
    assert "embeddings of 16 dimensions" in capsys.readouterr().out


def test_own_loop_learns(capsys):
    torch.manual_seed(0)
    assert load_example("own_loop").main(num_steps=30) < 4.0  # from log 64 = 4.16 and more
    assert "step  29" in capsys.readouterr().out


def test_continue_from_clip(tokenizer, tmp_path, capsys):
    text = {**TRANSFORMER, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.sep_token_id}
    source = CLIPModel(CLIPConfig(text_config=text, vision_config=VIT, projection_dim=24))
    source.save_pretrained(tmp_path / "clip")
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "clip")
    load_example("continue_from_clip").main(str(tmp_path / "clip"), str(tmp_path / "eclip"))
    printed = capsys.readouterr().out
    assert "projection_dim 24" in printed and "similarity" in printed
    assert EClipModel.from_pretrained(tmp_path / "eclip").config.projection_dim == 24


def test_lora_category_learns(checkpoint, capsys):
    load_example("lora_category").main(checkpoint, num_offers=200, num_epochs=2)
    printed = capsys.readouterr().out
    assert "parameters are trained" in printed and printed.count(" -> ") == 5
    first, last = (float(line.split()[-1]) for line in printed.splitlines() if line.startswith("epoch"))
    assert last < first


def test_lora_matching_learns(checkpoint, capsys):
    before, after = load_example("lora_matching").main(checkpoint, num_offers=100, num_epochs=1)
    assert 0 < before <= 1 and 0 < after <= 1
    assert "parameters are trained" in capsys.readouterr().out


def test_trainer_category_saves_a_head(checkpoint, tmp_path, capsys):
    load_example("trainer_category").main(checkpoint, str(tmp_path / "head"), num_offers=200, num_epochs=0.5)
    assert "accuracy on" in capsys.readouterr().out
    head = EClipForCategoryClassification.from_pretrained(tmp_path / "head")
    assert head.config.category_paths == sorted(head.config.category_paths)
    assert EClipProcessor.from_pretrained(tmp_path / "head").tokenizer.vocab_size > 0
