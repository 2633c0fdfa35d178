"""Groups of many offers of one product, of each of which only a few others are neighbours."""

import itertools

import pytest
import torch

from modeling_eclip import ProductEmbeds
from modeling_eclip.processing_eclip import lexical_ids
from modeling_eclip.retrieval.product_linkage import join_products, score_linked_pairs


def products_of(titles, products):
    """Embed titles so that those of one product are close, and no two titles that differ are equal."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(products) + 1, 16, generator=generator)
    noise = {title: 0.05 * torch.randn(16, generator=generator) for title in dict.fromkeys(titles)}
    vectors = torch.stack([centres[one] + noise[title] for title, one in zip(titles, products, strict=True)])
    everywhere = torch.ones(len(titles), dtype=torch.bool)
    return ProductEmbeds(text=vectors, has_text=everywhere, lexical=lexical_ids(titles))


def scorer(products, counted):
    """Score pairs as a perfect head does, and count them."""
    numbers = torch.tensor(products)

    def score(pairs):
        counted.append(len(pairs))
        return torch.where(numbers[pairs[:, 0]] == numbers[pairs[:, 1]], 0.9, 0.1)

    return score


@pytest.mark.parametrize("number", [30, 300])
def test_copies_are_one_group_and_cost_nothing(number):
    titles, products = ["red mug"] * number + ["blue lamp"] * 2 + ["green cap"], [0] * number + [1] * 2 + [2]
    counted = []
    joins = join_products(products_of(titles, products), scorer(products, counted), num_neighbors=10)
    assert joins.groups(0.5).tolist() == products and joins.groups(1.0).tolist() == products
    assert sum(counted) <= 3  # between three products


def test_equal_titles_with_other_images_are_no_copies():
    embeds = products_of(["red mug"] * 3, [0, 0, 0])
    everywhere = torch.ones(3, dtype=torch.bool)
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    embeds = ProductEmbeds(**dict(embeds.items()), image=images, has_image=everywhere)
    joins = join_products(embeds, lambda pairs: torch.full((len(pairs),), 0.1), num_neighbors=2)
    assert joins.groups(0.5).tolist() == [0, 0, 1]
    # Nor are titles beside which one lacks an image.
    embeds.has_image = torch.tensor([True, False, True])
    joins = join_products(embeds, lambda pairs: torch.full((len(pairs),), 0.1), num_neighbors=2)
    assert joins.groups(0.5).tolist() == [0, 1, 2]


def test_many_offers_that_differ_are_one_group():
    titles = [f"red mug of lot {number}" for number in range(60)] + ["blue lamp"]
    products, counted = [0] * 60 + [1], []
    joins = join_products(products_of(titles, products), scorer(products, counted), num_neighbors=5)
    assert joins.groups(0.5).tolist() == products
    assert 60 * 59 // 2 <= sum(counted) <= 60 * 59 // 2 + 60


def test_all_pairs_among_linked_products_are_scored_once():
    # 0-1-2 and 5-6 are linked, 3-4 are not alike.
    given = torch.tensor([[0, 1], [1, 2], [3, 4], [5, 6]])
    numbers, counted = [0, 0, 0, 1, 2, 3, 3], []
    pairs, scores = score_linked_pairs(given, scorer(numbers, counted), 7)
    assert pairs.tolist() == [*given.tolist(), [0, 2]] and counted == [4, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.9, 0.1, 0.9, 0.9]))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 128, 129])
def test_each_is_compared_with_each_up_to_a_bound(size):
    chain = torch.tensor([[row, row + 1] for row in range(size - 1)])
    pairs, _ = score_linked_pairs(chain, scorer([0] * size, []), size)
    assert sorted(map(tuple, pairs.tolist())) == list(itertools.combinations(range(size), 2))


def test_of_a_very_large_set_each_is_compared_with_some():
    chain = torch.tensor([[row, row + 1] for row in range(999)])
    pairs, _ = score_linked_pairs(chain, scorer([0] * 1000, []), 1000)
    assert pairs.flatten().bincount().tolist() == [128] * 1000
    assert score_linked_pairs(chain[:0], scorer([0], []), 1)[0].shape == (0, 2)
