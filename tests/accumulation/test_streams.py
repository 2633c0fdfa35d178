"""Multi-stream accumulation: the gradient of the whole batch, however it is cut."""

import contextlib
import gc
import os
import socket
import weakref

import pytest
import torch
from conftest import (
    assert_same_gradients,
    lacking_sides,
    make_config,
    make_inputs,
    make_training_model,
    whole_batch_lacking_sides,
)
from ranks import run_ranks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip import ContrastiveObjective, MultiStreamAccumulation, contrastive_loss
from modeling_eclip.accumulation.plan import Stream, plan_streams
from modeling_eclip.accumulation.transfer import InputTransfer

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4, 2, 2, -1, 5])
NUM_OFFERS = len(CATALOG_IDS)
# Which offers have a title, and which an image.
EVERY, NONE = torch.ones(NUM_OFFERS, dtype=torch.bool), torch.zeros(NUM_OFFERS, dtype=torch.bool)
FIRST = torch.arange(NUM_OFFERS) < 5
PARTS = {
    "mixed": (
        torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0]).bool(),
        torch.tensor([1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1]).bool(),
    ),
    "images of the first": (EVERY, FIRST),
    "no row has both": (~FIRST, FIRST),
    "titles alone": (EVERY, NONE),
    "images alone": (NONE, EVERY),
}


def gradients_of(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def whole_batch(model, inputs, catalog_ids=CATALOG_IDS):
    """Return loss and gradients of one forward over the whole batch."""
    model.zero_grad()
    loss = model(**inputs, catalog_ids=catalog_ids, return_loss=True).loss
    loss.backward()
    return loss.detach(), gradients_of(model)


def in_streams(model, inputs, catalog_ids=CATALOG_IDS, **arguments):
    model.zero_grad()
    loss = MultiStreamAccumulation(model, **arguments)(inputs, catalog_ids)
    return loss, gradients_of(model)


def assert_same(ours, expected, rtol=1e-9):
    """Compare loss and gradients."""
    torch.testing.assert_close(ours[0], expected[0], rtol=rtol, atol=rtol)
    assert_same_gradients(ours[1], expected[1], rtol)


@pytest.mark.parametrize("keep_graphs", ["auto", 0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [{"stream_size": 4}, {"text_stream_size": 5, "image_stream_size": 2}, {}], ids=str)
@pytest.mark.parametrize("towers", [("vit", "bert"), ("convnext", "siglip_text_model"), ("swin", "clip_text_model")])
def test_gradients_are_those_of_the_whole_batch(towers, sizes, keep_graphs):
    model, inputs = make_training_model(*towers), make_inputs(NUM_OFFERS)
    assert_same(in_streams(model, inputs, **sizes, keep_graphs=keep_graphs), whole_batch(model, inputs))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"catalog_mates": "masked", "matryoshka_dims": [4, 16]},
        {"loss": "sigmoid", "catalog_weight": 0.5, "matryoshka_dims": [4, 16]},
    ],
    ids=str,
)
@pytest.mark.parametrize("keep_graphs", ["auto", 0.0, 0.5])
@pytest.mark.parametrize("sizes", [{"text_stream_size": 4, "image_stream_size": 2}, {}], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_offers_are_used_for_what_they_have(parts, sizes, keep_graphs, fields):
    model, inputs, has = make_training_model(**fields), make_inputs(NUM_OFFERS), PARTS[parts]
    rows_encoded = {"text": 0, "image": 0}
    for modality, tower in (("text", model.text_model), ("image", model.vision_model)):

        def count(module, args, kwargs, output, modality=modality):
            rows_encoded[modality] += len(output[0])

        tower.register_forward_hook(count, with_kwargs=True)
    ours = in_streams(
        model,
        lacking_sides(inputs, *has),
        loss_function=ContrastiveObjective(model.config, mate_contrast_weight=0.5),
        keep_graphs=keep_graphs,
        **sizes,
    )
    # Once or twice each, and one placeholder where there is none at all.
    for modality, exists in zip(rows_encoded, has, strict=True):
        number = max(1, int(exists.sum()))
        assert number <= rows_encoded[modality] <= (2 if sizes else 1) * number
    assert_same(ours, whole_batch_lacking_sides(model, inputs, CATALOG_IDS, *has, 0.5))


def test_told_sides_of_whole_offers_change_nothing():
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    plain = in_streams(model, inputs, stream_size=4, keep_graphs=0.0)
    plain = plain[0], {name: gradient.clone() for name, gradient in plain[1].items()}
    told = in_streams(model, lacking_sides(inputs, EVERY, EVERY), stream_size=4, keep_graphs=0.0)
    assert torch.equal(told[0], plain[0])
    assert all(torch.equal(gradient, plain[1][name]) for name, gradient in told[1].items())  # the same operations


def test_a_loss_of_ones_own_is_told_what_is_missing():
    model, inputs, has = make_training_model(loss="sigmoid"), make_inputs(NUM_OFFERS), PARTS["mixed"]

    def loss(text, image, logit_scale, catalog_ids, has_text, has_image, logit_bias):
        assert logit_bias.item() == model.logit_bias.item()
        assert torch.equal(has_text, has[0]) and torch.equal(has_image, has[1])
        assert not text[~has_text].any() and not image[~has_image].any()
        return (text.sum() + image.sum()) * logit_scale

    MultiStreamAccumulation(model, stream_size=4, loss_function=loss)(lacking_sides(inputs, *has), CATALOG_IDS)


def test_in_float32_they_differ_by_its_rounding():
    model, inputs = make_training_model().float(), make_inputs(NUM_OFFERS)
    ours = in_streams(model, inputs, stream_size=4)
    assert ours[0].dtype == torch.float32
    assert_same(ours, whole_batch(model, inputs), rtol=1e-4)  # ten times what a CPU may round


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("mates", ["positive", "negative", "masked"])
def test_the_form_of_the_loss_is_the_configurations(mates, loss):
    model, inputs = make_training_model(catalog_mates=mates, loss=loss), make_inputs(NUM_OFFERS)
    assert_same(in_streams(model, inputs, stream_size=3), whole_batch(model, inputs))


@pytest.mark.parametrize("vision", ["vit", "swin"])  # swin's is drop-path too
def test_dropout_is_the_same_in_both_passes(vision):
    """The embeddings' gradients, found with one draw of dropout, must go back through that same draw."""
    model, inputs = make_training_model(vision, dropout=0.3), make_inputs(NUM_OFFERS)
    # A reference with all graphs at once: the streams one after the other, their embeddings joined, one backward.
    streams = plan_streams(inputs, model.config, 4, 3).streams
    torch.manual_seed(7)
    text, image = torch.empty(2, NUM_OFFERS, 16, dtype=torch.float64)
    for stream in streams:
        output = model(**stream.inputs)
        if len(stream.text_rows):
            text = text.index_copy(0, stream.text_rows, output.text_embeds)
        if len(stream.image_rows):
            image = image.index_copy(0, stream.image_rows, output.image_embeds)
    loss = contrastive_loss(text, image, model.logit_scale, CATALOG_IDS)
    loss.backward()
    expected, after = (loss.detach(), gradients_of(model)), torch.rand(1)
    for keep_graphs in (0.0, 0.5, 1.0, "auto"):
        torch.manual_seed(7)
        ours = in_streams(model, inputs, text_stream_size=4, image_stream_size=3, keep_graphs=keep_graphs)
        assert_same(ours, expected)
        # whatever draws next does not depend on how many graphs were kept
        assert torch.equal(torch.rand(1), after)
    torch.manual_seed(8)
    other_draw = in_streams(model, inputs, text_stream_size=4, image_stream_size=3)
    assert not torch.allclose(other_draw[0], expected[0])


def test_kept_and_encoded_again_agree():
    model, inputs = make_training_model(dropout=0.3), make_inputs(NUM_OFFERS)
    results = []
    for keep_graphs in (0.0, 1.0):
        torch.manual_seed(7)
        results.append(in_streams(model, inputs, stream_size=4, keep_graphs=keep_graphs))
    assert_same(results[0], results[1])


@pytest.mark.parametrize(
    "frozen", ["vision_model", "text_model", "vision_model.encoder.layer.0", "logit_scale", "visual_projection"]
)
def test_frozen_parts_get_no_gradient(frozen):
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    expected = whole_batch(model, inputs)
    assert not any(name.startswith(frozen) for name in expected[1])
    for keep_graphs in ("auto", 0.0):
        assert_same(in_streams(model, inputs, stream_size=4, keep_graphs=keep_graphs), expected)


def test_a_frozen_tower_is_encoded_once():
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    model.vision_model.requires_grad_(False)
    rows_encoded = []
    model.vision_model.register_forward_hook(lambda module, inputs, output: rows_encoded.append(len(output[0])))
    accumulate = MultiStreamAccumulation(model, image_stream_size=4, keep_graphs=0.0)
    accumulate(inputs, CATALOG_IDS)
    # The last stream is one with the titles, whose tower is trained.
    assert rows_encoded == [4, 4, 3, 3]


def test_gradient_checkpointing():
    model, inputs = make_training_model(dropout=0.3), make_inputs(NUM_OFFERS)
    torch.manual_seed(7)
    expected = in_streams(model, inputs, stream_size=4)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for keep_graphs in (0.0, 1.0):
        torch.manual_seed(7)
        assert_same(in_streams(model, inputs, stream_size=4, keep_graphs=keep_graphs), expected)


def test_autocast():
    """Weights that autocast casts in the first pass must not be taken for constants in the second."""
    model, inputs = make_training_model().float(), make_inputs(NUM_OFFERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = whole_batch(model, inputs)
        for keep_graphs in (0.0, 0.5, 1.0):
            ours = in_streams(model, inputs, stream_size=4, keep_graphs=keep_graphs)
            assert_same(ours, expected, rtol=0.05)  # bfloat16 has three digits


def test_scaled_gradients_are_the_scale_times_the_gradients():
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def backward(loss):
        scaler.scale(loss).backward()

    expected = whole_batch(model, inputs)
    loss, gradients = in_streams(model, inputs, stream_size=4, backward=backward)
    assert_same((loss, {name: gradient / 1024 for name, gradient in gradients.items()}), expected)


def test_gradients_are_added_to():
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    loss, once = in_streams(model, inputs, stream_size=4)
    once = {name: gradient.clone() for name, gradient in once.items()}
    MultiStreamAccumulation(model, stream_size=4)(inputs, CATALOG_IDS)
    assert_same((loss, gradients_of(model)), (loss, {name: 2 * gradient for name, gradient in once.items()}))


@pytest.mark.parametrize("sizes", [{"stream_size": 4}, {}], ids=str)
@pytest.mark.parametrize("keep_graphs", [0.0, 0.5])
def test_streams_are_prepared_where_they_are_encoded(sizes, keep_graphs):
    """8-bit pixels are normalised stream by stream, and no more than two streams' at a time."""
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    levels = torch.randint(0, 256, inputs["pixel_values"].shape, dtype=torch.uint8)
    expected = whole_batch(model, {**inputs, "pixel_values": levels.float() / 64 - 2})
    alive, most, rows = weakref.WeakSet(), [], []

    def prepare(given):
        prepared = dict(given)
        if "pixel_values" in given:
            pixels = given["pixel_values"].float() / prepared.pop("divisor") - 2
            rows.append(len(pixels))
            alive.add(pixels)
            most.append(len(alive))
            prepared["pixel_values"] = pixels
        return prepared

    given = {**inputs, "pixel_values": levels, "divisor": 64}
    assert_same(in_streams(model, given, **sizes, keep_graphs=keep_graphs, prepare=prepare), expected)
    if sizes and not keep_graphs:
        assert rows == [4, 4, 3] * 2
        assert max(most) <= 2
    elif not sizes:
        assert rows == [NUM_OFFERS]


@pytest.mark.parametrize("keep_graphs", ["auto", 0.0])
def test_a_batch_is_let_go_of_after_its_step(keep_graphs):
    """Another one is read meanwhile: a third would lie in memory."""
    model, inputs = make_training_model().float(), make_inputs(11)
    accumulate = MultiStreamAccumulation(model, stream_size=4, keep_graphs=keep_graphs)
    memory = inputs["pixel_values"].numpy().copy()  # is freed when the last view of it is
    inputs["pixel_values"], is_held = torch.from_numpy(memory), weakref.ref(memory)
    accumulate(inputs)
    del memory, inputs
    gc.collect()
    assert is_held() is None


def test_titles_that_are_trimmed_have_the_strides_of_others():
    """A compiled tower would have a form of its own for them."""
    streams = plan_streams(make_inputs(NUM_OFFERS), make_config(), 4, 4).streams
    ids = [stream.inputs["input_ids"] for stream in streams if "input_ids" in stream.inputs]
    assert len({part.shape[1] for part in ids}) > 1 and all(part.is_contiguous() for part in ids)


def test_copies_run_one_stream_ahead_and_their_memory_is_reused_in_order(monkeypatch):
    """The order of a GPU's two queues; what they compute needs a GPU."""
    events = []
    queues = {name: Queue(name, events) for name in ("copies", "computation")}
    transfer = InputTransfer()
    monkeypatch.setattr(transfer, "_queue", lambda device: queues["copies"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: queues["computation"])
    monkeypatch.setattr(torch.cuda, "stream", lambda queue: contextlib.nullcontext())
    monkeypatch.setattr(
        "modeling_eclip.accumulation.transfer.move_inputs",
        lambda inputs, device: events.append(f"copy {len(inputs['input_ids'])}") or inputs,
    )
    nothing = torch.zeros(0, dtype=torch.int64)
    streams = [Stream({"input_ids": torch.zeros(number, 2)}, nothing, nothing) for number in (1, 2, 3)]
    for stream, inputs in transfer(streams, torch.device("cpu")):
        events.append(f"encode {len(inputs['input_ids'])}")
        assert inputs is stream.inputs
    ahead, arrived = "copies after computation", "computation after copies"
    assert events == [
        *(ahead, "copy 1", arrived),
        *(ahead, "copy 2", "encode 1", arrived),
        *(ahead, "copy 3", "encode 2", arrived),
        "encode 3",
    ]


class Queue:
    """Stands for a queue of a GPU's work and keeps what waits for what."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def wait_stream(self, other):
        self.events.append(f"{self.name} after {other.name}")


def test_titles_are_sorted_and_trimmed():
    inputs = make_inputs(10)  # lengths 3, 4, 5, 6, 7, 3, 4, 5, 6, 7
    streams = plan_streams(inputs, make_config(), 4, 10).streams
    assert [stream.inputs["input_ids"].shape for stream in streams] == [(4, 7), (4, 5), (2, 3)]
    assert [stream.text_rows.tolist() for stream in streams] == [[4, 9, 3, 8], [2, 7, 1, 6], [0, 5]]
    assert [len(stream.image_rows) for stream in streams] == [0, 0, 10]
    # SigLIP's titles end at the last place whatever is padded; padding on the left is no shorter when trimmed
    fixed = plan_streams(inputs, make_config(text="siglip_text_model"), 4, 10).streams
    assert all(stream.inputs["input_ids"].shape[1] == 7 for stream in fixed)
    flipped = {name: value.flip(1) if value.ndim == 2 else value for name, value in inputs.items()}
    assert all(
        stream.inputs["input_ids"].shape[1] == 7 for stream in plan_streams(flipped, make_config(), 4, 10).streams
    )


def test_a_rank_without_offers_encodes_a_placeholder_row():
    inputs = {name: value[:0] for name, value in make_inputs(2).items()} | {"interpolate_pos_encoding": True}
    (stream,) = plan_streams(inputs, make_config(), 4, 4).streams
    assert stream.inputs.pop("interpolate_pos_encoding") is True
    assert all(len(value) == 1 for value in stream.inputs.values())
    assert len(stream.text_rows) == len(stream.image_rows) == 0


def test_vectors_of_a_tower_replace_its_inputs():
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    model.vision_model.requires_grad_(False)
    expected = whole_batch(model, inputs)
    vectors = model.encode_image(inputs.pop("pixel_values")).pooler_output
    assert_same(in_streams(model, {**inputs, "image_pooler_output": vectors}, stream_size=4), expected)


@pytest.mark.parametrize("in_training", [True, False])
def test_batch_norm_is_fixed_or_refused(in_training):
    model, inputs = make_training_model(vision="resnet"), make_inputs(NUM_OFFERS)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.train(in_training)
    before = norm.running_mean.clone()
    ours = in_streams(model, inputs, stream_size=4)
    assert norm.training == in_training  # as it was found
    assert torch.equal(norm.running_mean, before)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert_same(ours, whole_batch(model, inputs))


def test_batch_norm_cannot_be_trained_in_streams():
    model, inputs = make_training_model(vision="resnet"), make_inputs(NUM_OFFERS)
    with pytest.raises(ValueError, match="batch norm layers are in training mode"):
        in_streams(model, inputs, stream_size=4, fix_batch_norm=False)
    expected = whole_batch(model, inputs)
    assert_same(in_streams(model, inputs, fix_batch_norm=False), expected)


def test_graphs_are_kept_as_memory_allows(monkeypatch):
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    accumulate = MultiStreamAccumulation(model, stream_size=2)
    accumulate(inputs, CATALOG_IDS)
    assert accumulate.num_streams == accumulate.num_kept == 11  # 5 of titles, 5 of images, the last of both
    free = {"bytes": 0.0}
    monkeypatch.setattr("modeling_eclip.accumulation.memory.free_memory", lambda device: free["bytes"])
    accumulate(inputs, CATALOG_IDS)
    assert accumulate.num_kept == 0
    image_stream = 2 * accumulate._budget.bytes_per_unit["image"]
    free["bytes"] = 1e9
    accumulate(inputs, CATALOG_IDS)
    assert accumulate.num_kept == 11
    assert image_stream > 2 * 3 * 32 * 32 * 4  # more than the pixels alone


def first_step(accumulate, monkeypatch, free_bytes):
    """Run a first step, which knows no graph's size yet, and return how many graphs it kept."""
    monkeypatch.setattr("modeling_eclip.accumulation.memory.free_memory", lambda device: free_bytes)
    ours = (accumulate(make_inputs(NUM_OFFERS), CATALOG_IDS), gradients_of(accumulate.module))
    assert_same(ours, whole_batch(make_training_model(), make_inputs(NUM_OFFERS)))
    return accumulate.num_kept


def test_the_first_step_keeps_what_fits(monkeypatch):
    measured = MultiStreamAccumulation(make_training_model(), stream_size=2)
    first_step(measured, monkeypatch, 1e12)
    streams = plan_streams(make_inputs(NUM_OFFERS), measured.module.config, 2, 2).streams
    text, image, *_ = (measured._budget._size(streams[number]) for number in (0, 5))
    gradients = sum(parameter.nbytes for parameter in measured.module.parameters())
    assert text < image

    def bytes_for(graphs):
        return gradients + graphs / 0.8 + 1  # a fifth stays free

    # Two graphs of titles are kept before anything is known of images. The first image does not fit beside the room
    # that an encoding without a graph will need, and neither do the titles.
    accumulate = MultiStreamAccumulation(make_training_model(), stream_size=2)
    assert first_step(accumulate, monkeypatch, bytes_for(image)) == 0
    # Room for an image's graph, for that of a second encoding, and for nothing else but small titles at the end.
    accumulate = MultiStreamAccumulation(make_training_model(), stream_size=2)
    kept = first_step(accumulate, monkeypatch, bytes_for(2 * image + text))
    assert 1 <= kept < 11
    assert len(accumulate._budget._held) == kept
    assert sum(accumulate._budget._held.values()) <= image + text + 1


def test_a_graph_that_does_not_fit_is_let_go(monkeypatch):
    """Memory that ends in the middle of an encoding costs graphs, and not the run."""
    model, inputs = make_training_model(dropout=0.3), make_inputs(NUM_OFFERS)
    torch.manual_seed(7)
    expected = in_streams(model, inputs, stream_size=2, keep_graphs=0.0)
    calls = []

    def encode_image(*arguments, **settings):
        calls.append(torch.is_grad_enabled())
        output = encode(*arguments, **settings)
        if len(calls) == 3:  # dropout has drawn already
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return output

    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", encode_image)
    model.zero_grad()
    torch.manual_seed(7)
    accumulate = MultiStreamAccumulation(model, stream_size=2)
    assert_same((accumulate(inputs, CATALOG_IDS), gradients_of(model)), expected)
    assert accumulate.num_kept == 0
    assert calls[:5] == [True, True, True, False, False]  # the third again, and the rest of the step, without
    calls.clear()
    calls.extend([False] * 3)  # beyond the third
    accumulate(inputs, CATALOG_IDS)
    assert accumulate.num_kept == 11  # another step tries again
    # Without a graph there is nothing to let go, and a share that was asked for is not changed in silence.
    for keep_graphs in (0.0, 1.0):
        calls.clear()
        with pytest.raises(torch.OutOfMemoryError):
            MultiStreamAccumulation(model, stream_size=2, keep_graphs=keep_graphs)(inputs, CATALOG_IDS)


@pytest.mark.parametrize("stream_size", [None, 6])
def test_no_step_compares_all_pairs(stream_size):
    """The loss is in tiles: whatever the batch, nothing of its square is computed on the way."""

    class LargestSquare(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, arguments=(), settings=None):
            output = function(*arguments, **(settings or {}))
            if isinstance(output, torch.Tensor) and output.ndim == 2 and output.shape[0] == output.shape[1]:
                self.largest = max(self.largest, len(output) if len(output) in (NUM_OFFERS, 5) else 0)
            return output

    model = make_training_model()
    accumulate = MultiStreamAccumulation(model, stream_size=stream_size, tile_size=2)
    with LargestSquare() as squares:
        accumulate(make_inputs(NUM_OFFERS), CATALOG_IDS)
    assert squares.largest == 0


@pytest.mark.parametrize("stream_size", [None, 4])
def test_a_compiled_model_in_streams(stream_size):
    model, inputs = make_training_model(), make_inputs(NUM_OFFERS)
    compiled = torch.compile(model, backend="eager")
    loss, _ = in_streams(compiled, inputs, stream_size=stream_size)
    assert_same((loss, gradients_of(model)), whole_batch(make_training_model(), inputs))


def test_measured_memory_is_what_the_graph_holds():
    from modeling_eclip.accumulation.memory import GraphMeter

    layer = nn.Linear(8, 8)
    meter = GraphMeter(layer)
    with meter:
        output = layer(torch.zeros(4, 8)).relu().exp()
    # the input, the output of relu and that of exp: 4 x 8 numbers of 4 bytes each; the weight is not counted
    assert meter.bytes == 3 * 4 * 8 * 4
    output.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stream_size": 0}, "a stream size is 0"),
        ({"image_stream_size": -1}, "a stream size is -1"),
        ({"keep_graphs": 2}, "`keep_graphs` is 2"),
        ({"keep_graphs": "all"}, "`keep_graphs` is 'all'"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiStreamAccumulation(make_training_model(), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None}, "give titles"),
        ({"pixel_values": torch.zeros(3, 3, 32, 32)}, "'pixel_values': 3"),
        ({"labels": torch.zeros(4)}, r"\['labels'\], which cannot be cut"),
        ({"return_loss": True}, r"\['return_loss'\]: the loss and the outputs' form"),
        ({"input_ids": [[1, 2]] * 4}, r"\['input_ids'\] that are no tensors"),
        ({"has_text": EVERY[:4]}, "with `has_text` and `has_image` where offers lack"),
        ({"has_text": EVERY[:4], "has_image": EVERY[:3]}, "'has_image': '3 of 3'"),
        ({"has_text": EVERY[:4], "has_image": NONE[:4]}, "'has_image': '0 of 4'.*a row for each title"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        MultiStreamAccumulation(make_training_model(), stream_size=2)({**make_inputs(4), **change})


def test_without_gradients_there_is_no_step():
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are switched off"):
        MultiStreamAccumulation(make_training_model(), stream_size=2)(make_inputs(4))


RANK_CASES = [
    ((9, 2), {"stream_size": 3}),
    ((11, 0), {"stream_size": 3}),
    # one of the ranks cuts nothing, but steps in time with the other
    ((2, 9), {"stream_size": 4, "keep_graphs": 0.0}),
    # `accelerate launch --dynamo_backend` compiles around the reduction
    ((9, 2), {"stream_size": 3, "compiled": True}),
    # offers that lack a side, here and there, and on a whole rank
    ((9, 2), {"stream_size": 3, "parts": "mixed"}),
    ((5, 6), {"stream_size": 3, "keep_graphs": 0.0, "parts": "images of the first"}),
    ((5, 6), {"parts": "no row has both"}),
    ((11, 0), {"parts": "titles alone"}),
    ((9, 2), {"stream_size": 3, "keep_graphs": 0.0, "loss": "sigmoid"}),
    ((5, 6), {"stream_size": 3, "parts": "mixed", "loss": "sigmoid"}),
    ((6, 5), {"parts": "mixed", "loss": "sigmoid"}),
]


def run_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save([run_case(rank, *case) for case in RANK_CASES], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def run_case(rank, shares, arguments):
    arguments = dict(arguments)
    bare = make_training_model(loss=arguments.pop("loss", "softmax"))
    model = nn.parallel.DistributedDataParallel(bare)
    reductions = []
    model.register_comm_hook(reductions, count_reduction)
    model = torch.compile(model, backend="eager") if arguments.pop("compiled", False) else model
    parts = arguments.pop("parts", None)
    if parts is not None:
        arguments["loss_function"] = ContrastiveObjective(bare.config, mate_contrast_weight=0.5, distributed=True)
    accumulate = MultiStreamAccumulation(model, **arguments)
    start = sum(shares[:rank])
    rows = slice(start, start + shares[rank])
    inputs = {name: value[rows] for name, value in make_inputs(NUM_OFFERS).items()}
    if parts is not None:
        inputs = lacking_sides(inputs, *(has[rows] for has in PARTS[parts]))
    for _ in range(2):  # a second step finds hooks and buckets as the first left them
        model.zero_grad()
        reductions.clear()
        loss = accumulate(inputs, CATALOG_IDS[rows])
    return loss, gradients_of(bare), len(reductions)


def count_reduction(reductions, bucket):
    reductions.append(bucket.index())
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0] / torch.distributed.get_world_size())


def expected_of(parts=None, loss="softmax", **_):
    model, inputs = make_training_model(loss=loss), make_inputs(NUM_OFFERS)
    if parts is None:
        return whole_batch(model, inputs)
    return whole_batch_lacking_sides(model, inputs, CATALOG_IDS, *PARTS[parts], 0.5)


def test_ranks_with_different_numbers_of_streams(tmp_path, subtests):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Processes are slow to start: one pair does all cases.
    run_ranks(run_rank, (port, str(tmp_path)), 2)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        for case, (loss, gradients, num_reductions) in zip(RANK_CASES, results, strict=True):
            with subtests.test(case=case, rank=rank):
                assert_same((loss, gradients), expected_of(**case[1]))
                assert num_reductions == 1  # one bucket holds all of this model
