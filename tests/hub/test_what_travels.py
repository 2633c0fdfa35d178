"""Loading a checkpoint: with the package, and as a stranger who does not have it."""

import ast
import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, WITHOUT_PACKAGE, assert_same_outputs, make_config, make_inputs
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    ViTImageProcessorPil,
)

from modeling_eclip import (
    EClipConfig,
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
    EClipModel,
    EClipProcessor,
)
from modeling_eclip.fitting.tokenizer import train_title_tokenizer

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
    assert_same_outputs(theirs["logits"], ours.logits_per_text)
    assert_same_outputs(theirs["same"], ours.logits_per_text)
    assert_same_outputs(theirs["loss"], ours.loss)
    saved = tmp_path / "outputs.pt.saved"
    files = {path.name for path in folder.iterdir()}
    assert {path.name for path in saved.iterdir()} == files
    assert json.loads((saved / "config.json").read_text())["auto_map"] == EClipModel.auto_map()


def test_with_the_package_no_trust_is_needed(checkpoint):
    folder, model, processor = checkpoint
    assert type(AutoConfig.from_pretrained(folder)) is EClipConfig
    assert type(AutoModel.from_pretrained(folder)) is EClipModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(folder)) is EClipModel
    loaded = AutoProcessor.from_pretrained(folder)
    assert type(loaded) is EClipProcessor
    expected = processor(text="a red shoe", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded(text="a red shoe", return_tensors="pt")["input_ids"], expected)


BASE_FILES = {
    "configuration_eclip.py",
    "images_eclip.py",
    "modeling_eclip.py",
    "processing_eclip.py",
    "sentence_transformers_eclip.py",
    "towers_eclip.py",
}
HEAD_FILES = BASE_FILES | {"fusion_eclip.py", "pipelines_eclip.py", "representation_eclip.py"}
HEADS = {
    EClipForAdultRecognition: ({}, {"adult_eclip.py"}),
    EClipForAttributeExtraction: ({"attributes": {"colour": ["red"]}}, {"attributes_eclip.py"}),
    EClipForCategoryClassification: ({"category_paths": [["a"], ["b"]]}, {"category_eclip.py"}),
    EClipForProductClustering: ({}, {"clustering_eclip.py"}),
    EClipForProductMatching: ({}, {"matching_eclip.py"}),
}


def code_in(folder):
    """Return the Python files of a checkpoint, and how many lines they have."""
    files = list(folder.glob("*.py"))
    return {path.name for path in files}, sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def test_a_base_checkpoint_carries_six_files_of_code(checkpoint):
    names, lines = code_in(checkpoint[0])
    assert names == BASE_FILES
    assert lines <= 2000


@pytest.mark.parametrize("head_class", HEADS)
def test_a_head_carries_its_own_files_and_those_of_the_base(head_class, checkpoint):
    folder, _, processor = checkpoint
    fields, own = HEADS[head_class]
    head = head_class.from_pretrained(folder, **fields)
    head.save_pretrained(folder.parent / "head")
    processor.save_pretrained(folder.parent / "head")
    names, lines = code_in(folder.parent / "head")
    assert names == HEAD_FILES | own
    assert len(names) <= 10 and lines <= 3500


# Heads on sets and on pairs; what needs the package is asked for, too.
STRANGER_TO_HEADS = (
    WITHOUT_PACKAGE
    + """
import sys
import torch
from transformers import AutoModel
clustering, matching, inputs, output = sys.argv[1:]
inputs = torch.load(inputs)
heads = [AutoModel.from_pretrained(folder, trust_remote_code=True) for folder in (clustering, matching)]
errors = []
with torch.no_grad():
    embeds = heads[0](**inputs, labels=torch.tensor([1, 1, -1, 2])).embeds
    logits = heads[1](**{name: torch.stack([value, value.flip(0)], dim=1) for name, value in inputs.items()}).logits
    products = heads[1].represent(**inputs)
for ability in (lambda: heads[0].cluster(embeds), lambda: heads[1].candidates(products)):
    try:
        ability()
    except ImportError as error:
        errors.append(str(error))
torch.save({"embeds": embeds, "logits": logits, "errors": errors}, output)
"""
)


def test_a_stranger_gets_the_same_answers_of_sets_and_pairs_and_is_told_what_needs_the_package(tmp_path):
    torch.manual_seed(0)
    heads = {
        "clustering": EClipForProductClustering(make_config()),
        "matching": EClipForProductMatching(make_config()),
    }
    for name, head in heads.items():
        head.eval().save_pretrained(tmp_path / name)
    inputs = make_inputs(4)
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [str(tmp_path / name) for name in (*heads, "inputs.pt", "outputs.pt")]
    (tmp_path / "elsewhere").mkdir()
    subprocess.run([sys.executable, "-c", STRANGER_TO_HEADS, *arguments], check=True, cwd=tmp_path / "elsewhere")
    theirs = torch.load(tmp_path / "outputs.pt")
    pairs = {name: torch.stack([value, value.flip(0)], dim=1) for name, value in inputs.items()}
    with torch.no_grad():
        assert_same_outputs(theirs["embeds"], heads["clustering"](**inputs).embeds)
        assert_same_outputs(theirs["logits"], heads["matching"](**pairs).logits)
    assert theirs["errors"] == [
        f"`{ability}` needs the package modeling-eclip: pip install modeling-eclip"
        for ability in ("cluster", "candidates")
    ]


def test_files_that_travel_import_nothing_that_stays():
    travelling = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert travelling == {path.stem for path in PACKAGE.glob("*_eclip.py")}
    for name in travelling:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in travelling, f"{name}: {ast.unparse(node)}"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not {"modeling_eclip", "training"} & {module.split(".")[0] for module in modules}, name
                # Nothing that travels publishes: of the Hub's client the decorator of configurations alone.
                assert "huggingface_hub" not in modules


def test_safetensors_only(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".py", ".safetensors"}
    assert_same_outputs(
        EClipModel.from_pretrained(tmp_path)(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text
    )
