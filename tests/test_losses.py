"""The loss: answers worked out by hand, and a naive float64 reference."""

import math

import pytest
import torch

from modeling_eclip import contrastive_loss

TREATMENTS = ("positive", "negative", "masked")


def naive_loss(text, image, logit_scale, catalog_ids, catalog_weight, mates):
    """Compute the loss of the definition, row by row and term by term."""
    size = len(text)
    scale = math.exp(float(logit_scale))
    similarity = [[scale * float(text[i] @ image[j]) for j in range(size)] for i in range(size)]

    def is_mate(i, j):
        return i != j and catalog_ids is not None and catalog_ids[i] >= 0 and catalog_ids[i] == catalog_ids[j]

    def cross_entropy(i, scores):
        masses = [
            1.0 if i == j else (catalog_weight if mates == "positive" and is_mate(i, j) else 0.0) for j in range(size)
        ]
        kept = [j for j in range(size) if not (mates == "masked" and is_mate(i, j))]
        log_sum = math.log(sum(math.exp(scores[j]) for j in kept))
        return -sum(masses[j] / sum(masses) * (scores[j] - log_sum) for j in kept)

    rows = [cross_entropy(i, similarity[i]) for i in range(size)]
    columns = [cross_entropy(j, [similarity[i][j] for i in range(size)]) for j in range(size)]
    return (sum(rows) + sum(columns)) / (2 * size)


def unit_rows(size, dim=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


@pytest.mark.parametrize("mates", TREATMENTS)
def test_zero_embeddings_give_log_of_the_batch_size(mates):
    zeros = torch.zeros(6, 4)
    assert contrastive_loss(zeros, zeros, torch.tensor(2.0), mates=mates).item() == pytest.approx(math.log(6))


def test_masked_mates_leave_the_denominator():
    zeros = torch.zeros(4, 2)
    ids = torch.tensor([7, 7, 7, -1])
    # The three of catalog 7 see themselves and the fourth: log 2; the fourth sees all four.
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert contrastive_loss(zeros, zeros, torch.tensor(0.0), ids, mates="masked").item() == pytest.approx(expected)


def test_two_mates_split_the_mass():
    # Titles and images of offers 0 and 1 point one way, of offer 2 the other; the scale is 1.
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ids = torch.tensor([5, 5, -1])
    log_sum = math.log(2 * math.e + 1)  # the row of offer 0 is (1, 1, 0)
    alone = math.log(2 + math.e) - 1  # the row of offer 2 is (0, 0, 1)
    # Half the mass on each of two similarities of 1: the target term is 1, as it is with all of it on one.
    expected = (2 * (log_sum - 1) + alone) / 3
    assert contrastive_loss(embeds, embeds, torch.tensor(0.0), ids).item() == pytest.approx(expected)
    # Turn offer 1's image round: its similarity to title 0 becomes -1, and half of the target follows.
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    rows = 2 * (math.log(math.e + 1 / math.e + 1) - 0.5 * (1 - 1)) + alone
    columns = (math.log(2 * math.e + 1) - 1) + (math.log(2 / math.e + 1) + 1) + alone
    loss = contrastive_loss(embeds, images, torch.tensor(0.0), ids)
    assert loss.item() == pytest.approx((rows + columns) / 6)


@pytest.mark.parametrize("mates", TREATMENTS)
@pytest.mark.parametrize("ids", [None, [-1] * 7, [3] * 7, [0, 0, 1, -1, 1, -1, 2], [9, -5, 9, -5, 9, 0, 0]])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_equals_the_definition(mates, ids, weight):
    text, image = unit_rows(7, seed=1), unit_rows(7, seed=2)
    catalog_ids = None if ids is None else torch.tensor(ids)
    scale = torch.tensor(1.5, dtype=torch.float64)
    loss = contrastive_loss(text, image, scale, catalog_ids, catalog_weight=weight, mates=mates)
    assert loss.item() == pytest.approx(naive_loss(text, image, scale, ids, weight, mates), rel=1e-12)


@pytest.mark.parametrize("mates", TREATMENTS)
def test_gradients_are_those_of_finite_differences(mates):
    text = unit_rows(5, dim=3, seed=1).requires_grad_()
    image = unit_rows(5, dim=3, seed=2).requires_grad_()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 0, -1, 1, 1])

    def loss(*tensors):
        return contrastive_loss(*tensors, ids, catalog_weight=0.5, mates=mates)

    assert torch.autograd.gradcheck(loss, (text, image, scale))


def test_weight_zero_is_plain_clip():
    text, image, ids = unit_rows(6, seed=3), unit_rows(6, seed=4), torch.tensor([1, 1, 2, 2, -1, -1])
    scale = torch.tensor(2.0)
    plain = contrastive_loss(text, image, scale)
    assert torch.equal(contrastive_loss(text, image, scale, ids, mates="negative"), plain)
    assert contrastive_loss(text, image, scale, ids, catalog_weight=0.0).item() == pytest.approx(plain.item())
    assert contrastive_loss(text, image, scale, ids).item() != pytest.approx(plain.item())


def test_order_of_rows_does_not_matter():
    text, image, ids = unit_rows(8, seed=5), unit_rows(8, seed=6), torch.tensor([1, 1, 2, 2, 2, -1, -1, 7])
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(2.0)
    loss = contrastive_loss(text, image, scale, ids)
    assert contrastive_loss(text[shuffled], image[shuffled], scale, ids[shuffled]).item() == pytest.approx(loss.item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_compared_in_float32(dtype):
    text, image = unit_rows(16, seed=1, dtype=dtype), unit_rows(16, seed=2, dtype=dtype)
    scale = torch.tensor(math.log(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(text, image, scale)
    assert loss.dtype == torch.float32
    exact = contrastive_loss(text.double(), image.double(), scale)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embeds": torch.zeros(3, 4)}, r"\(2, 4\) and \(3, 4\)"),
        ({"text_embeds": torch.zeros(0, 4), "image_embeds": torch.zeros(0, 4)}, "B at least 1"),
        ({"logit_scale": torch.zeros(2)}, "`logit_scale` is tensor"),
        ({"logit_scale": 1.0}, "`logit_scale` is 1.0"),
        ({"catalog_ids": torch.zeros(3, dtype=torch.int64)}, r"`catalog_ids` has shape \(3,\)"),
        ({"catalog_ids": torch.zeros(2)}, "`catalog_ids` has dtype torch.float32"),
        ({"mates": "friends"}, "`mates` is 'friends'"),
        ({"catalog_weight": 1.5}, "`catalog_weight` is 1.5"),
    ],
)
def test_errors_name_the_field_and_the_value(change, message):
    arguments = {"text_embeds": torch.zeros(2, 4), "image_embeds": torch.zeros(2, 4), "logit_scale": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**{**arguments, **change})
