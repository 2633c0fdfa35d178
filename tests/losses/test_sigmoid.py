"""The sigmoid loss, tiled and dense: answers worked out by hand, a naive float64 loop, and each other."""

import math

import pytest
import torch
from conftest import naive_sigmoid_loss, naive_sigmoid_mate_loss, unit_rows
from test_tiles import (
    BATCHES,
    CATALOGS,
    MODES,
    PARTIAL_IDS,
    PARTS,
    LargestTensor,
    both_forms,
    gradients_of,
    relative_errors,
)

from modeling_eclip import contrastive_loss, dense_contrastive_loss, mate_contrast_loss
from modeling_eclip.losses import sweep


def scalars(inverse_temperature, bias, dtype=torch.float64):
    """Return scale and bias."""
    return torch.tensor(math.log(inverse_temperature), dtype=dtype), torch.tensor(bias, dtype=dtype)


def loss_of(loss_function=contrastive_loss, ids=None, **settings):
    """Return a loss of titles, images, scale and bias."""
    return lambda text, image, scale, bias: loss_function(text, image, scale, ids, logit_bias=bias, **settings)


@both_forms
def test_a_row_has_a_sigmoid_for_each_pair(loss_function):
    zeros, ids = torch.zeros(4, 2), torch.tensor([7, 7, 7, -1])
    given = torch.tensor(2.0), ids
    # Every logit is the bias, 0: log 2 for each of a row's four pairs; masked, three rows have two and one has four.
    for mates, expected in (("negative", 4), ("positive", 4), ("masked", (3 * 2 + 4) / 4)):
        loss = loss_function(zeros, zeros, *given, logit_bias=torch.tensor(0.0), mates=mates)
        assert loss.item() == pytest.approx(expected * math.log(2))
    # With a bias of 3 a positive has log(1 + exp(-3)), a negative log(1 + exp(3)): 4 and 12 of them, or 10 and 6.
    yes, no = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    for mates, expected in (("negative", 4 * yes + 12 * no), ("positive", 10 * yes + 6 * no)):
        loss = loss_function(zeros, zeros, *given, logit_bias=torch.tensor(3.0), mates=mates)
        assert loss.item() == pytest.approx(expected / 4)


def test_mates_of_one_modality_by_hand():
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Offers 0 and 1 are mates: each sees the other at 1, a positive, and the third at 0. The third has no mate.
    loss = mate_contrast_loss(embeds, torch.tensor(0.0), torch.tensor([5, 5, -1]), logit_bias=torch.tensor(0.5))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.5)) + math.log1p(math.exp(0.5)))
    alone = mate_contrast_loss(embeds, torch.tensor(0.0), torch.tensor([5, 6, -1]), logit_bias=torch.tensor(0.5))
    assert alone.item() == 0


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("ids", [None, [-1] * 7, [3] * 7, [0, 0, 1, -1, 1, -1, 2], [9, -5, 9, -5, 9, 0, 0]])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("tile_size", [3, None])
def test_equals_the_definition(mates, ids, weight, tile_size):
    given = unit_rows(7, seed=1), unit_rows(7, seed=2), *scalars(4.5, -1.5)
    catalog_ids = None if ids is None else torch.tensor(ids)
    settings = {"ids": catalog_ids, "catalog_weight": weight, "mates": mates}
    exact = gradients_of(lambda *g: naive_sigmoid_loss(*g, ids, weight, mates), *given)
    tiled = gradients_of(loss_of(**settings, tile_size=tile_size), *given)
    dense = gradients_of(loss_of(dense_contrastive_loss, **settings), *given)
    for mine, plain, true in zip(tiled, dense, exact, strict=True):  # the loss, and gradients by all four
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(plain, true, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mates", MODES)
def test_gradients_are_those_of_finite_differences(mates):
    given = [unit_rows(5, dim=3, seed=1), unit_rows(5, dim=3, seed=2), *scalars(3.0, -1.0)]
    given = [tensor.requires_grad_() for tensor in given]
    ids = torch.tensor([0, 0, -1, 1, 1])
    assert torch.autograd.gradcheck(loss_of(ids=ids, catalog_weight=0.5, mates=mates, tile_size=2), given)
    text, _, *rest = given
    assert torch.autograd.gradcheck(
        lambda embeds, scale, bias: mate_contrast_loss(embeds, scale, ids, logit_bias=bias), (text, *rest)
    )


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("catalogs", CATALOGS)
@pytest.mark.parametrize("catalog_weight", [1.0, 0.7])
@pytest.mark.parametrize(("inverse_temperature", "bias"), [(10.0, -10.0), (1 / 0.07, 0.0), (100.0, -60.0)])
def test_tiles_in_float32_give_the_exact_gradients(
    mates, catalogs, catalog_weight, inverse_temperature, bias, monkeypatch
):
    monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
    text = unit_rows(150, dim=32, seed=1, dtype=torch.float32)
    image = torch.nn.functional.normalize(text + 0.8 * unit_rows(150, dim=32, seed=2, dtype=torch.float32), dim=1)
    given = text, image, *scalars(inverse_temperature, bias, torch.float32)
    settings = {"ids": CATALOGS[catalogs], "catalog_weight": catalog_weight, "mates": mates}
    ours = gradients_of(loss_of(**settings, tile_size=32), *given)
    assert all(gradient.dtype == torch.float32 for gradient in ours)
    exact = gradients_of(loss_of(dense_contrastive_loss, **settings), *(tensor.double() for tensor in given))
    # A logit is rounded to 1e-7 of its size, and an exponential by as much as the logit: of 100, by 1e-5.
    assert max(relative_errors(ours, exact)) < (2e-6 if inverse_temperature < 100 else 2e-5)


def test_a_learned_pair_keeps_its_small_gradient(monkeypatch):
    """Where the sigmoid is 1 in float32, the gradient is still the small number that it is: of own pairs and mates."""
    monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
    embeds, ids = torch.eye(8)[[0, 0, 2, 3]], torch.tensor([5, 5, -1, -1])
    ours = gradients_of(loss_of(ids=ids), embeds, embeds, *scalars(80.0, -40.0, torch.float32))
    # Four own pairs and two of mates at 80 - 40, ten others at -40: each has log(1 + exp(-40)).
    assert ours[0].item() == pytest.approx(16 / 4 * math.exp(-40), rel=1e-4)
    assert ours[3].item() == pytest.approx(-80 * 6 / 4 * math.exp(-40), rel=1e-4)
    assert ours[4].item() == pytest.approx((10 - 6) / 4 * math.exp(-40), rel=1e-4)


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("ids", [PARTIAL_IDS, None], ids=["catalogs", "no ids"])
@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_offers_that_lack_a_side(mates, parts, ids, weight):
    """What is missing is in no pair, what is there in one with each of the other modality; placeholders are idle."""
    has_text, has_image = PARTS[parts]
    text, image = unit_rows(14, seed=1), unit_rows(14, seed=2)
    exact = gradients_of(
        lambda *g: naive_sigmoid_loss(*g, ids, weight, mates, has_text, has_image) + 0 * sum(x.sum() for x in g),
        text,
        image,
        *scalars(8.0, -2.0),
    )
    settings = {"catalog_weight": weight, "mates": mates, "has_text": has_text, "has_image": has_image}
    ours = gradients_of(
        loss_of(ids=ids, tile_size=4, **settings),
        torch.where(has_text[:, None], text, math.nan),
        torch.where(has_image[:, None], image, math.nan),
        *scalars(8.0, -2.0),
    )
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-13)
    assert (ours[0] != 0) == (parts not in ("no image", "nothing"))


@pytest.mark.parametrize("ids", BATCHES.values(), ids=BATCHES)
def test_contrast_between_mates_is_that_of_the_definition(ids):
    given = unit_rows(40, seed=1), *scalars(9.0, -3.0)
    ours = gradients_of(
        lambda rows, scale, bias: (
            mate_contrast_loss(rows, scale, ids, logit_bias=bias, tile_size=7) + 0 * scale * bias
        ),
        *given,
    )
    exact = gradients_of(lambda *g: naive_sigmoid_mate_loss(*g, ids) + 0 * sum(x.sum() for x in g), *given)
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mates", MODES)
def test_no_tensor_of_all_pairs_is_held(mates):
    text, image = unit_rows(600, seed=1).requires_grad_(), unit_rows(600, seed=2).requires_grad_()
    ids, bias = torch.arange(600) // 3, torch.tensor(-1.0, requires_grad=True)
    with LargestTensor() as largest:
        settings = {"logit_bias": bias, "tile_size": 50}
        contrastive_loss(text, image, torch.tensor(1.0), ids, mates=mates, **settings).backward()
        mate_contrast_loss(text, torch.tensor(1.0), ids, **settings).backward()
    assert largest.size <= 600 * 8  # the embeddings themselves; a tile has 2,500 numbers, all pairs are 360,000


@both_forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_compared_in_float32(loss_function, dtype):
    text, image = unit_rows(16, seed=1, dtype=dtype), unit_rows(16, seed=2, dtype=dtype)
    scale, bias = scalars(100.0, -10.0, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_function(text, image, scale, logit_bias=bias)
    assert loss.dtype == torch.float32
    exact = contrastive_loss(text.double(), image.double(), scale, logit_bias=bias)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("bias", [1.0, torch.zeros(2)])
def test_errors_name_the_field_and_the_value(bias):
    rows = torch.zeros(2, 4)
    for loss_function, given in ((contrastive_loss, (rows, rows)), (mate_contrast_loss, (rows,))):
        with pytest.raises(ValueError, match="`logit_bias` is (1.0|tensor)"):
            loss_function(*given, torch.tensor(0.0), torch.tensor([1, 1]), logit_bias=bias)
