"""The loss: answers worked out by hand, and a naive float64 reference."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip import contrastive_loss, mate_contrast_loss, tiles_eclip

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


def dense_loss(text, image, logit_scale, catalog_ids, catalog_weight, mates):
    """Compute the loss of the definition in float64 with a matrix of all pairs, for its gradients."""
    logits = logit_scale.exp() * text @ image.T
    own = torch.eye(len(text), dtype=torch.bool)
    are_mates = (catalog_ids[:, None] == catalog_ids) & (catalog_ids >= 0)[:, None] & ~own
    masses = own.double() + (catalog_weight * are_mates if mates == "positive" else 0)
    masses = masses / masses.sum(1, keepdim=True)
    counted = logits.masked_fill(are_mates, -math.inf) if mates == "masked" else logits
    rows = counted.logsumexp(1) - (masses * logits).sum(1)
    columns = counted.logsumexp(0) - (masses * logits.T).sum(1)
    return (rows.mean() + columns.mean()) / 2


def gradients_of(loss, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def relative_errors(ours, exact):
    return [((mine.double() - true).norm() / true.norm()).item() for mine, true in zip(ours, exact, strict=True)]


CATALOGS = {
    "all alone": torch.arange(150),
    "null ids": torch.full((150,), -1),
    "all one catalog": torch.zeros(150, dtype=torch.int64),
    "mixed": torch.randint(-3, 40, (150,), generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("mates", TREATMENTS)
@pytest.mark.parametrize("catalogs", CATALOGS)
@pytest.mark.parametrize("tile_size", [32, None])
@pytest.mark.parametrize("computed_in", ["float32", "float64"])
@pytest.mark.parametrize("inverse_temperature", [1.0, 1 / 0.07, 100.0])
def test_tiles_give_the_exact_gradients(mates, catalogs, tile_size, computed_in, inverse_temperature, monkeypatch):
    if computed_in == "float32":
        monkeypatch.setattr(tiles_eclip, "_CPU_FLOAT64_LIMIT", 0)
    ids = CATALOGS[catalogs]
    text = unit_rows(150, dim=32, seed=1, dtype=torch.float32)
    image = torch.nn.functional.normalize(text + 0.8 * unit_rows(150, dim=32, seed=2, dtype=torch.float32), dim=1)
    scale = torch.tensor(math.log(inverse_temperature))
    ours = gradients_of(
        lambda *given: contrastive_loss(*given, ids, catalog_weight=0.7, mates=mates, tile_size=tile_size),
        text,
        image,
        scale,
    )
    assert all(gradient.dtype == torch.float32 for gradient in ours)
    if catalogs == "all one catalog" and mates == "masked":  # each offer is compared with itself alone
        assert not any(gradient.any() for gradient in ours)
        return
    exact = gradients_of(
        lambda *given: dense_loss(*given, ids, 0.7, mates), text.double(), image.double(), scale.double()
    )
    # At a scale of 100 these offers are all found, and the gradients are of the order of 1e-11.
    all_but_vanishing = computed_in == "float32" and inverse_temperature == 100
    assert max(relative_errors(ours, exact)) < (1e-5 if all_but_vanishing else 1e-6)


@pytest.mark.parametrize("mates", TREATMENTS)
def test_similarities_far_apart_keep_their_digits(mates, monkeypatch):
    """At a scale of 1,000 the tiles hold similarities whose exponentials float32 cannot hold side by side."""
    monkeypatch.setattr(tiles_eclip, "_CPU_FLOAT64_LIMIT", 0)
    text, image = unit_rows(20, dim=4, seed=1, dtype=torch.float32), unit_rows(20, dim=4, seed=2, dtype=torch.float32)
    ids, scale = CATALOGS["mixed"][:20], torch.tensor(math.log(1000.0))
    ours = gradients_of(lambda *given: contrastive_loss(*given, ids, mates=mates, tile_size=8), text, image, scale)
    exact = gradients_of(
        lambda *given: dense_loss(*given, ids, 1.0, mates), text.double(), image.double(), scale.double()
    )
    assert max(relative_errors(ours, exact)) < 1e-4


def test_a_learned_pair_keeps_its_small_gradient(monkeypatch):
    """Where the softmax is 1 in float32, the gradient is still the small number that it is."""
    monkeypatch.setattr(tiles_eclip, "_CPU_FLOAT64_LIMIT", 0)
    embeds, scale = torch.eye(8), torch.tensor(math.log(40.0))
    ids = torch.full((8,), -1)
    ours = gradients_of(lambda *given: contrastive_loss(*given, ids), embeds, embeds, scale)
    # Each row has one similarity of 40 and seven of 0: the loss is log(1 + 7 exp(-40)).
    assert ours[0].item() == pytest.approx(7 * math.exp(-40), rel=1e-5)
    assert ours[3].item() == pytest.approx(-40 * 7 * math.exp(-40), rel=1e-5)


class LargestTensor(TorchDispatchMode):
    """Records how many numbers the largest tensor holds that any operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("mates", TREATMENTS)
def test_no_tensor_of_all_pairs_is_held(mates):
    text, image = unit_rows(600, seed=1).requires_grad_(), unit_rows(600, seed=2).requires_grad_()
    with LargestTensor() as largest:
        contrastive_loss(text, image, torch.tensor(1.0), torch.arange(600) // 3, mates=mates, tile_size=50).backward()
        mate_contrast_loss(text, torch.tensor(1.0), torch.arange(600) // 3, tile_size=50).backward()
    assert largest.size <= 600 * 8  # the embeddings themselves; a tile has 2,500 numbers, all pairs are 360,000


def test_mates_of_one_modality_are_found_among_the_others():
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Offers 0 and 1 are mates: each sees the other at 1 and the third at 0. The third has no mate.
    loss = mate_contrast_loss(embeds, torch.tensor(0.0), torch.tensor([5, 5, -1]))
    assert loss.item() == pytest.approx(math.log(math.e + 1) - 1)
    alone = torch.tensor([5, 6, -1])
    assert mate_contrast_loss(embeds.requires_grad_(), torch.tensor(0.0), alone).item() == 0
    mate_contrast_loss(embeds, torch.tensor(0.0), alone).backward()
    assert not embeds.grad.any()


def test_mate_contrast_has_the_gradients_of_its_definition():
    ids, embeds, scale = CATALOGS["mixed"], unit_rows(150, dim=16, seed=1), torch.tensor(2.0, dtype=torch.float64)

    def dense(embeds, scale):
        own = torch.eye(150, dtype=torch.bool)
        are_mates = (ids[:, None] == ids) & (ids >= 0)[:, None] & ~own
        has_mates = are_mates.any(1)
        logits = scale.exp() * embeds @ embeds.T
        agreement = (logits * are_mates).sum(1)[has_mates] / are_mates.sum(1)[has_mates]
        return (logits.masked_fill(own, -math.inf).logsumexp(1)[has_mates] - agreement).mean()

    ours = gradients_of(lambda *given: mate_contrast_loss(*given, ids, tile_size=64), embeds, scale)
    assert max(relative_errors(ours, gradients_of(dense, embeds, scale))) < 1e-12


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
        ({"text_embeds": torch.zeros(0, 4), "image_embeds": torch.zeros(0, 4)}, "holds no offers"),
        ({"logit_scale": torch.zeros(2)}, "`logit_scale` is tensor"),
        ({"logit_scale": 1.0}, "`logit_scale` is 1.0"),
        ({"catalog_ids": torch.zeros(3, dtype=torch.int64)}, r"`catalog_ids` has shape \(3,\)"),
        ({"catalog_ids": torch.zeros(2)}, "`catalog_ids` has dtype torch.float32"),
        ({"mates": "friends"}, "`mates` is 'friends'"),
        ({"catalog_weight": 1.5}, "`catalog_weight` is 1.5"),
        ({"tile_size": 0}, "`tile_size` is 0"),
    ],
)
def test_errors_name_the_field_and_the_value(change, message):
    arguments = {"text_embeds": torch.zeros(2, 4), "image_embeds": torch.zeros(2, 4), "logit_scale": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**{**arguments, **change})
