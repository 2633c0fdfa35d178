"""Exports agree with PyTorch, at other batch sizes and lengths than they were made with."""

import json
import sys

import datasets
import numpy as np
import pytest
import torch
from call_script import call_script
from conftest import make_config, make_inputs, save_checkpoint, wake

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export import parts as exporting
from modeling_eclip.export.parts import agreement, embed, export_part, inputs_of
from training import export

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("nncf")


def build(vision="vit", text="bert", **fields):
    torch.manual_seed(0)
    return wake(EClipModel(make_config(vision, text, **fields)))


def check(model, part, format, rows=(1, 3, 5), cut=2):
    """Export a part with 4 rows, and compare other numbers of rows and shorter titles with PyTorch."""
    exported = export_part(model, part, format, make_inputs(4))
    names = {"text": ["text_embeds"], "image": ["image_embeds"], "both": ["text_embeds", "image_embeds"]}[part]
    for num_rows in rows:
        inputs = make_inputs(num_rows, seed=num_rows)
        if cut:
            inputs |= {name: inputs[name][:, :-cut] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            expected = model(**inputs)
        found = exported(**inputs_of(inputs, part))
        assert list(found) == names
        for name in names:
            assert found[name].shape == (num_rows, 16)
            torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=0)
            torch.testing.assert_close(found[name].norm(dim=-1), torch.ones(num_rows), atol=1e-5, rtol=0)
    return exported


def record_hints(monkeypatch):
    """Return a list that gets the precision hint of every graph that is compiled to embed with."""
    from transformers.exporters.runners.runner_openvino import OpenVINOModelRunner

    hints, from_program = [], OpenVINOModelRunner.from_program

    def compile_and_record(*words, config=None, **settings):
        hints.append((config or {}).get("INFERENCE_PRECISION_HINT"))
        return from_program(*words, config=config, **settings)

    monkeypatch.setattr(OpenVINOModelRunner, "from_program", staticmethod(compile_and_record))
    return hints


@pytest.mark.parametrize(
    ("text", "format"), [("bert", "onnx"), ("siglip_text_model", "openvino"), ("clip_text_model", "onnx")]
)
def test_title_towers(text, format):
    check(build(text=text), "text", format)


@pytest.mark.parametrize(("vision", "format"), [("vit", "openvino"), ("efficientnet", "openvino")])
def test_image_towers(vision, format):
    check(build(vision), "image", format)


def test_the_whole():
    check(build("siglip_vision_model", "bert", text_pooling="mean"), "both", "onnx")


def test_agreement_by_hand():
    east, north = [1.0, 0.0], [0.0, 1.0]
    original = {"text_embeds": torch.tensor([east, north]), "image_embeds": torch.tensor([east, north])}
    metrics = agreement({"text_embeds": torch.tensor([east, [0.6, 0.8]])}, original)
    assert metrics["text_embeds"]["max_abs_difference"] == pytest.approx(0.6)
    assert metrics["text_embeds"]["mean_cosine"] == pytest.approx(0.9)
    assert metrics["text_embeds"]["min_cosine"] == pytest.approx(0.8)
    # Of eleven alike titles, one finds its image among the first ten only if it is not behind all others.
    rows = torch.eye(11)
    metrics = agreement({"text_embeds": rows[[*range(10), 0]]}, {"text_embeds": rows, "image_embeds": rows})
    assert metrics["retrieval"]["original_recall@10"] == 1.0
    assert metrics["retrieval"]["recall@10_loss"] == pytest.approx(1 / 11)
    assert "retrieval" not in agreement({"text_embeds": rows}, {"text_embeds": rows})


def test_mistakes_are_named(monkeypatch):
    model, inputs = build(), make_inputs(4)
    with pytest.raises(ValueError, match="`part` is 'title'; give one of text, image, both"):
        export_part(model, "title", "onnx", inputs)
    with pytest.raises(ValueError, match="`format` is 'tflite'; give one of onnx, openvino"):
        export_part(model, "text", "tflite", inputs)
    with pytest.raises(ValueError, match="no 'pixel_values', which part 'image' takes"):
        export_part(model, "image", "onnx", inputs_of(inputs, "text"))
    with pytest.raises(ValueError, match="1 row of 'input_ids'; give 2"):
        export_part(model, "text", "onnx", make_inputs(1))

    def refuse(*arguments, **settings):
        raise RuntimeError("data-dependent control flow")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", refuse)
        with pytest.raises(ValueError, match=r"text tower 'bert'\) can't be exported to onnx: .*data-dependent"):
            export_part(model, "text", "onnx", inputs)
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'modeling-eclip\[export\]'"
    ):
        export_part(model, "text", "onnx", inputs)


def test_script_leaves_a_graph_a_processor_and_what_it_measured(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "export"), "--part", "text"]
    words += [
        "--precision",
        "int8",
        "--train_data",
        "toy",
        "--toy_offers",
        "120",
        "--num_workers",
        "0",
        "--calibration_products",
        "40",
    ]
    hints = record_hints(monkeypatch)
    call_script(export.main, words)
    assert len(hints) == 2 and set(hints) == {"f32"}, "the export, and what was read from its file"
    report = json.loads((tmp_path / "export" / "agreement.json").read_text())
    assert (report["part"], report["format"], report["precision"]) == ("text", "openvino", "int8")
    assert report["runtime_settings"] == {"INFERENCE_PRECISION_HINT": "f32"}
    assert list(report["inputs"]) == ["input_ids", "attention_mask"] and list(report["outputs"]) == ["text_embeds"]
    assert report["outputs"]["text_embeds"]["shape"][1] == 16 and report["products"] > 5
    assert 0.98 < report["agreement"]["text_embeds"]["mean_cosine"] < 1 - 1e-6  # close, and not the same
    assert (tmp_path / "export" / "preprocessor_config.json").exists(), "transformers.js reads it"
    import openvino

    compiled = openvino.Core().compile_model(tmp_path / "export" / "openvino_model.xml", "CPU")
    processor = EClipProcessor.from_pretrained(tmp_path / "export")
    inputs = processor(text=["red shoes", "a blue shirt", "x"], return_tensors="np")
    assert np.linalg.norm(compiled(dict(inputs))["text_embeds"], axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    with pytest.raises(SystemExit, match="is there already"):
        call_script(export.main, words)


@pytest.mark.parametrize("part", ["text", "image"])
def test_a_modality_alone_is_exported_from_tables_of_that_modality(part, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "export"), "--part", part]
    words += ["--train_data", "toy", "--toy_offers", "120", "--num_workers", "0", "--agreement_products", "10"]
    words += ["--image_column" if part == "text" else "--title_column", "none"]
    call_script(export.main, words)
    report = json.loads((tmp_path / "export" / "agreement.json").read_text())
    assert list(report["agreement"]) == [f"{part}_embeds"], "nothing is found without the other modality"
    assert report["agreement"][f"{part}_embeds"]["min_cosine"] > 1 - 1e-5


@pytest.mark.parametrize(
    ("part", "column", "remedy"),
    [("both", "image", "text"), ("both", "title", "image"), ("image", "image", "text"), ("text", "title", "image")],
)
def test_a_modality_without_products_is_refused(part, column, remedy, tmp_path, monkeypatch):
    words = ["--checkpoint", "model", "--output_dir", str(tmp_path / "export"), "--part", part]
    monkeypatch.setattr(sys, "argv", ["export.py", *words, f"--{column}_column", "none"])
    with pytest.raises(ValueError, match=f"`part` is '{part}', but `{column}_column` is 'none'.*`--part {remedy}`"):
        call_script(export.main, words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["text", "image"])
def test_int8_of_pretrained_towers_is_close(real_data, part):
    towers = [str(real_data / "towers" / name) for name in ("efficientnet-lite0", "minilm-l6")]
    model = EClipModel.from_towers(*towers, projection_dim=64).eval()
    processor = EClipProcessor.from_towers(*towers, image_size=128, max_title_length=24)
    file = str(real_data / "data" / "fashion" / "validation.parquet")
    products = datasets.load_dataset("parquet", data_files=file, split="train").select(range(140))
    batches = []
    for rows in products.iter(10):
        given = {"text": rows["title"]} if part == "text" else {"images": rows["image"]}
        batches.append(dict(processor(**given, return_tensors="pt")))
    exported = export_part(model, part, "openvino", batches[0], calibration=batches[4:])
    with torch.no_grad():
        original = {f"{part}_embeds": torch.cat([model(**batch)[f"{part}_embeds"] for batch in batches[:4]])}
    metrics = agreement(embed(exported, part, batches[:4]), original)[f"{part}_embeds"]
    assert 0.99 < metrics["mean_cosine"] < 1 - 1e-6
