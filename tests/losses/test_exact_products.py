"""The loss's products are in float32 where those of the towers are not, and the towers' switch is left as it was."""

import threading

import pytest
import torch
from conftest import unit_rows
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip import contrastive_loss
from modeling_eclip.losses import sweep
from modeling_eclip.losses.exact_products import _EXACT, _product_precisions, _set_product_precisions, exact_products

FAST = ("tf32", "tf32")


@pytest.fixture(autouse=True)
def fast_outside():
    """Let products be inexact, as a training with TF32 does."""
    before = _product_precisions()
    _set_product_precisions(FAST)
    yield
    _set_product_precisions(before)


def assert_precision(expected):
    assert _product_precisions() == expected


class Products(TorchDispatchMode):
    """Keeps, of every matrix product, the dtype and what the switches say."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_, torch.ops.aten.addmm):
            self.found.append((args[-1].dtype, _product_precisions()))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [False, True])
def test_both_sweeps_of_the_loss_are_exact(autocast, monkeypatch):
    monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)  # as on a GPU
    text, image = (unit_rows(20, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    with Products() as products, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = contrastive_loss(text, image, torch.tensor(3.0), tile_size=8)
        in_forward = len(products.found)
        loss.backward()
    # 3 x 3 tiles: a product each in the first sweep; in the second that one again, and one for each modality
    assert in_forward == 9
    assert len(products.found) == 9 + 27
    assert set(products.found) == {(torch.float32, _EXACT)}
    assert_precision(FAST)


def test_an_error_inside_puts_the_switch_back():
    with pytest.raises(RuntimeError, match="inside"), exact_products("cpu"):
        assert_precision(_EXACT)
        raise RuntimeError("inside")
    assert_precision(FAST)


def test_a_thread_that_leaves_first_takes_nothing_from_another():
    """Threads that enter one after the other and leave in the same order would restore what the first one set."""
    is_inside, may_leave = threading.Event(), threading.Event()

    def enter():
        with exact_products("cpu"):
            is_inside.set()
            may_leave.wait(10)

    first = threading.Thread(target=enter)
    first.start()
    assert is_inside.wait(10)
    with exact_products("cpu"):
        may_leave.set()
        first.join()
        assert_precision(_EXACT)
        with exact_products("cpu"):
            assert_precision(_EXACT)
        assert_precision(_EXACT)
    assert_precision(FAST)
