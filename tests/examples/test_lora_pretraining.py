"""Adapters of pre-training: learned, kept alone, loaded by peft, merged, and a stock class at the end."""

import importlib.util

import peft
import pytest
import torch
from conftest import ROOT, noise_image
from safetensors.torch import load_file
from test_examples import load_example
from transformers import AutoModel, AutoProcessor

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export.stock import stock_model, stock_processor

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}


def build(kind):
    """Return what the tests of stock classes build."""
    specification = importlib.util.spec_from_file_location("test_stock", ROOT / "tests" / "export" / "test_stock.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.build(kind)


@pytest.mark.parametrize("kind", ["siglip2", "siglip", "clip"])
def test_from_a_stock_checkpoint_to_a_stock_checkpoint(kind, tmp_path):
    model, processor = build(kind)
    source, folder = tmp_path / "source", tmp_path / "lora"
    stock_model(model).save_pretrained(source)
    stock_processor(processor, model.config).save_pretrained(source)
    losses = load_example("lora_pretraining").main(str(source), str(folder), num_steps=6)
    assert len(losses) == 6 and min(losses[-2:]) < losses[0]

    kept = load_file(folder / "adapters" / "adapter_model.safetensors")
    assert kept and all(".lora_" in name for name in kept)
    base, processor = EClipModel.from_pretrained(folder / "base"), EClipProcessor.from_pretrained(folder / "base")
    # Two towers of two blocks with six layers each, two matrices for each layer; SigLIP 2's image tower is no other.
    assert len(kept) == 2 * 2 * 6 * 2
    inputs = processor(text=["a red shoe", "shoe"], images=[noise_image(0), noise_image(1)], return_tensors="pt")
    with torch.no_grad():
        before = base.eval()(**inputs)
        expected = peft.PeftModel.from_pretrained(base, folder / "adapters").eval()(**inputs)
        stock = AutoModel.from_pretrained(folder / "merged").eval()
        found = stock(**AutoProcessor.from_pretrained(folder / "merged")(
            text=["a red shoe", "shoe"], images=[noise_image(0), noise_image(1)], return_tensors="pt"
        ))  # fmt: skip
    assert type(stock).__name__ == CLASSES[kind]
    for name in ("text_embeds", "image_embeds"):
        assert not torch.allclose(getattr(expected, name), getattr(before, name), atol=1e-4), "nothing was learned"
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)
