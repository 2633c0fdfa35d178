"""What every head must do: load, save, travel, train in other people's loops, run in half precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import ROOT, WITHOUT_PACKAGE, make_config, make_inputs
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_eclip import (
    HEAD_AUTO_MAP,
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipModel,
)
from modeling_eclip.hub.auto_classes import auto_map_of

PACKAGE = ROOT / "modeling_eclip"

# Of each head on single products: fields of its configuration, and labels of four products, of which the third has
# none. The first category begins the second; the second attribute would sort before the first.
HEADS = {
    EClipForAdultRecognition: ({"positive_weight": 2.0}, [1.0, 0.0, -100.0, 0.0]),
    EClipForAttributeExtraction: (
        {"attributes": {"season": ["summer", "winter"], "base.colour": ["blue", "not stated", "red"]}},
        [[0, 1], [2, -100], [-100, -100], [-100, 0]],
    ),
    EClipForCategoryClassification: (
        {"category_paths": [["Shoes"], ["Shoes", "Boots"], ["Bags", "Totes", "Canvas"], ["Bags", "Belts"]]},
        [0, 2, -100, 3],
    ),
}
MODALITIES = ["text", "image", "both"]
parametrize_heads = pytest.mark.parametrize("head_class", HEADS, ids=lambda head_class: head_class.__name__)


def make_head(head_class, **fields):
    torch.manual_seed(0)
    return head_class(make_config(**HEADS[head_class][0], **fields)).eval()


def labels_of(head_class):
    return torch.tensor(HEADS[head_class][1])


def flat(output):
    """Return the logits of any head as one tensor."""
    logits = output.logits
    return torch.cat(list(logits.values()), dim=1) if isinstance(logits, dict) else logits


@parametrize_heads
@pytest.mark.parametrize("modality", MODALITIES)
def test_forward_and_backward(head_class, modality):
    head = make_head(head_class, modality=modality).train()
    output = head(**make_inputs(4), labels=labels_of(head_class))
    assert output.loss.shape == ()
    assert len(flat(output)) == 4
    assert flat(output).dtype == torch.float32
    output.loss.backward()
    used = {"text": ["text"], "image": ["vision"], "both": ["text", "vision"]}[modality]
    for name, parameter in head.named_parameters():
        trained = not name.startswith("eclip.") or any(name.startswith(f"eclip.{side}_model") for side in used)
        assert (parameter.grad is not None) == trained, name


@parametrize_heads
def test_products_without_labels_carry_no_loss(head_class):
    head, inputs, labels = make_head(head_class), make_inputs(4), labels_of(head_class)
    kept = [0, 1, 3]
    loss = head(**inputs, labels=labels).loss
    alone = head(**{name: tensor[kept] for name, tensor in inputs.items()}, labels=labels[kept]).loss
    torch.testing.assert_close(loss, alone)
    nothing = head(**inputs, labels=torch.full_like(labels, -100)).loss
    assert nothing.item() == 0
    nothing.backward()
    assert head(**inputs).loss is None


@parametrize_heads
def test_tuples(head_class):
    head, inputs = make_head(head_class), make_inputs(4)
    output = head(**inputs, labels=labels_of(head_class))
    loss, logits, products = head(**inputs, labels=labels_of(head_class), return_dict=False)
    assert torch.equal(loss, output.loss)
    assert type(logits) is type(output.logits)
    assert torch.equal(products.text, output.products.text)


@parametrize_heads
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_saved_is_loaded(head_class, modality, tmp_path):
    head, inputs = make_head(head_class, modality=modality), make_inputs(4)
    head.save_pretrained(tmp_path)
    loaded, info = head_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(flat(loaded(**inputs)), flat(head(**inputs)))
    assert loaded.decode(loaded(**inputs).logits) == head.decode(head(**inputs).logits)
    auto_class = next(name for name, reference in HEAD_AUTO_MAP.items() if reference.endswith(head_class.__name__))
    assert type(getattr(transformers, auto_class).from_pretrained(tmp_path)) is head_class


@parametrize_heads
def test_a_new_head_on_a_base_checkpoint(head_class, model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    head, info = head_class.from_pretrained(tmp_path / "base", **HEADS[head_class][0], output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier", "representation"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not head.training
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())
    head.save_pretrained(tmp_path / "head")
    base = AutoModel.from_pretrained(tmp_path / "head")
    assert type(base) is EClipModel
    assert torch.equal(base(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text)


def test_every_reference_is_a_file_that_travels():
    for reference in HEAD_AUTO_MAP.values():
        assert (PACKAGE / f"{reference.split('.')[0]}.py").is_file()


# Runs in a process that could import the package only from the folders of the checkpoints.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import sys
import torch, transformers
inputs, output, *folders = sys.argv[1:]
inputs, answers = torch.load(inputs), {}
for folder in folders:
    auto_class, folder = folder.split("=", 1)
    head = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = head(**inputs).logits
        answers[type(head).__name__] = {"logits": logits, "words": head.decode(logits),
                                        "base": base(**inputs).logits_per_text, "base_name": type(base).__name__}
    head.save_pretrained(folder + ".saved")  # what was loaded can be saved again, with its code
torch.save(answers, output)
"""
)


def test_a_stranger_gets_the_same_answers(tmp_path):
    inputs = make_inputs(3)
    torch.save(inputs, tmp_path / "inputs.pt")
    heads, arguments = {}, []
    for auto_class, reference in HEAD_AUTO_MAP.items():
        head = next((make_head(each) for each in HEADS if reference.endswith(f".{each.__name__}")), None)
        if head is None:  # heads on pairs and on sets have tests of their own
            continue
        heads[type(head).__name__] = head
        head.save_pretrained(tmp_path / auto_class)
        arguments.append(f"{auto_class}={tmp_path / auto_class}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "inputs.pt"), str(tmp_path / "answers.pt"), *arguments]
    subprocess.run(command, check=True, cwd=elsewhere)
    answers = torch.load(tmp_path / "answers.pt")
    assert answers.keys() == heads.keys() == {head_class.__name__ for head_class in HEADS}
    for name, answer in answers.items():
        output = heads[name](**inputs)
        torch.testing.assert_close(answer["logits"], output.logits, rtol=0, atol=0)
        assert answer["words"] == heads[name].decode(output.logits)
        assert torch.equal(answer["base"], heads[name].eclip(**inputs).logits_per_text)
        assert answer["base_name"] == "EClipModel"
    for argument in arguments:
        auto_class, folder = argument.split("=", 1)
        assert {path.name for path in Path(folder).iterdir()} == {
            path.name for path in Path(f"{folder}.saved").iterdir()
        }
        auto_map = json.loads((Path(f"{folder}.saved") / "config.json").read_text())["auto_map"]
        assert auto_map[auto_class] == HEAD_AUTO_MAP[auto_class]
        assert "AutoProcessor" not in auto_map


def test_a_base_checkpoint_promises_no_head(model):
    assert not HEAD_AUTO_MAP.keys() & auto_map_of(EClipModel).keys()


@parametrize_heads
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(head_class, dtype, tmp_path):
    head, inputs = make_head(head_class), make_inputs(4)
    head.save_pretrained(tmp_path)
    half = head_class.from_pretrained(tmp_path, dtype=dtype)
    output = half(**inputs, labels=labels_of(head_class))
    assert output.products.text.dtype == dtype
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(flat(output), flat(head(**inputs)), rtol=0, atol=0.05)
    output.loss.backward()
    gradients = [parameter.grad for parameter in half.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@parametrize_heads
def test_autocast(head_class):
    head, inputs = make_head(head_class), make_inputs(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(**inputs, labels=labels_of(head_class))
    assert output.loss.dtype == flat(output).dtype == torch.float32
    torch.testing.assert_close(flat(output), flat(head(**inputs)), rtol=0, atol=0.05)


@parametrize_heads
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(head_class, use_reentrant):
    inputs, labels = make_inputs(4), labels_of(head_class)
    gradients = []
    for checkpointing in (False, True):
        head = make_head(head_class, modality_dropout=0.0)
        for module in head.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        head.train()
        if checkpointing:
            head.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            head.enable_input_require_grads()
            assert head.eclip.text_model.encoder.layer[0].gradient_checkpointing
        head(**inputs, labels=labels).loss.backward()
        gradients.append({name: tensor.grad for name, tensor in head.named_parameters() if tensor.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@parametrize_heads
def test_adapters(head_class, model, tmp_path):
    fields, _ = HEADS[head_class]
    model.save_pretrained(tmp_path / "base")
    inputs = make_inputs(4)
    head = head_class.from_pretrained(tmp_path / "base", **fields)
    lora = LoraConfig(target_modules=r".*\.(query|q_proj)", modules_to_save=["classifier", "representation"])
    adapted = get_peft_model(head, lora)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert any("text_model" in name for name in trained) and any("vision_model" in name for name in trained)
    assert any("missing_text_embedding" in name for name in trained) and any("classifier" in name for name in trained)
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=0.01)
    adapted.train()
    for _ in range(3):
        adapted(**inputs, labels=labels_of(head_class)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = flat(adapted.eval()(**inputs))
    assert not torch.allclose(expected, flat(head_class.from_pretrained(tmp_path / "base", **fields)(**inputs)))
    adapted.save_pretrained(tmp_path / "adapters")
    again = PeftModel.from_pretrained(head_class.from_pretrained(tmp_path / "base", **fields), tmp_path / "adapters")
    assert torch.equal(flat(again(**inputs)), expected)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded, info = head_class.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(flat(loaded(**inputs)), expected, rtol=0, atol=1e-5)


@parametrize_heads
def test_the_stock_trainer(head_class, tmp_path):
    head = make_head(head_class)
    inputs = {**make_inputs(4), "labels": labels_of(head_class), "has_image": torch.tensor([True, True, True, False])}
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(4)] * 2
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=0.01,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=4,
        save_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(head, arguments, train_dataset=rows, eval_dataset=rows[:4])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    predictions = trainer.predict(rows[:4])
    expected = flat(head.eval()(**{name: tensor for name, tensor in inputs.items() if name != "labels"}))
    logits = predictions.predictions
    logits = torch.cat([torch.tensor(each) for each in logits.values()], 1) if isinstance(logits, dict) else logits
    torch.testing.assert_close(torch.as_tensor(logits), expected)
    loaded = head_class.from_pretrained(tmp_path / "checkpoint-4")
    torch.testing.assert_close(flat(loaded(**{k: v for k, v in inputs.items() if k != "labels"})), expected)


def test_no_graph_breaks():
    head, inputs = make_head(EClipForAttributeExtraction), make_inputs(2)
    inputs["has_text"] = torch.tensor([True, False])
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(flat(compiled(**inputs)), flat(head(**inputs)))
