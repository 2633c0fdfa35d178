"""Training from arguments to a saved model, on a few generated offers: runs, resumes, reports."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import DATA, MODEL, saved_weights, train_arguments

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.losses import objective
from training.engine import setup
from training.engine.build import build_model, build_processor, load_split, on_checkpoint
from training.engine.checkpoint import choose_checkpoint, find_checkpoints, remove_checkpoints
from training.engine.contrastive_training import train
from training.engine.step import OptimizerStep


def test_a_run_leaves_model_report_and_plot(tmp_path):
    result = train(MODEL, DATA, train_arguments(tmp_path, eval_every_samples=32, report_to=["tensorboard"]))
    assert result.samples == 64
    steps = [record for record in result.history if "loss" in record]
    assert [record["samples"] for record in steps] == [16, 32, 48, 64]
    evaluated = [record["samples"] for record in result.history if "text_to_image_recall@1" in record]
    assert evaluated == [0, 32, 64]
    # A peak rate of 1e-3 after a tenth of 64 samples, then half a cosine.
    assert steps[0]["learning_rate"] == pytest.approx(1e-3 / 7.4)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["samples"] == 64
    assert report["trained"]["samples"] == 64
    assert (report["skips"]["num_rows"], report["skips"]["reasons"]) == (64, {})
    assert json.loads((tmp_path / "arguments.json").read_text())["batch_size"] == 16
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))
    model, processor = EClipModel.from_pretrained(tmp_path), EClipProcessor.from_pretrained(tmp_path)
    output = model(**processor(text=["red shoes"], return_tensors="pt"))
    assert output.text_embeds.shape == (1, 16)


def test_training_learns(tmp_path):
    result = train(MODEL, DATA, train_arguments(tmp_path, max_samples=960, save_every_samples=None))
    losses = [record["loss"] for record in result.history if "loss" in record]
    assert sum(losses[-3:]) < sum(losses[:3]) - 1.5


def test_a_resumed_run_ends_as_one_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(MODEL, DATA, train_arguments(whole))
    train(MODEL, DATA, train_arguments(stopped))
    for checkpoint in find_checkpoints(stopped)[1:]:
        checkpoint.rename(tmp_path / checkpoint.name)  # as if the run had been killed after the first
    resumed = train(MODEL, DATA, train_arguments(stopped, resume_from_checkpoint="latest"))
    assert resumed.samples == 64
    assert [record["samples"] for record in resumed.history if "loss" in record] == [16, 32, 48, 64]
    expected, found = saved_weights(whole), saved_weights(stopped)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_checkpoints_are_models_and_only_so_many_are_kept(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path, save_total_limit=2))
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert names == ["checkpoint-32", "checkpoint-48"]
    assert isinstance(EClipModel.from_pretrained(tmp_path / "checkpoint-48"), EClipModel)
    assert EClipProcessor.from_pretrained(tmp_path / "checkpoint-48").max_title_length == 16


def test_a_half_written_checkpoint_is_not_found(tmp_path):
    for name in ("checkpoint-16", "checkpoint-32.partial", "checkpoint-9", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-16"]


def test_earlier_checkpoints_are_neither_overwritten_nor_imagined(tmp_path):
    assert choose_checkpoint(tmp_path, None, overwrite=False) is None
    with pytest.raises(ValueError, match="holds no checkpoint"):
        choose_checkpoint(tmp_path, "latest", overwrite=False)
    with pytest.raises(ValueError, match="is no checkpoint of a run"):
        choose_checkpoint(tmp_path, str(tmp_path), overwrite=False)
    (tmp_path / "checkpoint-16").mkdir()
    (tmp_path / "checkpoint-16" / "run.json").touch()
    with pytest.raises(ValueError, match="--resume_from_checkpoint latest"):
        choose_checkpoint(tmp_path, None, overwrite=False)
    assert choose_checkpoint(tmp_path, None, overwrite=True) is None
    assert choose_checkpoint(tmp_path, "latest", overwrite=False) == tmp_path / "checkpoint-16"
    (tmp_path / "checkpoint-32").mkdir()
    earlier = tmp_path / "checkpoint-16"
    with pytest.raises(ValueError, match="holds checkpoint-32, later than checkpoint-16"):
        choose_checkpoint(tmp_path, str(earlier), overwrite=False)
    (tmp_path / "checkpoint-mine").mkdir()
    (tmp_path / "checkpoint-48.partial").mkdir()
    assert choose_checkpoint(tmp_path, str(earlier), overwrite=True) == earlier
    remove_checkpoints(tmp_path, earlier)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-16", "checkpoint-mine"}
    remove_checkpoints(tmp_path, None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-mine"}


def test_arguments_of_a_resumed_run_hold(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path, max_samples=32))
    start = saved_weights(tmp_path / "checkpoint-16")
    changed = train_arguments(tmp_path, max_samples=48, learning_rate=1e-12, resume_from_checkpoint="latest")
    result = train(replace(MODEL, catalog_mates="masked"), DATA, changed)
    end = saved_weights(tmp_path)
    assert all(torch.allclose(start[name], end[name], rtol=0, atol=1e-9) for name in start)
    assert result.history[-2]["learning_rate"] <= 1e-12
    assert EClipModel.from_pretrained(tmp_path).config.catalog_mates == "masked"
    assert "bias" not in result.history[-2]
    with pytest.raises(ValueError, match="resume with the same `freeze`"):
        train(replace(MODEL, freeze=["text_model"]), DATA, replace(changed, resume_from_checkpoint="latest"))


def test_a_sigmoid_is_trained_and_starts_anew_after_a_softmax(tmp_path):
    sigmoid = replace(MODEL, loss="sigmoid")
    run = {"max_samples": 32, "save_every_samples": None, "mate_contrast_weight": 0.5}
    result = train(sigmoid, DATA, train_arguments(tmp_path / "first", **run))
    first = EClipModel.from_pretrained(tmp_path / "first")
    # It begins where an offer expects one of a batch of 16.
    assert first.config.loss == "sigmoid" and first.logit_bias.item() != pytest.approx(-math.log(16), abs=1e-6)
    assert result.history[-2]["bias"] == pytest.approx(-math.log(16), abs=0.1)
    continued = on_checkpoint(MODEL, str(tmp_path / "first"))
    processor = build_processor(continued, [])
    assert build_model(continued, processor.tokenizer, seed=0).logit_bias.item() == first.logit_bias.item()
    softmax = build_model(replace(continued, loss="softmax"), processor.tokenizer, seed=0)
    assert softmax.logit_bias is None
    torch.nn.init.constant_(softmax.logit_scale, 4.0)
    softmax.save_pretrained(tmp_path / "softmax")
    again = replace(continued, checkpoint=str(tmp_path / "softmax"), loss="sigmoid")
    anew = build_model(again, processor.tokenizer, seed=0, batch_size=128)
    # Beside a new bias, a scale of 55 that was learned without one would find pairs among all that is similar.
    assert anew.logit_scale.item() == pytest.approx(math.log(10))
    assert anew.logit_bias.item() == pytest.approx(-math.log(128))
    assert build_model(replace(again, loss=None), processor.tokenizer, seed=0).logit_scale.item() == 4.0


def test_a_finished_run_is_neither_overwritten_nor_resumed(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path, max_samples=32, save_every_samples=None))
    with pytest.raises(ValueError, match="holds model.safetensors of an earlier run"):
        train(MODEL, DATA, train_arguments(tmp_path, max_samples=32))
    train(MODEL, DATA, train_arguments(tmp_path, max_samples=32, overwrite_output_dir=True))
    with pytest.raises(ValueError, match="has seen 16 samples and the run ends at 15"):
        train(MODEL, DATA, train_arguments(tmp_path, max_samples=15, resume_from_checkpoint="latest"))


def test_streamed_offers_are_trained_on(tmp_path):
    assert train(MODEL, replace(DATA, streaming=True), train_arguments(tmp_path, max_samples=32)).samples == 32


def test_too_many_unusable_rows_stop_the_run(tmp_path):
    rows = tmp_path / "offers.jsonl"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    rows.write_text("\n".join(json.dumps({"title": f"offer {i}", "image": "broken.jpg"}) for i in range(8)))
    data = replace(DATA, train_data=[str(rows)], validation_data=["toy"])
    with pytest.raises(ValueError, match="not_an_image"):
        train(MODEL, data, train_arguments(tmp_path / "out", max_samples=8))


def test_steps_that_are_no_number_stop_the_run_in_the_end(tmp_path):
    arguments = train_arguments(tmp_path, max_bad_steps=2, warmup_share=0.0, max_grad_norm=1e9)
    arguments.learning_rate = 1e30  # past the check of arguments, which refuses it: weights may go bad otherwise, too
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        train(MODEL, DATA, arguments)
    steps = json.loads((tmp_path / "not_a_number.json").read_text())
    # The first step ruins the weights; the next two are found out, and the first of them starts after 16 samples.
    assert [step["samples_seen"] for step in steps] == [16, 32]
    assert [len(step["row_ids"]) for step in steps] == [16, 16]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    arguments = train_arguments(tmp_path, max_samples=16, warmup_share=0.0, save_every_samples=None)
    arguments.learning_rate = 1e38
    with pytest.raises(FloatingPointError, match="not finite .* it is not saved"):
        train(MODEL, DATA, arguments)  # the only step is a good one; what it does to the weights is not
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_catalog_for_all_stops_the_run(tmp_path, split):
    rows = load_split(replace(DATA, toy_offers=200), split).remove_columns("catalog_id")
    rows = rows.add_column("catalog_id", [7] * len(rows))
    rows.to_parquet(tmp_path / "shop.parquet")
    data = replace(DATA, **{f"{split}_data": [str(tmp_path / "shop.parquet")]}, attribute_columns=[])
    for streaming in (False, True):
        with pytest.raises(ValueError, match="in 1 catalogs, .*100.0%.*`catalog_id_column`, or `none`"):
            train(MODEL, replace(data, streaming=streaming), train_arguments(tmp_path / "out", max_samples=16))
    alone = replace(data, catalog_id_column=["none"], max_catalog_share=1.0)
    assert set(load_split(alone, split)["catalog_id"]) == {-1}


def test_a_single_step_that_is_no_number_is_left_out(tmp_path, monkeypatch):
    loss = objective.contrastive_loss

    def train_with_a_bad_second_step(folder, max_samples):
        calls = iter(range(100))
        monkeypatch.setattr(
            objective, "contrastive_loss", lambda *a, **k: loss(*a, **k) * (math.nan if next(calls) == 1 else 1)
        )
        return train(MODEL, DATA, train_arguments(folder, max_samples=max_samples))

    result = train_with_a_bad_second_step(tmp_path / "run", 64)
    assert result.bad_steps == 1
    assert [record["samples"] for record in result.history if "loss" in record] == [16, 48, 64]
    assert all(torch.isfinite(weight).all() for weight in saved_weights(tmp_path / "run").values())
    # A checkpoint is not written while steps go wrong.
    assert sorted(path.name for path in find_checkpoints(tmp_path / "run")) == ["checkpoint-16", "checkpoint-48"]

    assert train_with_a_bad_second_step(tmp_path / "short", 32).bad_steps == 1
    before, after = saved_weights(tmp_path / "short" / "checkpoint-16"), saved_weights(tmp_path / "short")
    assert all(torch.equal(before[name], after[name]) for name in before)


class ScalingAccelerator(Accelerator):
    """Scales gradients on a CPU, which accelerate does for float16 on GPUs alone."""

    def __init__(self, **settings):
        super().__init__(**settings)
        # The largest power of two of float32: the first gradients overflow, and the next have 20 digits of room.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-20)

    def unscale_gradients(self, optimizer=None):
        for wrapped in self._optimizers:
            self.scaler.unscale_(wrapped.optimizer)


def test_an_overflow_that_the_scaler_handles_is_no_bad_step(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "Accelerator", ScalingAccelerator)
    result = train(MODEL, DATA, train_arguments(tmp_path, max_bad_steps=1))  # a bad step would end the run
    assert result.bad_steps == 0
    assert [record["samples"] for record in result.history if "loss" in record] == [32, 48, 64]
    # It is no step in a row of bad ones either: what came before it is worth a checkpoint.
    assert find_checkpoints(tmp_path)[0].name == "checkpoint-16"


def test_an_overflow_without_scaling_is_a_bad_step():
    for scale, adapts in ((2.0, True), (0.5, False)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.ones(()))  # sets it up
        step = SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler))
        assert OptimizerStep._scaler_adapts(step, torch.tensor(1.0)) is adapts
        assert not OptimizerStep._scaler_adapts(step, torch.tensor(math.nan))
    assert not OptimizerStep._scaler_adapts(SimpleNamespace(accelerator=SimpleNamespace(scaler=None)), torch.ones(()))


def test_streams_change_nothing(tmp_path):
    """Without dropout, a batch in streams trains as the whole one."""
    no_dropout = replace(
        MODEL,
        vision_config=json.dumps(json.loads(MODEL.vision_config) | {"hidden_dropout_prob": 0.0}),
        text_config=json.dumps(
            json.loads(MODEL.text_config) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        ),
    )
    whole = train(no_dropout, DATA, train_arguments(tmp_path / "whole", max_samples=48))
    streams = {"text_stream_size": 5, "image_stream_size": 6, "keep_graphs": "0.5"}
    cut = train(no_dropout, DATA, train_arguments(tmp_path / "cut", max_samples=48, **streams))
    losses = [[record["loss"] for record in run.history if "loss" in record] for run in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # 16 titles in 5, 5, 5, 1 and 16 images in 6, 6, 4, the last two together; half of them rounded to even
    assert [(r["streams"], r["streams_kept"]) for r in cut.history if "loss" in r] == [(6.0, 3.0)] * 3


def test_a_batch_that_grows_takes_its_rate_along(tmp_path):
    schedule = {"batch_size": 8, "batch_size_schedule": ["0.25:16", "0.75:32"], "batch_size_rule": "linear"}
    result = train(MODEL, DATA, train_arguments(tmp_path, max_samples=96, warmup_share=0.0, **schedule))
    steps = [record for record in result.history if "loss" in record]
    assert [record["batch_size"] for record in steps] == [8, 8, 8, 16, 16, 16, 32]
    assert [record["samples"] for record in steps] == [8, 16, 24, 40, 56, 72, 96]
    assert steps[0]["learning_rate"] == pytest.approx(1e-3)
    # After a quarter of the run: 2 (1 + cos(pi / 4)) / 2 of the peak.
    assert steps[3]["learning_rate"] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(
    "fields",
    [
        {"ema_decay": 0.5},
        {"keep_patches": 0.5},
        {"mate_contrast_weight": 0.5},
        {"layer_decay": 0.5},
        {"gradient_checkpointing": True, "image_stream_size": 7},
        {"compile": True, "compile_backend": "eager"},
    ],
    ids=str,
)
def test_additions_train_and_resume(tmp_path, fields):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(MODEL, DATA, train_arguments(whole, max_samples=48, **fields))
    train(MODEL, DATA, train_arguments(stopped, max_samples=48, **fields))
    for checkpoint in find_checkpoints(stopped)[1:]:
        checkpoint.rename(tmp_path / checkpoint.name)
    train(MODEL, DATA, train_arguments(stopped, max_samples=48, resume_from_checkpoint="latest", **fields))
    expected, found = saved_weights(whole), saved_weights(stopped)
    assert set(expected) == set(saved_weights(whole / "checkpoint-16"))
    assert not any("_orig_mod" in name for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip": "x"}, "exactly one of"),
        ({"vision_config": ""}, "give both"),
        ({"vision_config": "", "text_config": "", "clip": "x"}, "`projection_dim` is 16, but `clip` has settled it"),
        ({"vision_config": "{broken"}, "is no tower configuration"),
    ],
)
def test_model_arguments_that_do_not_fit_are_errors(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        train(replace(MODEL, **fields), DATA, train_arguments(tmp_path))
