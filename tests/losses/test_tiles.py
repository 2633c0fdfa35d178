"""The losses, tiled and dense: answers worked out by hand, a naive float64 loop, and each other."""

import math

import pytest
import torch
from conftest import naive_loss, unit_rows
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip import contrastive_loss, dense_contrastive_loss, mate_contrast_loss
from modeling_eclip.clustering_eclip import _mate_loss
from modeling_eclip.losses import sweep, tiles

MODES = ("positive", "negative", "masked")

both_forms = pytest.mark.parametrize("loss_function", [contrastive_loss, dense_contrastive_loss])
# That of the clustering head is the dense form.
both_mate_losses = pytest.mark.parametrize("loss_function", [mate_contrast_loss, _mate_loss])


@both_forms
@pytest.mark.parametrize("mates", MODES)
def test_zero_embeddings_give_log_of_the_batch_size(loss_function, mates):
    zeros = torch.zeros(6, 4)
    assert loss_function(zeros, zeros, torch.tensor(2.0), mates=mates).item() == pytest.approx(math.log(6))


@both_mate_losses
def test_zero_embeddings_give_log_of_the_other_rows(loss_function):
    ids = torch.tensor([3, 3, 3, -1, 8, -1])
    assert loss_function(torch.zeros(6, 4), torch.tensor(2.0), ids).item() == pytest.approx(math.log(5))


@both_forms
def test_masked_mates_leave_the_denominator(loss_function):
    zeros = torch.zeros(4, 2)
    ids = torch.tensor([7, 7, 7, -1])
    # The three of catalog 7 see themselves and the fourth: log 2; the fourth sees all four.
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert loss_function(zeros, zeros, torch.tensor(0.0), ids, mates="masked").item() == pytest.approx(expected)


@both_forms
def test_two_mates_split_the_mass(loss_function):
    # Titles and images of offers 0 and 1 point one way, of offer 2 the other; the scale is 1.
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ids = torch.tensor([5, 5, -1])
    log_sum = math.log(2 * math.e + 1)  # the row of offer 0 is (1, 1, 0)
    alone = math.log(2 + math.e) - 1  # the row of offer 2 is (0, 0, 1)
    # Half the mass on each of two similarities of 1: the target term is 1, as it is with all of it on one.
    expected = (2 * (log_sum - 1) + alone) / 3
    assert loss_function(embeds, embeds, torch.tensor(0.0), ids).item() == pytest.approx(expected)
    # Turn offer 1's image round: its similarity to title 0 becomes -1, and half of the target follows.
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    rows = 2 * (math.log(math.e + 1 / math.e + 1) - 0.5 * (1 - 1)) + alone
    columns = (math.log(2 * math.e + 1) - 1) + (math.log(2 / math.e + 1) + 1) + alone
    loss = loss_function(embeds, images, torch.tensor(0.0), ids)
    assert loss.item() == pytest.approx((rows + columns) / 6)


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("ids", [None, [-1] * 7, [3] * 7, [0, 0, 1, -1, 1, -1, 2], [9, -5, 9, -5, 9, 0, 0]])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@both_forms
def test_equals_the_definition(loss_function, mates, ids, weight):
    text, image = unit_rows(7, seed=1), unit_rows(7, seed=2)
    catalog_ids = None if ids is None else torch.tensor(ids)
    scale = torch.tensor(1.5, dtype=torch.float64)
    loss = loss_function(text, image, scale, catalog_ids, catalog_weight=weight, mates=mates)
    assert loss.item() == pytest.approx(naive_loss(text, image, scale, ids, weight, mates).item(), rel=1e-12)


@pytest.mark.parametrize("mates", MODES)
def test_gradients_are_those_of_finite_differences(mates):
    text = unit_rows(5, dim=3, seed=1).requires_grad_()
    image = unit_rows(5, dim=3, seed=2).requires_grad_()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 0, -1, 1, 1])

    def loss(*tensors):
        return contrastive_loss(*tensors, ids, catalog_weight=0.5, mates=mates)

    assert torch.autograd.gradcheck(loss, (text, image, scale))


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


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("catalogs", CATALOGS)
@pytest.mark.parametrize("tile_size", [32, None])
@pytest.mark.parametrize("computed_in", ["float32", "float64"])
@pytest.mark.parametrize("inverse_temperature", [1.0, 1 / 0.07, 100.0])
def test_tiles_give_the_exact_gradients(mates, catalogs, tile_size, computed_in, inverse_temperature, monkeypatch):
    if computed_in == "float32":
        monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
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
        lambda *given: dense_contrastive_loss(*given, ids, catalog_weight=0.7, mates=mates),
        text.double(),
        image.double(),
        scale.double(),
    )
    # At a scale of 100 these offers are all found, and the gradients are of the order of 1e-11.
    all_but_vanishing = computed_in == "float32" and inverse_temperature == 100
    assert max(relative_errors(ours, exact)) < (1e-5 if all_but_vanishing else 1e-6)


@pytest.mark.parametrize("mates", MODES)
def test_similarities_far_apart_keep_their_digits(mates, monkeypatch):
    """At a scale of 1,000 the tiles hold similarities whose exponentials float32 cannot hold side by side."""
    monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
    text, image = unit_rows(20, dim=4, seed=1, dtype=torch.float32), unit_rows(20, dim=4, seed=2, dtype=torch.float32)
    ids, scale = CATALOGS["mixed"][:20], torch.tensor(math.log(1000.0))
    ours = gradients_of(lambda *given: contrastive_loss(*given, ids, mates=mates, tile_size=8), text, image, scale)
    exact = gradients_of(
        lambda *given: dense_contrastive_loss(*given, ids, mates=mates), text.double(), image.double(), scale.double()
    )
    assert max(relative_errors(ours, exact)) < 1e-4


def test_a_learned_pair_keeps_its_small_gradient(monkeypatch):
    """Where the softmax is 1 in float32, the gradient is still the small number that it is."""
    monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
    embeds, scale = torch.eye(8), torch.tensor(math.log(40.0))
    ids = torch.full((8,), -1)
    ours = gradients_of(lambda *given: contrastive_loss(*given, ids), embeds, embeds, scale)
    # Each row has one similarity of 40 and seven of 0: the loss is log(1 + 7 exp(-40)).
    assert ours[0].item() == pytest.approx(7 * math.exp(-40), rel=1e-5)
    assert ours[3].item() == pytest.approx(-40 * 7 * math.exp(-40), rel=1e-5)


# Catalogs of 2, 3, 5 and 20 offers, and rows alone: by an id of their own or by a negative one, which is no catalog.
SIZES = torch.tensor([0] * 2 + [1] * 3 + [2] * 5 + [3] * 20 + [4, 5, 6] + [-1] * 4 + [-2] * 3)
SIZES = SIZES[torch.randperm(40, generator=torch.Generator().manual_seed(4))]
BATCHES = {"several sizes": SIZES, "rows alone": SIZES.clamp(max=-1), "one catalog": torch.zeros_like(SIZES)}


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("catalog_weight", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("ids", [*BATCHES.values(), None], ids=[*BATCHES, "no ids"])
@pytest.mark.parametrize("tile_size", [7, None])
def test_tiled_and_dense_give_the_same_loss_and_gradients(mates, catalog_weight, ids, tile_size):
    given = unit_rows(40, seed=1), unit_rows(40, seed=2), torch.tensor(2.5, dtype=torch.float64)
    settings = {"catalog_weight": catalog_weight, "mates": mates}
    tiled = gradients_of(lambda *g: contrastive_loss(*g, ids, tile_size=tile_size, **settings), *given)
    dense = gradients_of(lambda *g: dense_contrastive_loss(*g, ids, **settings), *given)
    for mine, theirs in zip(tiled, dense, strict=True):  # the loss, and its gradients by title, image and scale
        assert mine.dtype == theirs.dtype == torch.float64
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def naive_mate_loss(embeds, logit_scale, catalog_ids):
    """Compute the contrast between catalog mates of one modality, row by row."""
    scale, rows = math.exp(float(logit_scale)), range(len(embeds))
    losses = []
    for i in rows:
        mates = [j for j in rows if i != j and catalog_ids[i] >= 0 and catalog_ids[i] == catalog_ids[j]]
        scores = [scale * float(embeds[i] @ embeds[j]) for j in rows]
        log_sum = math.log(sum(math.exp(scores[j]) for j in rows if j != i))
        losses += [sum(log_sum - scores[j] for j in mates) / len(mates)] if mates else []
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("ids", BATCHES.values(), ids=BATCHES)
def test_tiled_and_dense_contrast_between_mates_are_the_same(ids):
    given = unit_rows(40, seed=1), torch.tensor(2.5, dtype=torch.float64)
    tiled = gradients_of(lambda *g: mate_contrast_loss(*g, ids, tile_size=7) + 0 * g[1], *given)
    dense = gradients_of(lambda *g: _mate_loss(*g, ids), *given)
    assert tiled[0].item() == pytest.approx(naive_mate_loss(*given, ids), rel=1e-12)
    for mine, theirs in zip(tiled, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


# Of catalogs 0 to 3: all sides; titles alone and images alone; titles alone; one of each. Then rows that are alone.
PARTIAL_IDS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, -1, -1, -1, 4])
HAS_TEXT = torch.tensor([1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1]).bool()
HAS_IMAGE = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1]).bool()
PARTS = {
    "mixed": (HAS_TEXT, HAS_IMAGE),
    "titles of all": (torch.ones(14, dtype=torch.bool), HAS_IMAGE),
    "no row has both": (HAS_TEXT & ~HAS_IMAGE, HAS_IMAGE),
    "one image": (HAS_TEXT, torch.arange(14) == 1),
    "no image": (HAS_TEXT, torch.zeros(14, dtype=torch.bool)),
    "nothing": (torch.zeros(14, dtype=torch.bool), torch.zeros(14, dtype=torch.bool)),
}


@pytest.mark.parametrize("mates", MODES)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("ids", [PARTIAL_IDS, None], ids=["catalogs", "no ids"])
@pytest.mark.parametrize("tile_size", [4, None])
@pytest.mark.parametrize("inverse_temperature", [8.0, 100.0])
@pytest.mark.parametrize("computed_in", ["float32", "float64"])
def test_offers_that_lack_a_side(mates, parts, ids, tile_size, inverse_temperature, computed_in, monkeypatch):
    """What is missing is in no softmax; what has no target takes no weight; its placeholder does not matter."""
    has_text, has_image = PARTS[parts]
    text, image = unit_rows(14, seed=1), unit_rows(14, seed=2)
    scale = torch.tensor(math.log(inverse_temperature), dtype=torch.float64)
    exact = gradients_of(
        lambda *g: naive_loss(*g, ids, 0.6, mates, has_text, has_image) + 0 * sum(x.sum() for x in g),
        text,
        image,
        scale,
    )
    dtype = torch.float64
    if computed_in == "float32":
        monkeypatch.setattr(sweep, "_CPU_FLOAT64_LIMIT", 0)
        monkeypatch.setattr(tiles, "_LARGE_CATALOG", 1)
        dtype = torch.float32
    text = torch.where(has_text[:, None], text, math.nan)
    image = torch.where(has_image[:, None], image, math.nan)
    ours = gradients_of(
        lambda *g: contrastive_loss(
            *g, ids, catalog_weight=0.6, mates=mates, has_text=has_text, has_image=has_image, tile_size=tile_size
        ),
        text.to(dtype),
        image.to(dtype),
        scale,
    )
    # Similarities of up to 100 and catalogs of a fifth of the batch cost two digits of each format.
    tolerance = 1e-10 if computed_in == "float64" else 1e-4
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=tolerance, atol=tolerance)
    has_target = parts not in ("no image", "nothing") and not (
        parts == "no row has both" and (mates != "positive" or ids is None)
    )
    assert (ours[0] != 0) == has_target


def test_a_title_learns_from_its_mates_image():
    """A title-only and an image-only offer of one catalog are positives of each other, by hand."""
    text = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    image = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ids, scale = torch.tensor([5, 5, -1]), torch.tensor(0.0)
    has = {"has_text": torch.tensor([True, False, True]), "has_image": torch.tensor([False, True, True])}
    # Two titles, two images, each with a similarity of 1 to its partner and of 0 to the other.
    expected = math.log(math.e + 1) - 1
    assert contrastive_loss(text, image, scale, ids, **has).item() == pytest.approx(expected)
    # Without positive mates, offer 2 alone has a target; the others are its negatives.
    for mates in ("negative", "masked"):
        assert contrastive_loss(text, image, scale, ids, mates=mates, **has).item() == pytest.approx(expected)
    alone = contrastive_loss(text, -image, scale, ids, mates="masked", **has)
    assert alone.item() == pytest.approx(math.log(1 / math.e + 1) + 1)


@pytest.mark.parametrize("mates", MODES)
def test_with_all_sides_nothing_changes(mates):
    given = unit_rows(40, seed=1), unit_rows(40, seed=2), torch.tensor(2.5, dtype=torch.float64)
    everything = torch.ones(40, dtype=torch.bool)
    plain = gradients_of(lambda *g: contrastive_loss(*g, SIZES, mates=mates), *given)
    told = gradients_of(
        lambda *g: contrastive_loss(*g, SIZES, mates=mates, has_text=everything, has_image=everything), *given
    )
    assert all(torch.equal(mine, other) for mine, other in zip(told, plain, strict=True))  # the same operations


class LargestTensor(TorchDispatchMode):
    """Records how many numbers the largest tensor holds that any operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("mates", MODES)
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


@both_forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_compared_in_float32(loss_function, dtype):
    text, image = unit_rows(16, seed=1, dtype=dtype), unit_rows(16, seed=2, dtype=dtype)
    scale = torch.tensor(math.log(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_function(text, image, scale)
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
        ({"has_text": torch.ones(2)}, r"`has_text` or `has_image` is tensor\(\[1., 1.\]\)"),
        ({"has_image": torch.ones(3, dtype=torch.bool)}, r"has shape \(3,\); give one value per offer, shape \(2,\)"),
    ],
)
def test_errors_name_the_field_and_the_value(change, message):
    arguments = {"text_embeds": torch.zeros(2, 4), "image_embeds": torch.zeros(2, 4), "logit_scale": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embeds": torch.zeros(3, 4)}, r"\(2, 4\) and \(3, 4\)"),
        ({"text_embeds": torch.zeros(0, 4), "image_embeds": torch.zeros(0, 4)}, "and at least one"),
        ({"catalog_ids": torch.zeros(3, dtype=torch.int64)}, r"`catalog_ids` has shape \(3,\)"),
        ({"mates": "friends"}, "`mates` is 'friends'"),
    ],
)
def test_errors_of_the_dense_loss_name_the_field_and_the_value(change, message):
    arguments = {"text_embeds": torch.zeros(2, 4), "image_embeds": torch.zeros(2, 4), "logit_scale": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=message):
        dense_contrastive_loss(**{**arguments, **change})
