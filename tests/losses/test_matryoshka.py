"""Embeddings that can be cut: the loss at several sizes, by hand, against a naive reference, and in streams."""

import math

import pytest
import torch
from conftest import assert_same_gradients, make_config, make_inputs, naive_loss, unit_rows
from huggingface_hub.errors import StrictDataclassError

from modeling_eclip import EClipModel, MultiStreamAccumulation, contrastive_loss, matryoshka_loss, truncate_embeds

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9])


def test_cut_vectors_have_unit_length_again():
    cut = truncate_embeds(torch.tensor([[0.6, 0.0, 0.8], [3 / 13, 4 / 13, 12 / 13], [0.0, 0.0, 1.0]]), 2)
    torch.testing.assert_close(cut, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))


def test_nothing_is_cut_where_nothing_is_asked_for():
    rows = unit_rows(3)
    assert truncate_embeds(rows, None) is rows and truncate_embeds(rows, 8) is rows
    for dim in (0, 9):
        with pytest.raises(ValueError, match=f"`dim` is {dim}.*8 values"):
            truncate_embeds(rows, dim)


def test_two_sizes_by_hand():
    """Two offers: all alike in the first value, so log 2 there; right in the second, so log(1 + 1/e) at full size."""
    half = math.sqrt(0.5)
    embeds = torch.tensor([[half, half], [half, -half]])
    scale = torch.tensor(0.0)
    expected = (3 * math.log(2) + 1 * math.log(1 + math.exp(-1))) / 4
    found = matryoshka_loss(lambda t, i: contrastive_loss(t, i, scale), (embeds, embeds), [1, 2], [3.0, 1.0])
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("mates", ["positive", "masked"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5]])
def test_loss_is_that_of_a_plain_loop(weights, mates):
    text, image, scale = unit_rows(6), unit_rows(6, seed=1), torch.tensor(2.0, dtype=torch.float64)
    dims = [2, 5, 8]

    def loss(t, i):
        return contrastive_loss(t, i, scale, CATALOG_IDS, mates=mates, catalog_weight=0.5)

    total = 0.0
    for dim, weight in zip(dims, weights or [1, 1, 1], strict=True):
        cut = [rows[:, :dim] / rows[:, :dim].norm(dim=1, keepdim=True) for rows in (text, image)]
        total += weight * naive_loss(*cut, scale, CATALOG_IDS, 0.5, mates).item()
    expected = total / sum(weights or [1, 1, 1])
    assert matryoshka_loss(loss, (text, image), dims, weights).item() == pytest.approx(expected, rel=1e-9)
    assert matryoshka_loss(loss, (text, image), None).item() == loss(text, image).item()


def test_weights_are_one_per_size():
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0]):
        with pytest.raises(ValueError, match="give a weight per size"):
            matryoshka_loss(lambda rows: rows.sum(), (unit_rows(2),), [2, 8], weights)


def test_streams_give_the_gradients_of_the_whole_batch():
    """The configuration's sizes are those of the model's own loss, and of the streams'."""
    torch.manual_seed(0)
    model = EClipModel(make_config(matryoshka_dims=[4, 16], matryoshka_weights=[2, 1])).eval().double()
    inputs = make_inputs(6)
    output = model(**inputs, catalog_ids=CATALOG_IDS, return_loss=True)
    output.loss.backward()
    embeds = output.text_embeds.detach(), output.image_embeds.detach()
    cut = [torch.nn.functional.normalize(rows[:, :4], dim=1) for rows in embeds]
    scale = model.logit_scale.detach()
    by_size = [naive_loss(*pair, scale, CATALOG_IDS, 1.0, "positive").item() for pair in (cut, embeds)]
    assert output.loss.item() == pytest.approx((2 * by_size[0] + by_size[1]) / 3, rel=1e-9)
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = MultiStreamAccumulation(model, stream_size=2, keep_graphs=0.5)(inputs, CATALOG_IDS)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-9)
    assert_same_gradients({name: parameter.grad for name, parameter in model.named_parameters()}, expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"matryoshka_dims": [4, 8]},
        {"matryoshka_dims": [4, 4, 16]},
        {"matryoshka_dims": [16, 32]},
        {"matryoshka_dims": [0, 16]},
        {"matryoshka_dims": []},
        {"matryoshka_weights": [1.0]},
        {"matryoshka_dims": [4, 16], "matryoshka_weights": [1.0]},
        {"matryoshka_dims": [4, 16], "matryoshka_weights": [0.0, 0.0]},
    ],
    ids=str,
)
def test_a_configuration_names_sizes_that_there_are(fields):
    with pytest.raises(StrictDataclassError) as error:
        make_config(**fields)
    assert "matryoshka" in str(error.value.__cause__)


def test_training_at_short_sizes_makes_them_better():
    """A linear map learns to keep pairs apart in two values only where the loss looks at two values."""

    def learn(dims):
        torch.manual_seed(0)
        shown = unit_rows(24, 16).float()
        maps = [torch.nn.Linear(16, 8, bias=False) for _ in range(2)]
        optimizer = torch.optim.Adam([layer.weight for layer in maps], lr=0.02)
        for _ in range(150):
            embeds = [torch.nn.functional.normalize(layer(shown), dim=1) for layer in maps]
            loss = matryoshka_loss(lambda t, i: contrastive_loss(t, i, torch.tensor(2.5)), embeds, dims)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            cut = [truncate_embeds(torch.nn.functional.normalize(layer(shown), dim=1), 2) for layer in maps]
            return contrastive_loss(*cut, torch.tensor(2.5)).item()

    assert learn([2, 8]) < learn(None) - 0.1
