"""The objective: which terms the loss has, at which sizes."""

import pytest
import torch
from conftest import make_config, unit_rows

from modeling_eclip import ContrastiveObjective, contrastive_loss, mate_contrast_loss, truncate_embeds

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9])
TEXT, IMAGE, SCALE = unit_rows(6, dim=16), unit_rows(6, dim=16, seed=1), torch.tensor(2.0, dtype=torch.float64)


def test_the_loss_is_the_one_that_the_configuration_names():
    objective = ContrastiveObjective(make_config(catalog_mates="masked"))
    expected = contrastive_loss(TEXT, IMAGE, SCALE, CATALOG_IDS, mates="masked")
    assert torch.equal(objective(TEXT, IMAGE, SCALE, CATALOG_IDS), expected)
    weighted = ContrastiveObjective(make_config(catalog_weight=0.3), tile_size=2)
    expected = contrastive_loss(TEXT, IMAGE, SCALE, CATALOG_IDS, catalog_weight=0.3, tile_size=2)
    assert torch.equal(weighted(TEXT, IMAGE, SCALE, CATALOG_IDS), expected)


def test_a_sigmoid_has_the_bias_in_every_term():
    bias = torch.tensor(-1.5, dtype=torch.float64)
    objective = ContrastiveObjective(make_config(loss="sigmoid", catalog_weight=0.3), mate_contrast_weight=0.5)
    among_mates = [mate_contrast_loss(rows, SCALE, CATALOG_IDS, logit_bias=bias).item() for rows in (TEXT, IMAGE)]
    between = contrastive_loss(TEXT, IMAGE, SCALE, CATALOG_IDS, logit_bias=bias, catalog_weight=0.3).item()
    loss = objective(TEXT, IMAGE, SCALE, CATALOG_IDS, logit_bias=bias)
    assert loss.item() == pytest.approx(between + 0.5 * sum(among_mates) / 2, rel=1e-12)
    with pytest.raises(ValueError, match="`loss` is 'sigmoid' and `logit_bias` is None"):
        objective(TEXT, IMAGE, SCALE, CATALOG_IDS)
    with pytest.raises(ValueError, match="`loss` is 'softmax' and `logit_bias` is -1.5"):
        ContrastiveObjective(make_config())(TEXT, IMAGE, SCALE, CATALOG_IDS, logit_bias=bias)


def test_contrast_of_mates_is_added_with_its_weight_at_each_size():
    config = make_config(matryoshka_dims=[4, 16], matryoshka_weights=[3.0, 1.0])
    by_size = []
    for dim in (4, 16):
        text, image = truncate_embeds(TEXT, dim), truncate_embeds(IMAGE, dim)
        among_mates = [mate_contrast_loss(rows, SCALE, CATALOG_IDS).item() for rows in (text, image)]
        by_size.append(contrastive_loss(text, image, SCALE, CATALOG_IDS).item() + 0.5 * sum(among_mates) / 2)
    loss = ContrastiveObjective(config, mate_contrast_weight=0.5)(TEXT, IMAGE, SCALE, CATALOG_IDS)
    assert loss.item() == pytest.approx((3 * by_size[0] + by_size[1]) / 4, rel=1e-12)


def test_without_catalogs_there_are_no_mates_to_contrast():
    plain, with_mates = (ContrastiveObjective(make_config(), mate_contrast_weight=weight) for weight in (0.0, 0.5))
    assert torch.equal(with_mates(TEXT, IMAGE, SCALE), plain(TEXT, IMAGE, SCALE))
