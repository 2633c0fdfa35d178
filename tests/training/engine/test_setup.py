"""How a run may be launched, and what is refused before anything is read."""

import datetime
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from conftest import DATA, MODEL, ROOT, train_arguments

from training.engine import setup
from training.engine.contrastive_training import train
from training.engine.setup import open_accelerator, seed_rank


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", NotImplementedError, "FSDP shards the weights, and averages"),
        ("ACCELERATE_USE_DEEPSPEED", "true", NotImplementedError, "engine runs the backward pass and the optimizer"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", NotImplementedError, "its own layers"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", NotImplementedError, "a parallel mesh shards the weights"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", ValueError, "is '4', by which gradients would be divided"),
    ],
)
def test_what_cannot_work_is_refused_before_data_are_read(tmp_path, monkeypatch, name, value, error, message):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("training.engine.contrastive_training.load_split", None)  # calling it would be another error
    with pytest.raises(error, match=message):
        train(MODEL, DATA, train_arguments(tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        ("XLA", "xla", "XLA compiles a program for every shape"),
        ("MULTI_HPU", "hpu", "no float64"),
        ("NO", "hpu", "the device 'hpu'.* no float64"),
        ("NO", "mps", "the device 'mps'.* no float64"),
        ("MULTI_MLU", "mlu", "has not been tried on it"),
    ],
)
def test_devices_that_cannot_work_are_refused(monkeypatch, kind, device, message):
    class OnDevice(Accelerator):
        distributed_type = property(lambda self: setup.DistributedType(kind))
        device = property(lambda self: torch.device(self.device_type))
        device_type = device

    OnDevice.device_type = device
    monkeypatch.setattr(setup, "Accelerator", OnDevice)
    with pytest.raises(NotImplementedError, match=message):
        open_accelerator(cpu=True)


def test_accumulation_of_one_step_is_no_accumulation(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    assert open_accelerator(cpu=True).gradient_accumulation_steps == 1


def test_ranks_wait_for_hours(monkeypatch):
    given = {}
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")

    class Reached(Exception):
        pass

    def init_process_group(*arguments, **settings):
        given.update(settings)
        raise Reached

    monkeypatch.setattr(torch.distributed, "init_process_group", init_process_group)
    with pytest.raises(Reached):
        open_accelerator(cpu=True)
    assert given["timeout"] >= datetime.timedelta(hours=1)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="accelerate sees processes with a GPU")
def test_processes_that_accelerate_does_not_see_are_refused():
    """`torchrun` on CPUs without `ACCELERATE_USE_CPU`: each process would be a run of its own in the same folder."""
    code = (
        "import sys; sys.path.insert(0, '.'); from training.engine.setup import open_accelerator; open_accelerator()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python"]
    result = subprocess.run(
        [sys.executable, *launch, sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "2 processes were started" in result.stderr and "ACCELERATE_USE_CPU=true torchrun" in result.stderr


def test_processes_that_accelerate_does_not_start_are_told_of():
    """`accelerate launch --cpu --num_processes 2` starts one process."""
    code = (
        "import sys; sys.path.insert(0, '.'); from training.engine.setup import open_accelerator;"
        "print('ranks:', open_accelerator().num_processes)"
    )
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--no_python", "--num_processes"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "ACCELERATE_"))
    }
    printed = {}
    for number in ("1", "2"):
        result = subprocess.run(
            [sys.executable, *launch, number, sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert "ranks: 1" in result.stdout, result.stderr
        printed[number] = result.stderr
    assert "this run has one rank" in printed["2"] and "torchrun --nproc_per_node" in printed["2"]
    assert "this run has one rank" not in printed["1"]


def test_ranks_draw_apart():
    drawn = []
    for seed, rank in ((0, 0), (0, 1), (1, 0), (0, 0)):
        seed_rank(seed, rank)
        drawn.append(torch.rand(4))
    torch.manual_seed(0)
    drawn.append(torch.rand(4))  # as initial weights are
    assert torch.equal(drawn[0], drawn[3])
    different = [drawn[0], drawn[1], drawn[2], drawn[4]]
    assert len({tuple(numbers.tolist()) for numbers in different}) == 4
