"""Streams of a model sharded by FSDP2: gradients of the whole batch, and no rank that waits for another for ever."""

import os
import socket

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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from modeling_eclip import EClipModel, MultiStreamAccumulation
from modeling_eclip.accumulation.plan import plan_streams
from modeling_eclip.accumulation.sharded import SCALARS, count_streams, pad_streams
from training.engine.optimization import build_optimizer

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4, 2, 2, -1, 5])
NUM_OFFERS = len(CATALOG_IDS)
# Offers of each rank, arguments, parts that are frozen. Where ranks have different numbers of streams, they gather
# weights at different times unless streams are added: the processes would then hang, and the time limit end them.
CASES = [
    ((9, 2), {"stream_size": 3, "keep_graphs": 0.0}, ""),
    ((2, 9), {"text_stream_size": 4, "image_stream_size": 2, "keep_graphs": 0.5}, ""),
    ((11, 0), {"stream_size": 3, "keep_graphs": 1.0}, ""),
    ((6, 5), {}, ""),
    ((9, 2), {"stream_size": 3}, "vision_model"),
    # Offers that lack a side: the second rank has no image, and encodes one that does not count.
    ((6, 5), {"text_stream_size": 4, "image_stream_size": 2}, ""),
    ((9, 2), {"stream_size": 3, "loss": "sigmoid"}, ""),
]
HAS_TEXT, HAS_IMAGE = torch.arange(NUM_OFFERS) != 3, torch.tensor([1, 0, 1, 1, 1, 1] + [0] * 5).bool()
LACKING = len(CASES) - 2


def build(frozen="", dropout=0.0, loss="softmax"):
    model = make_training_model(dropout=dropout, dtype=torch.float32, loss=loss)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(frozen)))
    return model


def shard(model):
    for block in (*model.vision_model.layers, *model.text_model.encoder.layer):
        fully_shard(block)
    scalars = {model.logit_scale} if model.logit_bias is None else {model.logit_scale, model.logit_bias}
    return fully_shard(model, ignored_params=scalars)


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def run_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save([run_case(rank, number, *case) for number, case in enumerate(CASES)], f"{folder}/{rank}.pt")
    rows = slice(0, 7) if rank == 0 else slice(7, NUM_OFFERS)
    model = shard(build())
    train(model, {name: value[rows] for name, value in make_inputs(NUM_OFFERS).items()}, CATALOG_IDS[rows])
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        EClipModel(model.config).save_pretrained(f"{folder}/trained", state_dict=state)
    torch.distributed.destroy_process_group()


def train(model, inputs, catalog_ids):
    """Take three clipped steps, as a loop of one's own does."""
    accumulate = MultiStreamAccumulation(model, stream_size=3)
    optimizer = build_optimizer(model, learning_rate=1e-3)
    for _ in range(3):
        accumulate(inputs, catalog_ids)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()


def run_case(rank, number, shares, arguments, frozen):
    arguments = dict(arguments)
    model = shard(build(frozen, loss=arguments.pop("loss", "softmax")))
    accumulate = MultiStreamAccumulation(model, **arguments)
    rows = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    inputs = {name: value[rows] for name, value in make_inputs(NUM_OFFERS).items()}
    if number == LACKING:
        inputs = lacking_sides(inputs, HAS_TEXT[rows], HAS_IMAGE[rows])
    for _ in range(2):  # a second step finds everything as the first left it
        model.zero_grad()
        loss = accumulate(inputs, CATALOG_IDS[rows])
    named = [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None]
    held = sum(gradient.to_local().numel() for _, gradient in named if hasattr(gradient, "to_local"))
    return loss, {name: full(gradient) for name, gradient in named}, held, accumulate.num_streams


def test_gradients_are_those_of_the_whole_batch(tmp_path, subtests):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Processes are slow to start: one pair does all cases.
    run_ranks(run_rank, (port, str(tmp_path)), 2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for number, (shares, arguments, frozen) in enumerate(CASES):
        model = build(frozen, loss=arguments.get("loss", "softmax"))
        if number == LACKING:
            expected_loss, expected = whole_batch_lacking_sides(
                model, make_inputs(NUM_OFFERS), CATALOG_IDS, HAS_TEXT, HAS_IMAGE, 0.0
            )
        else:
            expected_loss = model(**make_inputs(NUM_OFFERS), catalog_ids=CATALOG_IDS, return_loss=True).loss
            expected_loss.backward()
            expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results = [rank[number] for rank in ranks]
        for loss, gradients, _, _ in results:
            with subtests.test(shares=shares, arguments=arguments, frozen=frozen):
                # The same sums in another order: float32 keeps seven digits.
                torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-5, atol=1e-6)
                # Sums in another order: float32 leaves up to 1e-5 of the largest.
                assert_same_gradients(gradients, expected, rtol=1e-4)
        assert len({num_streams for *_, num_streams in results}) == 1
        # Each rank holds a part of the gradients, and both together hold all: scalars aside, there is no second copy.
        total = sum(gradient.numel() for gradient in expected.values()) - len(expected.keys() & {*SCALARS})
        assert sum(held for *_, held, _ in results) == total
        assert all(held < 0.75 * total for *_, held, _ in results)
    whole, trained = build(), EClipModel.from_pretrained(tmp_path / "trained")
    train(whole, make_inputs(NUM_OFFERS), CATALOG_IDS)
    for name, weight in whole.state_dict().items():
        # Of three steps of 1e-3. Where a gradient is all rounding, AdamW makes a step of its sign: the mean counts.
        assert (trained.state_dict()[name] - weight).abs().mean() < 1e-4, name


@pytest.fixture
def one_rank(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")  # torch's own calls inside fully_shard
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")  # nothing is changed in place
def test_dropout_is_the_same_in_both_passes(one_rank):
    """A rank that is alone has all weights, and draws what a model that is not sharded draws."""
    results = []
    for model, keep_graphs in ((build(dropout=0.3), 1.0), (shard(build(dropout=0.3)), 0.0)):
        torch.manual_seed(7)
        loss = MultiStreamAccumulation(model, stream_size=4, keep_graphs=keep_graphs)(
            make_inputs(NUM_OFFERS), CATALOG_IDS
        )
        results.append((loss, {name: full(p.grad) for name, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(results[1][0], results[0][0])
    assert_same_gradients(results[1][1], results[0][1], rtol=1e-4)  # as above


@pytest.mark.filterwarnings("ignore:FSDP is switching to use:UserWarning")
def test_models_that_are_sharded_otherwise_are_refused(one_rank):
    model = build()
    fully_shard(model.text_model)
    with pytest.raises(ValueError, match=r"\['logit_scale', 'vision_model.*ignored_params"):
        MultiStreamAccumulation(model)
    with pytest.raises(NotImplementedError, match="FSDP1"):
        MultiStreamAccumulation(FullyShardedDataParallel(torch.nn.Linear(2, 2), device_id=torch.device("cpu")))


def test_added_streams_stand_at_the_end_of_their_modality():
    inputs = make_inputs(6) | {"interpolate_pos_encoding": True}
    planned = plan_streams(inputs, make_config(), 3, 2).streams
    assert count_streams(planned) == (1, 2)
    streams = pad_streams(planned, (4, 4))
    kinds = [(len(stream.text_rows), len(stream.image_rows)) for stream in streams]
    # 1 + 1 streams of titles and 2 + 1 of images, each last one in common: others have 4 and 4 besides
    assert kinds == [(3, 0), (0, 0), (0, 0), (0, 0), (0, 2), (0, 2), (0, 0), (0, 0), (3, 2)]
    assert [set(stream.inputs) for stream in streams[1:4]] == [{"input_ids", "attention_mask"}] * 3
    assert all(set(stream.inputs) == {"pixel_values", "interpolate_pos_encoding"} for stream in streams[4:8])
    assert all(len(stream.inputs["pixel_values"]) == 1 for stream in streams[6:8])
