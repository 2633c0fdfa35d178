"""Compiled towers: the same numbers, the same names, and no form of its own for each length of a title."""

import os
import shutil
import socket

import pytest
import torch
import torch.multiprocessing as mp
from conftest import VOCAB_SIZE, assert_same_gradients, make_config, make_inputs
from safetensors.torch import load_file

from modeling_eclip import EClipModel, MultiStreamAccumulation
from training.engine.compile import compile_towers
from training.engine.ema import WeightAverage
from training.engine.lora import add_adapters
from training.engine.patch_dropout import drop_patches

# All of torch.compile but the compiler, whose work takes too long for every run of the tests.
BACKEND = "aot_eager"


wants_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and os.environ.get("RUN_SLOW")), reason="wants RUN_SLOW=1 and a C++ compiler"
)


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch, tmp_path):
    # A cache of its own: a run that was killed leaves half a file in the one that all share.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def model():
    return build()


def build():
    """One block in each tower compiles in half the time of two."""
    config = make_config()
    config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = 1
    config.vision_config.hidden_dropout_prob = 0.1
    torch.manual_seed(0)
    return EClipModel(config)


def test_compiled_towers_give_the_same_loss_and_gradients(model, tmp_path):
    model.train()
    model.save_pretrained(tmp_path / "before")
    for module in model.modules():  # the compiler draws other random numbers
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def loss_and_gradients():
        loss = model(**make_inputs(4), return_loss=True).loss
        return loss, torch.autograd.grad(loss, [p for n, p in model.named_parameters() if "pooler" not in n])

    names = list(model.state_dict())
    expected_loss, expected = loss_and_gradients()
    compile_towers(model, BACKEND)
    loss, gradients = loss_and_gradients()
    assert torch.allclose(loss, expected_loss, atol=1e-6)
    for found, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("before", "after"))
    assert before.keys() == after.keys()


def test_titles_of_any_length_share_one_form(model):
    compile_towers(model.train(), "eager")
    torch._dynamo.utils.counters.clear()
    for length in (7, 9, 12, 5):
        model.encode_text(torch.randint(5, VOCAB_SIZE, (4, length)), torch.ones(4, length, dtype=torch.int64))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_hooks_adapters_and_averages_work_in_compiled_towers(model):
    add_adapters(model, rank=2)
    drop_patches(model, 0.5)
    average = WeightAverage(model, 0.5)
    compile_towers(model, BACKEND)
    pixel_values = make_inputs(4)["pixel_values"]
    with torch.no_grad():
        before = model.eval().encode_image(pixel_values).pooler_output
    output = model.train().encode_image(pixel_values)
    assert output.last_hidden_state.shape[1] == 1 + 8
    output.pooler_output.sum().backward()
    with torch.no_grad():
        average.update()
        for name, parameter in model.named_parameters():
            if "lora_" in name and name.startswith("vision_model."):
                assert parameter.grad is not None, name
                parameter.add_(0.1)
        after = model.eval().encode_image(pixel_values).pooler_output
        with average.in_use():
            averaged = model.encode_image(pixel_values).pooler_output
    assert torch.equal(averaged, before)
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("backend", [BACKEND, pytest.param("inductor", marks=wants_compiler)])
def test_the_same_random_state_gives_the_same_embeddings(backend, model):
    """Encoding without gradients first and with them later, as multi-stream accumulation does, is one function."""
    drop_patches(model.train(), 0.5)
    compile_towers(model, backend)
    pixel_values = make_inputs(4)["pixel_values"]
    state = torch.get_rng_state()
    with torch.no_grad():
        first = model.encode_image(pixel_values).pooler_output
    torch.set_rng_state(state)
    again = model.encode_image(pixel_values).pooler_output
    again.sum().backward()
    assert model.vision_model.embeddings.cls_token.grad.abs().sum() > 0
    other = model.encode_image(pixel_values).pooler_output
    assert torch.equal(first, again)
    assert not torch.allclose(again, other, atol=1e-3)


def in_streams(model, inputs, keep_graphs, seed=7):
    """Return loss and gradients of a step in streams of 4."""
    model.zero_grad()
    torch.manual_seed(seed)
    loss = MultiStreamAccumulation(model, stream_size=4, keep_graphs=keep_graphs)(inputs)
    named = getattr(model, "module", model).named_parameters()
    return loss, {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def compiled_rank(rank, port, folder):
    """Take a step of a compiled model with dropout, and one that is not compiled: two streams' worth on rank 0."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    rows = slice(0, 8) if rank == 0 else slice(8, 12)
    inputs = {name: value[rows] for name, value in make_inputs(12).items()}
    bare = build().train()
    results = [in_streams(torch.nn.parallel.DistributedDataParallel(bare), inputs, 0.0, seed=rank)]
    compile_towers(bare, BACKEND)
    model = torch.nn.parallel.DistributedDataParallel(bare)
    results += [in_streams(model, inputs, keep_graphs, seed=rank) for keep_graphs in (0.0, 1.0)]
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_train_compiled_towers_in_streams_with_dropout(tmp_path):
    """Encoded once or twice, the gradients are those of towers that are not compiled, under the same draw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(compiled_rank, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for (expected_loss, expected), *compiled in ranks:
        for loss, gradients in compiled:
            torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
            assert_same_gradients(gradients, expected)
    assert torch.equal(ranks[0][1][0], ranks[1][1][0])


@wants_compiler
@pytest.mark.parametrize("dropout", [False, True])
def test_inductor_trains_in_streams(dropout, model):
    """Inductor draws dropout of its own, the same in both passes; without dropout the numbers are the eager ones."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    inputs = make_inputs(8)
    eager = in_streams(model, inputs, 0.0)
    eager = eager[0], {name: gradient.clone() for name, gradient in eager[1].items()}
    compile_towers(model)
    twice = in_streams(model, inputs, 0.0)
    twice = twice[0], {name: gradient.clone() for name, gradient in twice[1].items()}
    once = in_streams(model, inputs, 1.0)
    # Fused kernels round differently where a graph is kept and where it is not: 1e-4 of the largest gradient.
    assert_same_gradients(once[1], twice[1], rtol=1e-4)
    if not dropout:
        assert_same_gradients(twice[1], eager[1], rtol=1e-4)


def test_errors_say_what_to_do(model):
    with pytest.raises(ValueError, match="`compile_backend` is 'nvcc'; torch has .*'inductor'"):
        compile_towers(model, "nvcc")
    compile_towers(model, "eager")
    with pytest.raises(ValueError, match="`keep_patches` comes before `compile`"):
        drop_patches(model, 0.5)
