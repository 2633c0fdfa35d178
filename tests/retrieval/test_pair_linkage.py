"""Groups by the scores of pairs, and the pairs that share what is rare."""

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from modeling_eclip import ProductEmbeds
from modeling_eclip.processing_eclip import lexical_ids
from modeling_eclip.retrieval.pair_linkage import pair_linkage
from modeling_eclip.retrieval.product_pairs import product_pairs
from modeling_eclip.retrieval.shared_ngrams import shared_ngram_pairs


def test_groups_are_those_of_average_linkage_on_the_whole_matrix():
    rng = np.random.default_rng(0)
    for number in (2, 7, 30):
        similarities = rng.random((number, number)) * (rng.random((number, number)) < 0.3)
        similarities = np.triu(similarities, 1)
        pairs = np.argwhere(similarities > 0)
        joins = pair_linkage(torch.from_numpy(pairs), torch.from_numpy(similarities[similarities > 0]), number)
        distances = 1 - (similarities + similarities.T)
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances), "average")
        for threshold in (0.05, 0.2, 0.5, 0.8):
            expected = fcluster(tree, 1 - threshold, "distance")
            groups = joins.groups(threshold).numpy()
            assert (np.equal.outer(groups, groups) == np.equal.outer(expected, expected)).all()


def test_by_hand_with_equal_scores_and_without_any():
    # 0-1 first (.9); then 2 is at (.8 + 0) / 2 of them: below .5 it stays alone, from .4 on it joins.
    joins = pair_linkage(torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.9, 0.8]), 4)
    assert joins.groups(0.5).tolist() == [0, 0, 1, 2]
    assert joins.groups(0.39).tolist() == [0, 0, 0, 1]
    equal = pair_linkage(torch.tensor([[0, 1], [1, 2], [0, 2]]), torch.ones(3), 3)
    assert equal.groups(1.0).tolist() == [0, 0, 0]
    assert pair_linkage(torch.empty(0, 2, dtype=torch.int64), torch.empty(0), 3).groups(0.0).tolist() == [0, 1, 2]


def test_titles_that_share_a_code_are_candidates_however_it_is_spelt():
    titles = ["sony dsc-w120 pink", "camera w 120 by dsc sony", "new dscw120", "red shoe size 40", "blue mug 40", ""]
    pairs = shared_ngram_pairs(lexical_ids(titles), 2).tolist()
    assert [0, 2] in pairs and [0, 1] in pairs
    assert not any(5 in pair for pair in pairs)
    assert all(left < right for left, right in pairs) and len({tuple(pair) for pair in pairs}) == len(pairs)
    assert shared_ngram_pairs(lexical_ids(["", ""]), 2).shape == (0, 2)
    # Each product keeps its heaviest pairs.
    one = shared_ngram_pairs(lexical_ids(titles), 1).tolist()
    assert [0, 2] in one and len(one) <= 5


def test_what_many_titles_have_tells_nothing():
    titles = [f"{word} 40" for word in map(chr, range(97, 123))] + ["{} 40".format("x" * n) for n in range(2, 20)]
    assert len(shared_ngram_pairs(lexical_ids(["red shoe"] * 40), 5)) == 0
    assert len(shared_ngram_pairs(lexical_ids(titles), 3)) <= 3 * len(titles)


def test_candidates_come_from_vectors_and_from_codes():
    titles = ["sony dsc-w120", "dscw120", "red shoe", "blue mug"]
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.1, 0.9], [0.9, 0.1]])  # 0 is near 3, and 1 near 2
    everywhere = torch.ones(4, dtype=torch.bool)
    embeds = ProductEmbeds(text=vectors, has_text=everywhere)
    assert product_pairs(embeds, 1).tolist() == [[0, 3], [1, 2]]
    embeds.lexical = lexical_ids(titles)
    assert product_pairs(embeds, 1).tolist() == [[0, 1], [0, 3], [1, 2]]
