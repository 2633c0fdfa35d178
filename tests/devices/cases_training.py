"""A training step on the device: the weights of the CPU's step, and how often the host waits."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import make_config, make_inputs, train_arguments
from fake_cuda import CUDA, counted_waits, on_cpu

from modeling_eclip import EClipForCategoryClassification, EClipModel
from training.engine.step import TrainingStep
from training.tasks.loop import TaskStep

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4, 7])
NUM_OFFERS = len(CATALOG_IDS)
CATEGORIES = [["Shoes"], ["Bags", "Totes"], ["Bags", "Belts"]]


def make_batch(**further):
    rows = {"row_ids": list(map(str, range(NUM_OFFERS))), "titles": ["a title"] * NUM_OFFERS, "skipped": []}
    return make_inputs(NUM_OFFERS) | rows | {"num_rows": NUM_OFFERS, "catalog_ids": CATALOG_IDS} | further


def make_step(
    folder, device, step_class=TrainingStep, model_class=EClipModel, fields=None, precision="no", **arguments
):
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    assert accelerator.device.type == torch.device(device).type
    torch.manual_seed(0)
    model = model_class(make_config(**fields or {}))
    arguments = {"max_samples": 10 * NUM_OFFERS, "batch_size": NUM_OFFERS, "ema_decay": 0.9, **arguments}
    return step_class(model, train_arguments(folder, **arguments), accelerator, 10 * NUM_OFFERS)


def two_steps(step, **further):
    torch.manual_seed(7)  # of dropout
    records = [step(make_batch(**further), samples) for samples in (0, NUM_OFFERS)]
    parameters = {name: parameter.detach() for name, parameter in step.bare_model.named_parameters()}
    return records, on_cpu(parameters), on_cpu(step.average.state_dict()["averages"])


@pytest.mark.parametrize("arguments", [{}, {"text_stream_size": 3, "image_stream_size": 2}], ids=["whole", "streams"])
def test_weights_and_averages(tmp_path, arguments):
    (expected, *tensors_expected), (records, *tensors) = (
        two_steps(make_step(tmp_path, device, mate_contrast_weight=0.1, **arguments)) for device in ("cpu", CUDA)
    )
    for record, wanted in zip(records, expected, strict=True):
        assert record == pytest.approx(wanted, rel=1e-4)
    for found, wanted in zip(tensors, tensors_expected, strict=True):
        for name, tensor in wanted.items():
            # Adam's first steps have the size of the rate, 1e-3, also where a gradient is all rounding.
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3, msg=name)
            assert (found[name] - tensor).abs().mean() < 1e-5, name


def test_bf16(tmp_path):
    records, *_ = two_steps(make_step(tmp_path, CUDA, precision="bf16", text_stream_size=3, image_stream_size=2))
    expected, *_ = two_steps(make_step(tmp_path, "cpu", precision="bf16", text_stream_size=3, image_stream_size=2))
    assert records[1]["loss"] == pytest.approx(expected[1]["loss"], rel=1e-2)  # 8 bits of mantissa


def test_a_step_of_a_head(tmp_path):
    settings = {"step_class": TaskStep, "model_class": EClipForCategoryClassification}
    labels = torch.tensor([0, 1, 2, -100, 0, 1, 2, 0])
    (expected, *_), (records, *_) = (
        two_steps(make_step(tmp_path, device, **settings, fields={"category_paths": CATEGORIES}), labels=labels)
        for device in ("cpu", CUDA)
    )
    assert records[1] == pytest.approx(expected[1], rel=1e-4)


def waits_of_a_step(folder, **arguments):
    """Return what makes the host wait in a later step: in this package, and in what transformers does with masks."""
    step = make_step(folder, CUDA, **arguments)
    step(make_batch(), 0)
    with counted_waits() as waits:
        assert step(make_batch(), NUM_OFFERS) is not None
    in_masks = sum(number for (_, place), number in waits.items() if "transformers/masking_utils" in place)
    return waits.total() - in_masks, in_masks, waits


# One stream, two, and eight.
@pytest.mark.parametrize(("stream_size", "keep_graphs"), [(None, "auto"), (4, "0"), (1, "1"), (1, "0"), (1, "auto")])
def test_waits_of_a_step_do_not_grow_with_its_streams(tmp_path, stream_size, keep_graphs):
    """Two: whether exponentials fit into float32, and the step's values.

    And one for each encoding of titles: transformers looks whether a mask hides anything (not where it is compiled).
    """
    sizes = {"text_stream_size": stream_size, "image_stream_size": stream_size}
    in_package, in_masks, waits = waits_of_a_step(tmp_path, keep_graphs=keep_graphs, **sizes)
    assert in_package == 2, waits
    num_text_streams = NUM_OFFERS // (stream_size or NUM_OFFERS)
    assert in_masks == num_text_streams * (2 if keep_graphs == "0" and stream_size else 1), waits
