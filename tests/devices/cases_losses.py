"""Losses on the device: those of the CPU, and no mix of devices."""

import pytest
import torch
from conftest import make_config, unit_rows
from fake_cuda import MixedDevicesError, counted_waits, on_cpu

from modeling_eclip import contrastive_loss, dense_contrastive_loss, mate_contrast_loss
from modeling_eclip.losses.objective import ContrastiveObjective

SIZE = 24
CATALOG_IDS = torch.arange(SIZE) % 9 - 1


def with_gradients(function, device, scale=14.0, ids_on="cpu"):
    """Return a loss and the gradients of titles, images and the scale, on the CPU."""
    text = unit_rows(SIZE, 16, seed=0, dtype=torch.float32)
    image = torch.nn.functional.normalize(text + unit_rows(SIZE, 16, seed=1, dtype=torch.float32) / 2)
    leaves = [leaf.to(device).requires_grad_() for leaf in (text, image, torch.tensor(scale).log())]
    loss = function(*leaves, CATALOG_IDS.to(ids_on))
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def assert_the_same(function, **arguments):
    loss, gradients = on_cpu(with_gradients(function, "cuda", **arguments))
    expected_loss, expected = with_gradients(function, "cpu", **arguments | {"ids_on": "cpu"})
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(gradients, expected, strict=True):
        # The CPU computes so small a loss in float64, the device in float32.
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * max(wanted.abs().max().item(), 1e-2))


@pytest.mark.parametrize("scale", [14.0, 100.0])  # a temperature as it starts, and as it ends
@pytest.mark.parametrize("tile_size", [None, 7])
@pytest.mark.parametrize("mates", ["positive", "negative", "masked"])
def test_contrastive(mates, tile_size, scale):
    def loss(text, image, logit_scale, ids):
        return contrastive_loss(text, image, logit_scale, ids, mates=mates, tile_size=tile_size)

    assert_the_same(loss, scale=scale, ids_on="cuda" if tile_size else "cpu")


@pytest.mark.parametrize("mates", ["positive", "negative", "masked"])
def test_dense(mates):
    assert_the_same(lambda *arguments: dense_contrastive_loss(*arguments, mates=mates))


@pytest.mark.parametrize("loss_function", [contrastive_loss, dense_contrastive_loss])
@pytest.mark.parametrize("mates", ["positive", "negative", "masked"])
def test_sigmoid(mates, loss_function):
    def loss(text, image, logit_scale, ids):
        bias = torch.full_like(logit_scale, -10.0)
        return loss_function(text, image, logit_scale, ids, logit_bias=bias, mates=mates)

    assert_the_same(loss)


def test_among_mates():
    assert_the_same(lambda text, image, logit_scale, ids: mate_contrast_loss(text, logit_scale, ids, tile_size=9))


def test_all_terms_at_several_sizes():
    config = make_config(matryoshka_dims=[4, 16], matryoshka_weights=[1.0, 2.0])
    assert_the_same(ContrastiveObjective(config, mate_contrast_weight=0.5))


def test_embeddings_of_both_devices_are_refused():
    rows = unit_rows(SIZE, 16, dtype=torch.float32)
    with pytest.raises(MixedDevicesError):
        contrastive_loss(rows.to("cuda"), rows, torch.tensor(2.0, device="cuda"), CATALOG_IDS)


@pytest.mark.parametrize(("ids_on", "scale", "expected"), [("cpu", 14.0, 1), ("cuda", 14.0, 2), ("cpu", 100.0, 3)])
def test_waits_of_the_loss(ids_on, scale, expected):
    """One, for whether the exponentials fit into float32 as they are; two for each tile where they might not."""
    with counted_waits() as waits:
        rows = unit_rows(SIZE, 16, dtype=torch.float32).to("cuda", non_blocking=True).requires_grad_()
        logit_scale = torch.full((), scale, device="cuda").log()
        ids = CATALOG_IDS.to(ids_on, non_blocking=True)
        contrastive_loss(rows, rows, logit_scale, ids).backward()
    assert waits.total() == expected, waits
