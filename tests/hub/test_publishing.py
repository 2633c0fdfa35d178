"""To the Hub and back over real HTTP: what goes up, what its card says, who may load it, and what a stranger gets."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from call_script import call_script
from conftest import MODEL, ROOT, WITHOUT_PACKAGE, assert_same_outputs
from hub_server import Answer, Dropped, HubServer, Repository, card_errors
from huggingface_hub import ModelCard, constants, hf_api
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModel, AutoProcessor

from modeling_eclip import (
    CardFacts,
    EClipConfig,
    EClipForCategoryClassification,
    EClipModel,
    MetricValue,
    publish_folder,
    push_to_hub,
)
from modeling_eclip.hub.model_card import GENERATED, build_model_card
from training.arguments.card import CardArguments
from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.train import TrainArguments
from training.engine.build import build_model, build_processor
from training.engine.contrastive_training import train
from training.hub.card_facts import checkpoint_facts
from training.publish import main
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head
from training.tasks.registry import TASKS

TITLES = ["a red shoe", "blue shirt, size M"]
PATHS = [["Shoes", "Boots"], ["Shoes", "Sandals"], ["Shirts"]]


def publish(words):
    call_script(main, words)


DATA = DataArguments(train_data=["toy"], toy_offers=80, num_workers=0)


def use(server, patch, cache, user="someone"):
    """Have huggingface_hub, which has read its environment long ago, speak to a server as a user."""
    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Shared ones keep their address.
    patch.setattr(hf_api.api, "endpoint", server.url)
    patch.setattr(transformers.utils.hub, "_hf_api", None)
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
    metrics = {"samples": 64, "text_to_image_recall@1": 0.5, "chance@1": 0.01}
    report = {"trained": metrics, "untrained": {**metrics, "text_to_image_recall@1": 0.125}, "samples": 64}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "arguments.json").write_text(json.dumps({"validation_data": ["/data/shop/validation.parquet"]}))
    shutil.copy(ROOT / "training" / "figures" / "memory.png", folder / "history.png")
    for name in ("optimizer.bin", "random_state_0.pt", "training_args.bin", "training_state.pt"):
        (folder / name).write_bytes(b"\x80\x04state.")
    (folder / "checkpoint-8").mkdir()
    return folder


def embed(model, processor):
    with torch.no_grad():
        return model(**processor(text=TITLES, return_tensors="pt")).text_embeds


def metadata(server, repo):
    return ModelCard(server.repositories[repo].head()["README.md"].decode())


# Runs where the package can't be imported; the first and the last way of each card are tried word by word.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import os, re, sys
import torch
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoModel, AutoProcessor
output, first_commit, titles = sys.argv[1], sys.argv[2], sys.argv[4:]
found = {}
if os.environ["HF_HUB_OFFLINE"] == "0":  # nothing of the code is here yet
    for auto_class in (AutoModel, AutoProcessor):
        for trust in ({}, {"trust_remote_code": False}):
            try:
                auto_class.from_pretrained("someone/eclip", **trust)
            except ValueError as error:
                assert "trust_remote_code" in str(error), error
            else:
                raise AssertionError("loaded without trust")
    came = [name for name in sys.modules if name.endswith("_eclip")]
    came += [file for _, _, files in os.walk(os.environ["HF_HOME"]) for file in files if file.endswith("_eclip.py")]
    assert not came, f"{came} came without trust"
trusted = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained("someone/eclip", **trusted)
inputs = processor(text=titles, return_tensors="pt")
with torch.no_grad():
    found["last"] = AutoModel.from_pretrained("someone/eclip", **trusted)(**inputs).text_embeds
    found["first"] = AutoModel.from_pretrained("someone/eclip", revision=first_commit, **trusted)(**inputs).text_embeds
    found["draft"] = AutoModel.from_pretrained("someone/eclip", revision="draft", **trusted)(**inputs).text_embeds
for repo in sys.argv[3].split(","):
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
)


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
    push_to_hub(later, "someone/eclip", revision="draft", token="hf_someone")
    with torch.no_grad():
        later.text_projection.weight[0].neg_()
    push_to_hub(later, "someone/eclip")
    torch.manual_seed(0)
    head = EClipForCategoryClassification.from_pretrained("someone/eclip", category_paths=PATHS)
    push_to_hub(head, "someone/head")
    push_to_hub(processor, "someone/head")
    adapted = EClipForCategoryClassification.from_pretrained("someone/eclip", category_paths=PATHS)
    lora = peft.LoraConfig(
        target_modules=r"eclip\.text_model\..*(query|value)",
        modules_to_save=["classifier", "representation"],
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(adapted, lora)
    push_to_hub(adapted, "someone/adapters")
    push_to_hub(processor, "someone/adapters")

    home, shoe = tmp_path / "home", processor(text=TITLES[:1], return_tensors="pt")
    repos = "someone/eclip,someone/head"
    run_stranger(STRANGER, hub, home, tmp_path / "online.pt", first_commit, f"{repos},someone/adapters", *TITLES)
    hub.close()
    run_stranger(STRANGER, hub, home, tmp_path / "offline.pt", first_commit, repos, *TITLES, HF_HUB_OFFLINE="1")
    with torch.no_grad():
        expected_head, expected_adapters = head.eval()(**shoe).logits, adapted.eval()(**shoe).logits
    for name in ("online.pt", "offline.pt"):
        theirs = torch.load(tmp_path / name)
        assert_same_outputs(theirs["first"], embed(model, processor))
        assert_same_outputs(theirs["last"], embed(later.eval(), processor))
        assert not torch.allclose(theirs["draft"], theirs["last"], atol=1e-4), name
        assert torch.allclose(theirs["someone/eclip"], theirs["last"][:1], atol=1e-6), name
        assert_same_outputs(theirs["someone/head"], expected_head)
        assert theirs["someone/head class"] == "EClipForCategoryClassification"
        assert theirs["someone/head answer"] == head.decode(expected_head), name
    theirs = torch.load(tmp_path / "online.pt")
    assert theirs["someone/adapters class"] == "EClipForCategoryClassification"
    assert torch.allclose(theirs["someone/adapters"], expected_adapters, atol=1e-6)


def test_what_goes_up_is_complete_and_nothing_else(hub, checkpoint, tmp_path):
    hub.repositories["someone/tower"] = Repository()
    hub.repositories["someone/tower"].commit("main", {})
    publish([str(checkpoint), "eclip", "--license", "mit", "--private", "--base_models", "someone/tower"])
    repository = hub.repositories["someone/eclip"]  # a name alone is among one's own
    assert repository.private
    files = repository.head()
    code = {path.name for path in checkpoint.glob("*_eclip.py")}
    settings = {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    settings |= {"modules.json", "config_sentence_transformers.json"}
    assert files.keys() - {".gitattributes"} == code | settings | {"README.md", "history.png", "model.safetensors"}
    assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    for name in files.keys() - {"history.png", "model.safetensors"}:
        text = files[name].decode()
        assert str(ROOT) not in text and str(tmp_path) not in text, f"{name} tells of this machine"
    config = json.loads(files["config.json"])
    assert "_name_or_path" not in config["vision_config"]
    assert config["text_config"]["_name_or_path"] == "someone/tower"
    for name, content in files.items():
        assert not content.startswith((b"\x80", b"PK\x03\x04")), f"{name} is a pickle"
    assert hub.count("POST", "commit/main") == 1
    # Once more: nothing has changed, and nothing is sent.
    publish([str(checkpoint), "eclip", "--license", "mit", "--base_models", "someone/tower"])
    assert hub.count("POST", "commit/main") == hub.count("PUT", "storage") - 1 == 1


def test_the_card_says_what_the_files_and_the_arguments_tell(hub, checkpoint):
    hub.repositories["someone/tower"] = tower = Repository()
    tower.commit("main", {})
    evaluation = checkpoint / "evaluation.json"
    metrics = {"accuracy": {"value": 0.75, "low": 0.5, "high": 1.0}, "f1": {"value": None, "low": None, "high": None}}
    evaluation.write_text(json.dumps({str(checkpoint): {"split": "test", "metrics": metrics}}))
    data = ["Shop Pictures=cc-by-4.0", "someone/offers=mit"]
    words = ["--license", "apache-2.0", "--card_languages", "en", "--card_limits", "It knows no hats."]
    publish([str(checkpoint), "someone/eclip", *words, "--card_data", *data, "--evaluation", str(evaluation)])
    card = metadata(hub, "someone/eclip")
    assert card_errors(str(card)) == []
    found = card.data.to_dict()
    assert found["base_model"] == ["someone/tower"]  # the other tower is from a folder
    assert found["datasets"] == ["someone/offers"]
    assert (found["license"], found["language"], found["library_name"]) == ("apache-2.0", ["en"], "transformers")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "text_to_image_recall@1": 0.5, "accuracy": 0.75,
    }  # fmt: skip
    recall = results["text_to_image_recall@1"]
    assert (recall.dataset_name, recall.dataset_split) == ("shop", "validation")
    assert recall.task_type == found["pipeline_tag"] == "zero-shot-image-classification"
    for row in (
        "| text to image recall@1 | shop, validation | 0.500 |  | 0.125 |",
        "| accuracy | held-out offers, test | 0.750 | 0.500 to 1.000 |  |",
        "| Shop Pictures | cc-by-4.0 |",
        "| [someone/offers](https://huggingface.co/datasets/someone/offers) | mit |",
        "- It knows no hats.",
        "![history](history.png)",
        "on 64 samples",
    ):
        assert row in card.text, row


def test_what_is_not_known_is_not_said(checkpoint):
    for name in ("arguments.json", "report.json"):
        (checkpoint / name).unlink()
    facts = checkpoint_facts(checkpoint, CardArguments())
    assert (facts.metrics, facts.training, facts.license) == ([], "", None)
    card = build_model_card(json.loads((checkpoint / "config.json").read_text()), "someone/eclip", CardFacts())
    assert not card.data.to_dict().keys() & {"license", "model-index", "datasets", "base_model", "model_name"}
    assert "licence of the weights is not stated" in card.text
    assert "No metrics are stated." in card.text


def test_a_model_of_the_hub_that_is_not_there_is_no_base_model(hub, checkpoint, caplog):
    publish([str(checkpoint), "someone/eclip"])
    assert "base_model" not in metadata(hub, "someone/eclip").data.to_dict()
    assert "no model 'someone/tower'" in caplog.text


def test_a_folder_that_looks_like_an_id_is_no_source(hub, checkpoint, tmp_path, monkeypatch):
    hub.repositories["someone/tower"] = Repository()
    hub.repositories["someone/tower"].commit("main", {})
    config = json.loads((checkpoint / "config.json").read_text())
    config["vision_config"]["_name_or_path"] = "outputs/tower"  # of the folder that training ran in
    config["text_config"]["text_config"] = {"_name_or_path": str(tmp_path / "tower")}
    (checkpoint / "config.json").write_text(json.dumps(config))
    publish([str(checkpoint), "someone/eclip"])
    written = json.loads(hub.repositories["someone/eclip"].head()["config.json"])
    assert "_name_or_path" not in written["vision_config"]
    assert written["text_config"]["text_config"] == {}
    assert written["text_config"]["_name_or_path"] == "someone/tower"
    assert "outputs/tower" not in str(metadata(hub, "someone/eclip"))
    # What is there as a folder came from there, whatever the Hub has by that name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "tower").mkdir(parents=True)
    publish_folder(checkpoint, "someone/eclip")
    assert "someone/tower" not in str(metadata(hub, "someone/eclip"))


@pytest.mark.parametrize("fault", ["dropped", "refused"])
def test_an_interrupted_upload_is_repeated_without_sending_all_again(hub, checkpoint, fault):
    if fault == "dropped":  # the connection, in the middle of the weights: huggingface_hub tries again by itself
        hub.fail_once("PUT", "storage", Dropped())
    else:
        hub.fail_once("POST", "commit/main", Answer(500, {"error": "try again"}))
        with pytest.raises(SystemExit, match="500"):
            publish([str(checkpoint), "someone/eclip"])
        assert hub.repositories["someone/eclip"].head().keys() == {".gitattributes"}, "half a push is there"
    publish([str(checkpoint), "someone/eclip"])
    assert "config.json" in hub.repositories["someone/eclip"].head()
    # The weights and the plot; the dropped one was begun twice.
    assert hub.count("PUT", "storage") == 2 + (fault == "dropped")
    assert len(hub.objects) == 2
    assert not hub.faults


def test_weights_of_an_earlier_push_are_not_loaded_again(hub, parts, checkpoint):
    _, processor = parts
    model = EClipModel.from_pretrained(checkpoint)
    push_to_hub(model, "someone/eclip")
    repository = hub.repositories["someone/eclip"]
    theirs = {"model-old.safetensors": b"theirs", "notes.md": b"theirs", "onnx.bin": b"theirs"}
    repository.commit("main", repository.head() | theirs)

    def changed_and_pushed(**kwargs):
        with torch.no_grad():
            model.text_projection.weight[0].neg_()
        commits = len(repository.commits)
        push_to_hub(model, "someone/eclip", **kwargs)
        assert len(repository.commits) == commits + 1, "a commit in between has no whole model"
        loaded = AutoModel.from_pretrained("someone/eclip")
        assert_same_outputs(embed(loaded, processor), embed(model.eval(), processor))
        return {name for name in repository.head() if "safetensors" in name}

    first, *shards = sorted(changed_and_pushed(max_shard_size="100KB") - theirs.keys())
    assert first == f"model-00001-of-{len(shards):05d}.safetensors" and shards[-1] == "model.safetensors.index.json"
    assert changed_and_pushed() == {"model.safetensors", "model-old.safetensors"}
    # Adapters may be of the model that is there, and a model takes their place.
    adapted = peft.get_peft_model(
        EClipModel.from_pretrained("someone/eclip"), peft.LoraConfig(target_modules=["query"])
    )
    push_to_hub(adapted, "someone/eclip", facts=CardFacts(base_models=["someone/eclip"]))
    assert {"adapter_model.safetensors", "model.safetensors"} <= repository.head().keys()
    assert changed_and_pushed() == {"model.safetensors", "model-old.safetensors"}
    assert "adapter_config.json" not in repository.head()
    push_to_hub(processor, "someone/eclip")
    assert theirs.items() <= repository.head().items() and "model.safetensors" in repository.head()


@pytest.mark.parametrize("same_disk", [True, False])
def test_weights_are_sent_without_a_copy_and_the_folder_stays_as_it_is(hub, checkpoint, monkeypatch, same_disk):
    def no_link(*paths):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def upload_folder(api, *, folder_path, **settings):
        sent.append((folder_path / "model.safetensors").samefile(checkpoint / "model.safetensors"))
        return upload(api, folder_path=folder_path, **settings)

    upload, sent = hf_api.HfApi.upload_folder, []
    monkeypatch.setattr(hf_api.HfApi, "upload_folder", upload_folder)
    if not same_disk:
        monkeypatch.setattr(os, "link", no_link)
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
    publish([str(checkpoint), "someone/eclip"])
    assert sent == [True]
    files = hub.repositories["someone/eclip"].head()
    assert all(files[name] == before[name] for name in ("model.safetensors", "tokenizer.json", "history.png"))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()} == before


def test_a_change_is_proposed_to_the_main_branch_alone(hub, checkpoint):
    with pytest.raises(SystemExit, match="`revision` is 'draft'; give one of both"):
        publish([str(checkpoint), "someone/eclip", "--create_pr", "--revision", "draft"])
    assert hub.repositories == {}


def test_gated_and_private_repositories_give_the_hubs_own_errors(hub, parts, tmp_path, monkeypatch):
    model, processor = parts
    for repo, private in (("someone/private", True), ("someone/gated", False)):
        push_to_hub(model, repo, private=private)
        push_to_hub(processor, repo)
    hub.repositories["someone/gated"].gated = True
    for user in (None, "other"):
        use(hub, monkeypatch, tmp_path / f"cache-{user}", user)
        for auto_class in (AutoModel, AutoProcessor):
            for repo, expected in (("someone/gated", GatedRepoError), ("someone/private", RepositoryNotFoundError)):
                with pytest.raises(OSError) as raised:
                    auto_class.from_pretrained(repo)
                causes, cause = [], raised.value
                while cause is not None:
                    causes.append(type(cause))
                    cause = cause.__cause__ or cause.__context__
                assert expected in causes, (user, auto_class, repo, causes)
    with pytest.raises(HfHubHTTPError, match="403"):
        push_to_hub(model, "someone/eclip")  # `other` writes to what is not theirs
    use(hub, monkeypatch, tmp_path / "cache-owner", "someone")
    for repo in ("someone/gated", "someone/private"):
        loaded = AutoModel.from_pretrained(repo)
        assert_same_outputs(embed(loaded, AutoProcessor.from_pretrained(repo)), embed(model, processor))


def test_a_card_that_the_hub_refuses_stops_the_push_before_anything_is_sent(hub, checkpoint):
    with pytest.raises(SystemExit, match="license"):
        publish([str(checkpoint), "someone/eclip", "--license", "made-up"])
    assert hub.count("PUT", "storage") == hub.count("POST", "commit") == 0
    assert hub.repositories == {}


def test_what_shall_be_private_is_not_published_where_everybody_sees_it(hub, parts, checkpoint):
    push_to_hub(parts[1], "someone/eclip")
    before = hub.repositories["someone/eclip"].head()
    with pytest.raises(SystemExit, match="'someone/eclip' is there already and public; make it private by"):
        publish([str(checkpoint), "someone/eclip", "--private"])
    assert hub.repositories["someone/eclip"].head() == before and hub.count("PUT", "storage") == 0
    hub.repositories["someone/eclip"].private = True
    publish([str(checkpoint), "someone/eclip", "--private"])
    assert "model.safetensors" in hub.repositories["someone/eclip"].head()


def test_data_whose_name_is_in_other_letters_has_a_type(hub, checkpoint):
    publish([str(checkpoint), "someone/eclip", "--evaluated_on", "日本語"])
    (result,) = metadata(hub, "someone/eclip").data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("custom", "日本語")


def test_a_card_that_somebody_has_written_stays(hub, parts, checkpoint):
    model, processor = parts
    push_to_hub(processor, "someone/eclip")
    assert "A processor of e-CLIP" in metadata(hub, "someone/eclip").text
    push_to_hub(model, "someone/eclip", tags=["shoes"])  # says more than the processor's
    assert "An e-CLIP model" in metadata(hub, "someone/eclip").text
    assert "shoes" in metadata(hub, "someone/eclip").data.tags
    push_to_hub(processor, "someone/eclip")
    assert "An e-CLIP model" in metadata(hub, "someone/eclip").text
    ours = str(metadata(hub, "someone/eclip")).replace(GENERATED, "") + "Mind the laces.\n"
    repository = hub.repositories["someone/eclip"]
    repository.commit("main", repository.head() | {"README.md": ours.encode()})
    publish([str(checkpoint), "someone/eclip"])
    assert "Mind the laces." in metadata(hub, "someone/eclip").text
    publish([str(checkpoint), "someone/eclip", "--new_card"])
    assert "Mind the laces." not in metadata(hub, "someone/eclip").text


def test_what_is_no_checkpoint_is_refused(hub, checkpoint, tmp_path):
    def refused(folder, *words, match):
        with pytest.raises(SystemExit, match=match):
            publish([str(folder), "someone/eclip", *words])

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", match="which is no folder of a model: it has no config.json")
    refused(tmp_path / "absent", match="there is no such folder")
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(checkpoint, match="'pytorch_model.bin': a pickle runs what is in it")
    (checkpoint / "pytorch_model.bin").unlink()
    (checkpoint / "towers_eclip.py").unlink()
    refused(checkpoint, match="lacks towers_eclip.py")
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, match="holds no e-CLIP checkpoint")
    refused(checkpoint, "--card_data", "Shop Pictures", match="give name=licence")
    refused(checkpoint, "--license", "other", match="a licence that the Hub has no name for")
    with pytest.raises(SystemExit, match="`checkpoint` is empty; name the folder of a model"):
        publish([])
    assert hub.requests == []


def test_a_dry_run_shows_the_card_and_the_files_and_asks_the_hub_nothing(hub, checkpoint, capsys):
    publish([str(checkpoint), "someone/eclip", "--license", "mit", "--dry_run"])
    told = capsys.readouterr().out
    assert told.startswith("---\n") and "license: mit" in told and "model.safetensors" in told
    assert hub.requests == []


def test_a_file_that_cannot_be_read_is_named(hub, checkpoint):
    def refused(name, content, match, *words):
        whole = (checkpoint / name).read_text()
        (checkpoint / name).write_text(content)
        with pytest.raises(SystemExit, match=match):
            publish([str(checkpoint), "someone/eclip", *words])
        (checkpoint / name).write_text(whole)

    for name in ("arguments.json", "config.json", "report.json"):
        refused(name, "{bad", rf"{name}' is not JSON \(.*\); write it again with what has written it")
        refused(name, "[]", f"{name}' holds list and no JSON object")
    refused("report.json", '{"trained": {}}', "`samples` of '.*report.json' is None; write the report again")
    refused("report.json", '{"trained": [], "samples": 1}', "`trained` of '.*report.json' is")
    refused("report.json", '{"task": "adult"}', "`method` of '.*report.json' is None")
    evaluation = checkpoint / "evaluation.json"
    evaluation.write_text("{}")
    words = ("--evaluation", str(evaluation))
    refused("evaluation.json", "{bad", "evaluation.json' is not JSON", *words)
    metrics = {str(checkpoint): {"metrics": {"accuracy": {"value": 0.5}}}}
    refused("evaluation.json", json.dumps(metrics), "`split` of '.*evaluation.json' is None", *words)
    refused("evaluation.json", "{}", "is no file; give the report.json", "--evaluation", "absent.json")
    assert hub.requests == []


def test_what_the_hub_says_is_told_in_a_line(hub, parts, checkpoint, tmp_path, monkeypatch):
    def told(repo):
        with pytest.raises(SystemExit) as raised:
            publish([str(checkpoint), repo])
        assert "\n" not in raised.value.code
        return raised.value.code

    # A name that is in use, of another owner; no token; a token that the Hub does not know.
    assert "403 Forbidden: You don't have the rights to create a model" in told("other/eclip")
    use(hub, monkeypatch, tmp_path / "cache-nobody", None)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    assert "no token found" in told("eclip") and "`hf auth login`" in told("eclip")
    assert "401 Unauthorized" in told("someone/eclip") and "`hf auth login`" in told("someone/eclip")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "401 Unauthorized" in told("someone/eclip")


def test_a_checkpoint_that_is_not_whole_is_not_sent(hub, checkpoint):
    def refused(name, content, match):
        whole = (checkpoint / name).read_bytes()
        (checkpoint / name).unlink() if content is None else (checkpoint / name).write_bytes(content)
        with pytest.raises(SystemExit, match=match):
            publish([str(checkpoint), "someone/eclip"])
        (checkpoint / name).write_bytes(whole)

    refused("model.safetensors", b"x", "model.safetensors' is no whole safetensors file")
    refused("processor_config.json", None, "no processor and tokenizer that load")
    refused("tokenizer.json", None, "no processor and tokenizer that load")
    refused("tokenizer.json", b"{}", "no processor and tokenizer that load")
    assert hub.requests == []


def test_training_publishes_what_it_leaves(hub, tmp_path):
    settings = {"batch_size": 16, "max_samples": 16, "push_to_hub": True, "license": "mit"}
    train(MODEL, DATA, TrainArguments(output_dir=str(tmp_path / "shoes"), hub_private=True, **settings))
    assert hub.repositories["someone/shoes"].private
    card = metadata(hub, "someone/shoes")
    assert {result.dataset_name for result in card.data.eval_results} == {"generated products"}
    assert "| generated products | apache-2.0 |" in card.text
    assert "history.png" in hub.repositories["someone/shoes"].head()
    loaded = AutoModel.from_pretrained("someone/shoes")
    local = EClipModel.from_pretrained(tmp_path / "shoes")
    processor = AutoProcessor.from_pretrained("someone/shoes")
    assert_same_outputs(embed(loaded, processor), embed(local, processor))


def test_fine_tuning_publishes_adapters_of_a_published_checkpoint(hub, parts, tmp_path):
    for part in parts:
        push_to_hub(part, "someone/eclip")
    model = replace(MODEL, checkpoint="someone/eclip", lora_rank=2)
    settings = {"num_epochs": 1.0, "batch_size": 16, "push_to_hub": True, "hub_model_id": "someone/adapters"}
    folder = tmp_path / "adapters"
    finetune(model, DATA, FinetuneArguments(output_dir=str(folder), method="lora", **settings))
    files = hub.repositories["someone/adapters"].head()
    assert {"adapter_model.safetensors", "category_eclip.py", "processor_config.json"} <= files.keys()
    assert "model.safetensors" not in files
    card = metadata(hub, "someone/adapters")
    assert (card.data.library_name, card.data.base_model) == ("peft", ["someone/eclip"])
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    inputs = AutoProcessor.from_pretrained("someone/adapters")(text=TITLES, return_tensors="pt")
    head = load_head("someone/adapters")
    with torch.no_grad():
        expected = load_head(str(folder))(**inputs).logits
        assert_same_outputs(head(**inputs).logits, expected)
        # By the package's classes, word by word as the card has it.
        names = {}
        exec(re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)[1], names)
        assert torch.allclose(names["model"].eval()(**inputs).logits, expected, atol=1e-6)


def test_adapters_of_a_checkpoint_that_nobody_has_are_refused(hub, parts, checkpoint):
    head = EClipForCategoryClassification.from_pretrained(checkpoint, category_paths=PATHS)
    adapted = peft.get_peft_model(head, peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    with pytest.raises(ValueError, match="publish that checkpoint first"):
        push_to_hub(adapted, "someone/adapters")
    assert hub.repositories == {}
    push_to_hub(adapted, "someone/adapters", facts=CardFacts(base_models=["someone/eclip"]))
    written = json.loads(hub.repositories["someone/adapters"].head()["adapter_config.json"])
    assert written["base_model_name_or_path"] == "someone/eclip"


def test_adapters_that_transformers_has_added_are_published(hub, parts, checkpoint):
    push_to_hub(EClipModel.from_pretrained(checkpoint), "someone/shoes")
    assert "An e-CLIP model" in metadata(hub, "someone/shoes").text
    model = EClipModel.from_pretrained("someone/shoes")
    model.add_adapter(peft.LoraConfig(target_modules=["query"], init_lora_weights=False))
    push_to_hub(model, "someone/adapters", facts=CardFacts(base_models=["someone/shoes"]))
    assert "model.safetensors" not in hub.repositories["someone/adapters"].head()
    names = {}
    exec(re.findall(r"```python\n(.*?)```", metadata(hub, "someone/adapters").text, flags=re.DOTALL)[1].replace(
        'processor = EClipProcessor.from_pretrained("someone/adapters")', ""
    ), names)  # fmt: skip
    adapted = embed(names["model"].eval(), parts[1])
    assert torch.allclose(adapted, embed(model.eval(), parts[1]), atol=1e-6)
    assert not torch.allclose(adapted, embed(parts[0], parts[1]), atol=2e-5)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_every_class_has_a_card_that_the_hub_takes(modality):
    metrics = [MetricValue("accuracy", 0.5, "someone/offers", "test")]
    for name in ("EClipModel", *(task.head_class.__name__ for task in TASKS.values())):
        config = EClipConfig(modality=modality, architectures=[name]).to_dict()
        card = build_model_card(config, "someone/eclip", CardFacts(license="mit", metrics=metrics))
        assert card_errors(str(card)) == [], name
        assert ModelCard(str(card)).data.eval_results[0].metric_value == 0.5
        for block in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL):
            compile(block, name, "exec")
    with pytest.raises(ValueError, match="architectures"):
        build_model_card({"architectures": ["BertModel"]}, "someone/bert", CardFacts())
