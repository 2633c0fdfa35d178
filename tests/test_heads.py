"""What every head must do: load, save, travel, train in other people's loops, run in half precision."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import WITHOUT_PACKAGE, assert_same_outputs, make_config, make_inputs
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_eclip import (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipModel,
)

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
        trained = not name.startswith("eclip.") or any(name.startswith(f"eclip.{modality}_model") for modality in used)
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
    assert_same_outputs(flat(loaded(**inputs)), flat(head(**inputs)))
    assert loaded.decode(loaded(**inputs).logits) == head.decode(head(**inputs).logits)
    assert type(AutoModel.from_pretrained(tmp_path)) is head_class


@parametrize_heads
def test_a_new_head_on_a_base_checkpoint(head_class, model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    head, info = head_class.from_pretrained(tmp_path / "base", **HEADS[head_class][0], output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier", "representation"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not head.training
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())
    head.save_pretrained(tmp_path / "head")
    base = EClipModel.from_pretrained(tmp_path / "head")
    assert_same_outputs(base(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text)


# Runs in a process that could import the package only from the folders of the checkpoints.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import sys
import torch
from transformers import AutoModel
inputs, output, *folders = sys.argv[1:]
inputs, answers = torch.load(inputs), {}
for folder in folders:
    head = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = head(**inputs).logits
        answers[type(head).__name__] = {"logits": logits, "words": head.decode(logits),
                                        "base": head.eclip(**inputs).logits_per_text}
    head.save_pretrained(folder + ".saved")  # what was loaded can be saved again, with its code
torch.save(answers, output)
"""
)


def test_a_stranger_gets_the_same_answers(tmp_path):
    inputs = make_inputs(3)
    torch.save(inputs, tmp_path / "inputs.pt")
    heads, folders = {}, []
    for head_class in HEADS:
        head = heads[head_class.__name__] = make_head(head_class)
        folders.append(tmp_path / head_class.__name__)
        head.save_pretrained(folders[-1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [
        sys.executable,
        "-c",
        STRANGER,
        str(tmp_path / "inputs.pt"),
        str(tmp_path / "answers.pt"),
        *map(str, folders),
    ]
    subprocess.run(command, check=True, cwd=elsewhere)
    answers = torch.load(tmp_path / "answers.pt")
    assert answers.keys() == heads.keys()
    for name, answer in answers.items():
        output = heads[name](**inputs)
        assert_same_outputs(answer["logits"], output.logits)
        assert answer["words"] == heads[name].decode(output.logits)
        assert_same_outputs(answer["base"], heads[name].eclip(**inputs).logits_per_text)
    for folder in folders:
        saved = folder.with_name(f"{folder.name}.saved")
        assert {path.name for path in folder.iterdir()} == {path.name for path in saved.iterdir()}
        auto_map = json.loads((saved / "config.json").read_text())["auto_map"]
        assert auto_map == heads[folder.name].auto_map()
        assert auto_map["AutoModel"].endswith(f".{folder.name}")
        assert "AutoProcessor" not in auto_map


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
    assert_same_outputs(flat(again(**inputs)), expected)
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
