"""The examples run, and print what they promise."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import TRANSFORMER, VIT
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, ViTImageProcessorPil

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
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
    assert names == {"continue_from_clip", "embed", "own_loop"}
    for name in names:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60, name


def test_embed(tokenizer, tmp_path, capsys):
    text = {"model_type": "bert", **TRANSFORMER, "vocab_size": len(tokenizer)}
    config = EClipConfig(vision_config={"model_type": "vit", **VIT}, text_config=text, projection_dim=16)
    EClipModel(config).save_pretrained(tmp_path)
    EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(tmp_path)
    load_example("embed").main(str(tmp_path))
    printed = capsys.readouterr().out
    assert "embeddings of 16 dimensions" in printed
    assert printed.count("-> image of:") == 5


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
