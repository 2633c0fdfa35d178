"""The device itself: what it refuses, what it counts."""

import pytest
import torch
from fake_cuda import CudaTensor, MixedDevicesError, counted_waits, on_cpu


def test_tensors_of_both_devices_do_not_meet():
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert there.device == torch.device("cuda:0") and isinstance(there, CudaTensor)
    for mix in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: there.index_copy_(0, here.long(), there),
    ):
        with pytest.raises(MixedDevicesError, match="tensors of both devices"):
            mix()
    assert on_cpu(there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # the CPU's scalar may


def test_waits_are_counted():
    values = torch.tensor([1.0, 0.0, 2.0], device="cuda")
    waiting = {
        "value read": [values[0].item, lambda: bool(values[0] > 0), lambda: torch.equal(values, values)],
        "shape from values": [values.nonzero, lambda: values[values > 0], values.unique],
        "copy to the host": [values.cpu, values.tolist, lambda: torch.zeros(3).copy_(values)],
        "copy to the device": [lambda: torch.ones(3).to("cuda"), lambda: torch.tensor([1.0], device="cuda")],
        "copy of an index to the device": [lambda: values[torch.tensor([0, 2])]],
    }
    for kind, functions in waiting.items():
        for function in functions:
            with counted_waits() as waits:
                function()
            assert [found for found, _ in waits.elements()] == [kind]
    with counted_waits() as waits:
        torch.ones(3).to("cuda", non_blocking=True)
        torch.full((), 2.0, device="cuda") * values[values.argsort()].sum()
    assert not waits


def test_gradients_and_views():
    values = torch.tensor([3.0, 4.0], device="cuda", requires_grad=True)
    (values.square().sum().sqrt() + values[:1].sum()).backward()
    assert on_cpu(values.grad).tolist() == pytest.approx([1.6, 0.8])
    grown = torch.zeros(2, 2, device="cuda")
    grown[1].add_(1)
    assert on_cpu(grown).tolist() == [[0, 0], [1, 1]]
