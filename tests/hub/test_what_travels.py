"""Loading a checkpoint: with the package, and as a stranger who does not have it."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, WITHOUT_PACKAGE, make_inputs
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    ViTImageProcessorPil,
)

from modeling_eclip import AUTO_MAP, EClipConfig, EClipModel, EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.hub.auto_classes import auto_map_of

PACKAGE = ROOT / "modeling_eclip"

# Runs in a process that could import the package only from the folder of the checkpoint.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor
folder, images, output = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
same = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=["a red shoe", "신발"], images=torch.load(images), return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs, catalog_ids=torch.tensor([1, 1]), return_loss=True)
    torch.save({"logits": outputs.logits_per_text, "loss": outputs.loss, "same": same(**inputs).logits_per_text,
                "names": [type(part).__name__ for part in (config, model, processor)]}, output)
# What was loaded can be saved again, with its code.
model.save_pretrained(output + ".saved")
processor.save_pretrained(output + ".saved")
"""
)


@pytest.fixture
def checkpoint(tmp_path):
    """Return a folder with a small model and its processor, and what went into it."""
    tokenizer = train_title_tokenizer(["a red shoe", "a blue shirt"], vocab_size=300)
    size = {"height": 32, "width": 32}
    processor = EClipProcessor(ViTImageProcessorPil(size=size), tokenizer, max_title_length=16)
    vision = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = EClipConfig(
        vision_config={**vision, "intermediate_size": 64, "image_size": 32, "patch_size": 8},
        text_config={**text, "intermediate_size": 64, "vocab_size": len(tokenizer)},
        projection_dim=16,
    )
    model = EClipModel(config).eval()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def test_a_stranger_gets_the_same_outputs(checkpoint, tmp_path):
    folder, model, processor = checkpoint
    images = torch.randint(0, 256, (2, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = [str(folder), str(tmp_path / "images.pt"), str(tmp_path / "outputs.pt")]
    subprocess.run([sys.executable, "-c", STRANGER, *arguments], check=True, cwd=elsewhere)
    theirs = torch.load(tmp_path / "outputs.pt")
    inputs = processor(text=["a red shoe", "신발"], images=images, return_tensors="pt")
    with torch.no_grad():
        ours = model(**inputs, catalog_ids=torch.tensor([1, 1]), return_loss=True)
    assert theirs["names"] == ["EClipConfig", "EClipModel", "EClipProcessor"]
    assert torch.equal(theirs["logits"], ours.logits_per_text)
    assert torch.equal(theirs["same"], ours.logits_per_text)
    assert torch.equal(theirs["loss"], ours.loss)
    saved = tmp_path / "outputs.pt.saved"
    files = {path.name for path in folder.iterdir()}
    assert {path.name for path in saved.iterdir()} == files
    assert json.loads((saved / "config.json").read_text())["auto_map"] == auto_map_of(EClipModel)


def test_with_the_package_no_trust_is_needed(checkpoint):
    folder, model, processor = checkpoint
    assert type(AutoConfig.from_pretrained(folder)) is EClipConfig
    assert type(AutoModel.from_pretrained(folder)) is EClipModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(folder)) is EClipModel
    loaded = AutoProcessor.from_pretrained(folder)
    assert type(loaded) is EClipProcessor
    expected = processor(text="a red shoe", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded(text="a red shoe", return_tensors="pt")["input_ids"], expected)


def test_every_reference_is_a_file_that_travels_flat():
    for reference in AUTO_MAP.values():
        module, _ = reference.split(".")
        assert (PACKAGE / f"{module}.py").is_file()
    for path in PACKAGE.glob("*_eclip.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] == ["from"] and words[1].startswith("."):
                assert (PACKAGE / f"{words[1][1:]}.py").is_file(), f"{path.name}: {line}"
            assert "modeling_eclip." not in line or "import" not in words, f"{path.name}: {line}"


def test_a_head_adds_its_own_auto_class_and_keeps_the_base():
    class EClipForSomething(EClipModel):
        _auto_class = "AutoModelForSequenceClassification"

    EClipForSomething.__module__ = "modeling_eclip.heads_eclip"
    auto_map = auto_map_of(EClipForSomething)
    assert auto_map["AutoModelForSequenceClassification"] == "heads_eclip.EClipForSomething"
    assert auto_map["AutoModel"] == AUTO_MAP["AutoModel"]


def test_safetensors_only(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".py", ".safetensors"}
    assert torch.equal(
        EClipModel.from_pretrained(tmp_path)(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text
    )
