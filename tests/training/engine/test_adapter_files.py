"""Adapters of pre-training, saved alone: what is in the folder, who loads it, how a run goes on, what is refused."""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from call_script import call_script
from conftest import DATA, MODEL, ROOT, make_config, train_arguments
from peft import PeftModel
from safetensors.torch import load_file
from test_lora import embeddings, train_steps
from transformers import (
    AutoModel,
)

from modeling_eclip import EClipConfig, EClipForProductClustering, EClipModel
from modeling_eclip.export.stock import stock_model, stock_processor
from modeling_eclip.toy import toy_catalog
from training import embed, evaluate_tasks, export, publish
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.engine.adapter_files import load_adapters, load_eclip, save_model
from training.engine.contrastive_training import train
from training.engine.lora import add_adapters, merge_adapters, quantised
from training.engine.optimization import build_optimizer
from training.tasks.finetuning import finetune
from training.tasks.heads import head_without_training

RUN = {"learning_rate": 0.01, "max_samples": 48, "ema_decay": 0.5}
ADAPTERS = {"lora_rank": 2, "lora_alpha": 4}


def siglip2(folder):
    """Save a small SigLIP 2 checkpoint, as the tests of stock classes build it."""
    specification = importlib.util.spec_from_file_location("test_stock", ROOT / "tests" / "export" / "test_stock.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    model, processor = module.build("siglip2")
    stock_model(model).save_pretrained(folder)
    stock_processor(processor, model.config).save_pretrained(folder)
    # The stock class has no place for a projection of images.
    return ModelArguments(clip=str(folder), freeze=["^visual_projection"], **ADAPTERS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice: adapters merged, and alone."""
    folder = tmp_path_factory.mktemp("runs")
    model = siglip2(folder / "siglip2")
    for name in ("merged", "alone"):
        train(model, DATA, train_arguments(folder / name, merge=name == "merged", **RUN))
    return folder


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    path = tmp_path_factory.mktemp("products") / "test.parquet"
    toy_catalog(60)["train"].to_parquet(path)
    return path


def assert_same_weights(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Both add the same product to the same weights; a sum in another order differs in the last bit.
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_peft_loads_them_and_merges_them_to_what_the_merging_run_saved(runs):
    alone = runs / "alone"
    assert not list(alone.glob("model*.safetensors")) and (alone / "modeling_eclip.py").is_file()
    settings = json.loads((alone / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str((alone / "base").resolve())
    assert settings["modules_to_save"] == ["text_projection"]
    kept = load_file(alone / "adapter_model.safetensors")
    in_full = {name for name in kept if ".lora_" not in name}
    assert in_full == {"base_model.model.logit_scale", "base_model.model.text_projection.weight"}
    expected = load_file(runs / "merged" / "model.safetensors")
    base = EClipModel.from_pretrained(alone / "base")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    for name in (*(name.removeprefix("base_model.model.") for name in in_full), "vision_model"):
        changed = [part for part in before if part.startswith(name) and not torch.equal(before[part], expected[part])]
        assert changed, f"{name} has learned nothing"
    assert_same_weights(PeftModel.from_pretrained(base, alone).merge_and_unload(), expected)
    assert_same_weights(load_eclip(str(alone)), expected)
    assert_same_weights(load_eclip(str(runs / "merged")), expected)
    assert load_eclip(str(alone), torch.bfloat16).dtype == torch.bfloat16


def test_a_resumed_run_ends_as_one_never_stopped(runs, tmp_path):
    arguments = {**RUN, "resume_from_checkpoint": "latest"}
    model = ModelArguments(clip=str(runs / "siglip2"), freeze=["^visual_projection"], **ADAPTERS)
    shutil.copytree(runs / "alone" / "checkpoint-32", tmp_path / "alone" / "checkpoint-32")
    train(model, DATA, train_arguments(tmp_path / "alone", merge=False, **arguments))
    expected = load_file(runs / "alone" / "adapter_model.safetensors")
    found = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not (tmp_path / "alone" / "base").exists(), "the adapters belong to the base of the first run"
    for name, told in (
        ("merged", "`merge` is false, .* holds a whole model; resume with `--merge true`"),
        ("alone", "`merge` is true, .* holds adapters; resume with `--merge false`"),
    ):
        run = tmp_path / f"other {name}"
        shutil.copytree(runs / name / "checkpoint-32", run / "checkpoint-32")
        with pytest.raises(ValueError, match=told):
            train(model, DATA, train_arguments(run, merge=name == "alone", **arguments))


def test_adapters_of_another_loss_than_their_checkpoints_have_a_base_of_it(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "softmax", max_samples=16))
    model = ModelArguments(checkpoint=str(tmp_path / "softmax"), loss="sigmoid", matryoshka_dims=[8, 16], **ADAPTERS)
    for name in ("merged", "alone"):
        train(model, DATA, train_arguments(tmp_path / name, merge=name == "merged", **RUN))
    expected = EClipModel.from_pretrained(tmp_path / "merged")
    assert expected.logit_bias is not None
    base = AutoModel.from_pretrained(tmp_path / "alone" / "base")
    found = PeftModel.from_pretrained(base, tmp_path / "alone").merge_and_unload()
    assert found.config.loss == "sigmoid"
    assert_same_weights(found, expected.state_dict())
    # A run that goes on keeps what it was begun with, where nothing else is said.
    shutil.copytree(tmp_path / "alone" / "checkpoint-32", tmp_path / "on" / "checkpoint-32")
    left = replace(model, loss=None, matryoshka_dims=[])
    train(left, DATA, train_arguments(tmp_path / "on", merge=False, resume_from_checkpoint="latest", **RUN))
    assert EClipConfig.from_pretrained(tmp_path / "on").matryoshka_dims == [8, 16]
    same = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("alone", "on")]
    assert all(torch.equal(same[0][name], value) for name, value in same[1].items())


def test_the_other_way_leaves_nothing_of_the_first(runs, tmp_path):
    shutil.copytree(runs / "alone", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    model = ModelArguments(checkpoint=str(tmp_path / "run" / "base"), **ADAPTERS)
    arguments = {**RUN, "max_samples": 16, "save_every_samples": None, "overwrite_output_dir": True}
    train(model, DATA, train_arguments(tmp_path / "run", **arguments))
    assert not list((tmp_path / "run").glob("adapter*")) and (tmp_path / "run" / "model.safetensors").is_file()
    train(model, DATA, train_arguments(tmp_path / "run", merge=False, **arguments))
    assert list((tmp_path / "run").glob("adapter*")) and not (tmp_path / "run" / "model.safetensors").exists()


def test_scripts_take_them_as_the_merged_model(runs, products, tmp_path):
    found = {}
    for name in ("alone", "merged"):
        checkpoint, out = str(runs / name), tmp_path / name
        call_script(embed.main, ["--checkpoint", checkpoint, "--input", str(products), "--output_dir",
                                 str(out / "vectors"), "--num_workers", "0", "--dtype", "float32"])  # fmt: skip
        table = pq.ParquetDataset(sorted((out / "vectors").glob("*.parquet"))).read()
        data = ["--test_data", str(products), "--num_workers", "0", "--output_dir"]
        call_script(evaluate_tasks.main, ["--checkpoint", checkpoint, *data, str(out / "evaluation")])
        (metrics,) = json.loads((out / "evaluation" / "report.json").read_text()).values()
        call_script(export.main, ["--checkpoint", checkpoint, "--format", "transformers", *data, str(out / "stock")])
        stock = AutoModel.from_pretrained(out / "stock")
        assert type(stock).__name__ == "Siglip2Model"
        found[name] = (torch.tensor(table["image_embeds"].to_pylist()), metrics, stock.state_dict())
    alone, merged = found.values()
    torch.testing.assert_close(alone[0], merged[0], rtol=0, atol=1e-5)  # as the weights are, to the last bits
    assert alone[1] == pytest.approx(merged[1], abs=1e-4)
    torch.testing.assert_close(alone[2], merged[2], rtol=0, atol=1e-6)
    heads = [head_without_training(EClipForProductClustering, str(runs / name)) for name in found]
    assert_same_weights(heads[0].eclip, heads[1].eclip.state_dict())


def test_the_card_says_what_they_belong_to_and_how_they_load(runs, capsys, caplog):
    call_script(publish.main, [str(runs / "alone"), "someone/adapters", "--dry_run"])
    assert "publish that first, and name it by `--base_models`" in caplog.text
    assert str(runs / "alone" / "base") in capsys.readouterr().out
    call_script(publish.main, [str(runs / "alone"), "someone/adapters", "--dry_run", "--base_models", "someone/base"])
    told = capsys.readouterr().out
    assert "| belongs to | [someone/base](https://huggingface.co/someone/base) |" in told
    assert "base_model_relation: adapter" in told and "library_name: peft" in told
    assert "adapter_model.safetensors" in told and " model.safetensors" not in told
    assert str(runs) not in told
    # Word by word as the card has it, by the package's classes.
    block = next(part for part in re.findall(r"```python\n(.*?)```", told, flags=re.DOTALL) if "EClipConfig" in part)
    names = {}
    here = block.replace("someone/base", str(runs / "alone" / "base")).replace("someone/adapters", str(runs / "alone"))
    exec(here, names)
    assert_same_weights(names["model"].merge_and_unload(), load_file(runs / "merged" / "model.safetensors"))


def test_statistics_of_batch_norm_that_went_on_are_saved_too(tmp_path):
    torch.manual_seed(0)
    model = EClipModel(make_config("resnet"))
    model.save_pretrained(tmp_path / "base")
    layers = {"rank": 2, "targets": [r"stages\.1.*convolution$"]}
    add_adapters(model, **layers)
    train_steps(model.train(), build_optimizer(model, learning_rate=0.03), range(2))
    expected = embeddings(model)
    save_model(model, tmp_path / "adapters", str(tmp_path / "base"))
    # Convolutions that are merged round otherwise.
    torch.testing.assert_close(embeddings(load_eclip(str(tmp_path / "adapters"))), expected, rtol=0, atol=1e-5)
    again = EClipModel.from_pretrained(tmp_path / "base")
    add_adapters(again, **layers)
    load_adapters(again, tmp_path / "adapters")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    other = EClipModel.from_pretrained(tmp_path / "base")
    add_adapters(other, rank=4, targets=layers["targets"])
    with pytest.raises(ValueError, match="(?s)other adapters .*resume with the same `lora_rank`"):
        load_adapters(other, tmp_path / "adapters")
    merge_adapters(model)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="holds adapters of '.*base', which does not load"):
        load_eclip(str(tmp_path / "adapters"))


def test_settings_that_do_not_fit_are_told_before_data_is_read(runs, tmp_path):
    none = replace(DATA, train_data=["nowhere"])
    with pytest.raises(ValueError, match="`merge` is false without `lora_rank`"):
        train(MODEL, none, train_arguments(tmp_path, merge=False))
    with pytest.raises(ValueError, match="`load_in_4bit` is true without `lora_rank`"):
        replace(MODEL, load_in_4bit=True)
    in_4bit = replace(MODEL, lora_rank=2, load_in_4bit=True)
    with pytest.raises(ValueError, match=r"4 bits can't have adapters merged into them; give `--merge false`"):
        train(in_4bit, none, train_arguments(tmp_path))
    with pytest.raises(ValueError, match="heads are trained on whole weights"):
        finetune(in_4bit, none, FinetuneArguments(output_dir=str(tmp_path), method="full"))
    on_adapters = ModelArguments(checkpoint=str(runs / "alone"), **ADAPTERS)
    with pytest.raises(ValueError, match=r"holds adapters; train them with `--merge true`"):
        train(on_adapters, DATA, train_arguments(tmp_path))


def test_adapters_are_trained_on_towers_in_4_bits(runs, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = ModelArguments(clip=str(runs / "siglip2"), load_in_4bit=True, freeze=["^text_model.*0"], **ADAPTERS)
    arguments = {**RUN, "merge": False}
    train(model, DATA, train_arguments(tmp_path / "whole", **arguments))
    kept = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    layers = {name.split(".lora_")[0] for name in kept if ".lora_" in name}
    # Two blocks of six layers in each tower, less those of a frozen block; the pooling head is none of them.
    assert len(layers) == 2 * 6 + 6
    assert all(value.is_floating_point() for value in kept.values()), "nothing in 4 bits is saved"
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    shutil.copytree(tmp_path / "whole" / "checkpoint-32", tmp_path / "stopped" / "checkpoint-32")
    train(model, DATA, train_arguments(tmp_path / "stopped", resume_from_checkpoint="latest", **arguments))
    found = load_file(tmp_path / "stopped" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    # Merged into whole weights, they are of the model as it is in 4 bits, but for what 4 bits lose.
    base = tmp_path / "whole" / "base"
    in_4_bits = EClipModel.from_pretrained(base, **quantised(SimpleNamespace(mixed_precision="no", device="cpu")))
    assert in_4_bits.vision_model.encoder.layers[0].mlp.fc1.weight.dtype == torch.uint8
    assert in_4_bits.visual_projection.weight.dtype == torch.float32
    adapted = PeftModel.from_pretrained(in_4_bits, tmp_path / "whole")
    merged, before = load_eclip(str(tmp_path / "whole")), EClipModel.from_pretrained(base)
    inputs = {"input_ids": torch.arange(5, 29).reshape(2, 12)}
    with torch.no_grad():
        vectors = [one.eval()(**inputs).text_embeds for one in (adapted, merged, before)]
    assert torch.cosine_similarity(vectors[0], vectors[1]).min() > 0.9
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-3)
