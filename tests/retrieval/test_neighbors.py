"""Nearest neighbours: exact in blocks, by an inverted file, and as pairs."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from transformers.dynamic_module_utils import get_imports

import modeling_eclip
from modeling_eclip import candidate_pairs, nearest_neighbors
from modeling_eclip.retrieval import neighbors as neighbors_module
from modeling_eclip.retrieval.neighbors import pair_similarities, unique_pairs

# Angles on a circle: 0 and 10 degrees are close, 100 is nearer to 10 than to 0, 210 is near to nothing.
ANGLES = torch.tensor([0.0, 10.0, 100.0, 210.0]).deg2rad()
CIRCLE = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)


def random_vectors(num_rows, dim, seed=0):
    return normalize(torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_neighbors_worked_out_by_hand():
    similarities, neighbors = nearest_neighbors(CIRCLE, 2)
    assert neighbors.tolist() == [[1, 2], [0, 2], [1, 0], [2, 0]]
    degrees = torch.tensor([[10.0, 100.0], [10.0, 90.0], [90.0, 100.0], [110.0, 150.0]])
    torch.testing.assert_close(similarities, degrees.deg2rad().cos())
    assert candidate_pairs(CIRCLE, 1).tolist() == [[0, 1], [1, 2], [2, 3]]


def test_no_more_neighbors_than_there_are():
    assert nearest_neighbors(CIRCLE, 10)[1].shape == (4, 3)
    assert nearest_neighbors(CIRCLE[:1], 10)[1].shape == (1, 0)
    assert nearest_neighbors(CIRCLE[:0], 10)[1].shape == (0, 0)
    assert candidate_pairs(CIRCLE[:1], 10).shape == candidate_pairs(CIRCLE[:0], 10).shape == (0, 2)
    assert candidate_pairs(CIRCLE, 10).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_a_copy_is_a_neighbor_and_the_row_itself_is_not():
    copies = CIRCLE[[0, 0, 0, 3]]
    _, neighbors = nearest_neighbors(copies, 2)
    assert [sorted(row) for row in neighbors.tolist()[:3]] == [[1, 2], [0, 2], [0, 1]]


def test_blocks_change_nothing(monkeypatch):
    vectors = random_vectors(50, 8)
    whole = nearest_neighbors(vectors, 5)
    monkeypatch.setattr(neighbors_module, "_BLOCK_NUMBERS", 7 * 50)
    blocks = nearest_neighbors(vectors, 5)
    assert torch.equal(whole[1], blocks[1])
    torch.testing.assert_close(whole[0], blocks[0])
    pairs = candidate_pairs(vectors, 5)
    torch.testing.assert_close(pair_similarities(vectors, pairs), (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1))


def test_pairs_are_in_order_and_once():
    pairs = torch.tensor([[3, 1], [1, 3], [0, 2], [2, 2], [1, -1], [0, 1]])
    assert unique_pairs(pairs, 4).tolist() == [[0, 1], [0, 2], [1, 3]]


def test_similarities_of_pairs_are_symmetric():
    vectors = random_vectors(40, 33)
    pairs = candidate_pairs(vectors, 3)
    assert torch.equal(pair_similarities(vectors, pairs), pair_similarities(vectors, pairs.flip(1)))


@pytest.mark.parametrize("dim", [16, 200])  # fewer and more than the directions that the inverted file keeps
def test_the_inverted_file_finds_what_comparing_all_finds(dim):
    pytest.importorskip("faiss", reason="faiss is absent")
    # As in product data: groups of a few offers each.
    centers = random_vectors(1000, dim).repeat(4, 1)
    vectors = normalize(centers + 0.5 / dim**0.5 * torch.randn(4000, dim, generator=torch.Generator().manual_seed(1)))
    similarities, neighbors = nearest_neighbors(vectors, 3, exact=False)
    exact_similarities, exact_neighbors = nearest_neighbors(vectors, 3, exact=True)
    found = (neighbors.unsqueeze(2) == exact_neighbors.unsqueeze(1)).any(dim=1).float().mean()
    assert found > 0.95
    assert (neighbors != torch.arange(4000).unsqueeze(1)).all()
    same = neighbors == exact_neighbors
    torch.testing.assert_close(similarities[same], exact_similarities[same])
    again = nearest_neighbors(vectors, 3, exact=False)
    assert torch.equal(neighbors, again[1]) and torch.equal(similarities, again[0])


def test_what_is_not_found_is_marked():
    pytest.importorskip("faiss", reason="faiss is absent")
    # All others are asked for, but only some cells are visited.
    similarities, neighbors = nearest_neighbors(random_vectors(400, 4), 399, exact=False)
    assert neighbors.shape == (400, 399)
    assert torch.equal(neighbors == -1, similarities == -torch.inf)
    assert (neighbors == -1).any()


def test_without_faiss_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        nearest_neighbors(CIRCLE, 1, exact=False)
    assert nearest_neighbors(CIRCLE, 1)[1].tolist() == [[1], [0], [1], [2]]


@pytest.mark.parametrize(
    ("vectors", "num_neighbors", "message"),
    [
        (torch.zeros(3), 1, r"shape \(3,\); give one vector per product"),
        (torch.tensor([[0.0], [float("nan")]]), 1, r"`embeds\[1\]` is not finite"),
        (CIRCLE, 0, "`num_neighbors` is 0"),
    ],
)
def test_errors(vectors, num_neighbors, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(vectors, num_neighbors)


def test_a_checkpoint_does_not_ask_for_faiss():
    # transformers refuses to load code whose imports are absent, but for those that are tried.
    for file in Path(modeling_eclip.__file__).parent.rglob("*.py"):
        assert "faiss" not in get_imports(file), file
    assert "torch" in get_imports(neighbors_module.__file__)
