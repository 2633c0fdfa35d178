"""To the Hub and back over real HTTP: what goes up, what its card says, who may load it, and what a stranger gets."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from conftest import MODEL
from hub_server import Answer, Dropped, HubServer, Repository, card_errors
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModel, AutoProcessor

from modeling_eclip import (
    CardFacts,
    EClipConfig,
    EClipForCategoryClassification,
    EClipModel,
    EClipProcessor,
    Figure,
    push_to_hub,
)
from modeling_eclip.model_card_eclip import GENERATED, build_model_card
from training.arguments import CardArguments, DataArguments, FinetuneArguments, TrainArguments
from training.build import build_model, build_processor
from training.finetune import finetune
from training.publish import main as publish
from training.publishing import checkpoint_facts
from training.task_models import load_head
from training.train import train

ROOT = Path(__file__).parents[1]
TITLES = ["a red shoe", "blue shirt, size M"]
PATHS = [["Shoes", "Boots"], ["Shoes", "Sandals"], ["Shirts"]]
DATA = DataArguments(toy_offers=80, num_workers=0)
# What training leaves beside a model, and a picture.
BESIDE = ("arguments.json", "checkpoint-8", "history.png", "optimizer.bin", "report.json", "training_args.bin")


def use(server, patch, cache, user="someone"):
    """Have huggingface_hub, which has read its environment long ago, speak to a server as a user."""
    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(transformers.utils.hub, "_hf_api", None)  # a shared one would keep its address
    patch.setenv("HF_TOKEN", server.tokens.get(user, "")) if user else patch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on which this process is the user `someone`."""
    server = HubServer({"someone": "hf_someone", "other": "hf_other"})
    use(server, monkeypatch, tmp_path / "cache")
    yield server
    server.close()


@pytest.fixture(scope="module")
def parts():
    """A small model and its processor; its towers are said to be from a folder and from the Hub."""
    processor = build_processor(MODEL, TITLES)
    model = build_model(MODEL, processor.tokenizer, seed=0).eval()
    model.config.vision_config._name_or_path = str(ROOT / "outputs" / "tower")
    model.config.text_config._name_or_path = "someone/tower"
    return model, processor


@pytest.fixture
def checkpoint(parts, tmp_path):
    """A folder as training leaves it."""
    folder = tmp_path / "checkpoint"
    for part in parts:
        part.save_pretrained(folder)
    figures = {"samples": 64, "text_to_image_recall@1": 0.5, "chance@1": 0.01}
    report = {"trained": figures, "untrained": {**figures, "text_to_image_recall@1": 0.125}, "samples": 64}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "arguments.json").write_text(json.dumps({"validation_data": ["/data/shop/validation.parquet"]}))
    shutil.copy(ROOT / "training" / "figures" / "memory.png", folder / "history.png")
    for name in ("optimizer.bin", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x04state.")
    (folder / "checkpoint-8").mkdir()
    return folder


def embed(model, processor):
    with torch.no_grad():
        return model(**processor(text=TITLES, return_tensors="pt")).text_embeds


def metadata(server, repo):
    return ModelCard(server.repositories[repo].head()["README.md"].decode())


def code_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


# Runs where the package can't be imported; the first and the last way of each card are tried word by word.
STRANGER = """
import importlib.abc, os, re, sys
class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_eclip", "training"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPackage())
import torch
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoModel, AutoProcessor
output, first_commit, titles = sys.argv[1], sys.argv[2], sys.argv[3:]
found = {}
for auto_class in (AutoModel, AutoProcessor):
    for trust in ({}, {"trust_remote_code": False}):
        try:
            auto_class.from_pretrained("someone/eclip", **trust)
        except ValueError as error:
            assert "trust_remote_code" in str(error), error
        else:
            raise AssertionError("loaded without trust")
ours = [name for name in sys.modules if name.endswith("_eclip")]
modules = [file for _, _, files in os.walk(os.environ["HF_HOME"] + "/modules") for file in files if "eclip" in file]
assert not ours + modules, f"{ours + modules} came without trust"
trusted = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained("someone/eclip", **trusted)
inputs = processor(text=titles, return_tensors="pt")
with torch.no_grad():
    found["last"] = AutoModel.from_pretrained("someone/eclip", **trusted)(**inputs).text_embeds
    found["first"] = AutoModel.from_pretrained("someone/eclip", revision=first_commit, **trusted)(**inputs).text_embeds
    found["draft"] = AutoModel.from_pretrained("someone/eclip", revision="draft", **trusted)(**inputs).text_embeds
for repo in ("someone/eclip", "someone/head", "someone/adapters"):
    with open(hf_hub_download(repo, "README.md"), encoding="utf-8") as card:
        blocks = re.findall(r"```python\\n(.*?)```", card.read(), flags=re.DOTALL)
    names = {}
    exec(blocks[0], names)
    if "sentence_transformers" not in blocks[2]:
        exec(blocks[2], names)
    found[repo] = names["outputs"].text_embeds if repo == "someone/eclip" else names["outputs"].logits
    found[repo + " class"] = type(names["head" if "head" in names else "model"]).__name__
    found[repo + " answer"] = names.get("answer")
torch.save(found, output)
"""


def run_stranger(script, server, home, *arguments, **environment):
    """Run a script in a process that has no package, no token and a cache of its own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "PYTHONPATH"
    }
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ran = subprocess.run(
        command,
        cwd=home,
        env=inherited | settings | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_stranger_loads_what_was_published_and_again_without_network(hub, parts, checkpoint, tmp_path):
    model, processor = parts
    # As a user does it, in a process of its own.
    command = [sys.executable, str(ROOT / "training" / "publish.py"), str(checkpoint), "someone/eclip"]
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_someone", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | settings | {"HF_HOME": str(tmp_path / "publisher"), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*command, "--license", "mit"], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    first_commit = hub.repositories["someone/eclip"].branches["main"]
    later = EClipModel.from_pretrained(checkpoint)
    with torch.no_grad():
        later.text_projection.weight.neg_()
    later.push_to_hub("someone/eclip", revision="draft", token="hf_someone")
    with torch.no_grad():
        later.text_projection.weight[0].neg_()
    later.push_to_hub("someone/eclip")
    torch.manual_seed(0)
    head = EClipForCategoryClassification.from_pretrained("someone/eclip", category_paths=PATHS)
    head.push_to_hub("someone/head")
    processor.push_to_hub("someone/head")
    adapted = EClipForCategoryClassification.from_pretrained("someone/eclip", category_paths=PATHS)
    lora = peft.LoraConfig(
        target_modules=r"eclip\.text_model\..*(query|value)",
        modules_to_save=["classifier", "representation"],
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(adapted, lora)
    push_to_hub(adapted, "someone/adapters")
    processor.push_to_hub("someone/adapters")

    home, shoe = tmp_path / "home", processor(text=TITLES[:1], return_tensors="pt")
    run_stranger(STRANGER, hub, home, tmp_path / "online.pt", first_commit, *TITLES)
    hub.close()
    run_stranger(
        STRANGER.replace("for trust in ({}, {", "for trust in ({"),  # the code has come by now, and no word is needed
        hub, home, tmp_path / "offline.pt", first_commit, *TITLES, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    with torch.no_grad():
        expected_head, expected_adapters = head.eval()(**shoe).logits, adapted.eval()(**shoe).logits
    for name in ("online.pt", "offline.pt"):
        theirs = torch.load(tmp_path / name)
        assert torch.equal(theirs["first"], embed(model, processor)), name
        assert torch.equal(theirs["last"], embed(later.eval(), processor)), name
        assert not torch.equal(theirs["draft"], theirs["last"]), name
        assert torch.equal(theirs["someone/eclip"], theirs["last"][:1]), name
        assert torch.equal(theirs["someone/head"], expected_head), name
        assert torch.allclose(theirs["someone/adapters"], expected_adapters, atol=1e-6), name
        assert theirs["someone/head class"] == theirs["someone/adapters class"] == "EClipForCategoryClassification"
        assert theirs["someone/head answer"] == head.decode(expected_head), name
