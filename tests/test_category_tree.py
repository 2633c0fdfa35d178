"""CategoryTree: ragged paths, levels, and sums worked out by hand."""

import pytest
import torch

from modeling_eclip import CategoryTree

# Three depths; "Shoes" is a leaf and the beginning of two others.
PATHS = [["Shoes"], ["Bags", "Totes"], ["Shoes", "Boots", "Rain"], ["Shoes", "Boots", "Ski"], ["Bags", "Belts"]]
SHOES, BAGS, TOTES, BELTS = ("Shoes",), ("Bags",), ("Bags", "Totes"), ("Bags", "Belts")
BOOTS, RAIN, SKI = ("Shoes", "Boots"), ("Shoes", "Boots", "Rain"), ("Shoes", "Boots", "Ski")


def test_nodes_of_every_level():
    tree = CategoryTree(PATHS)
    assert (len(tree), tree.num_levels) == (5, 3)
    assert tree.nodes(0) == [SHOES, BAGS]
    assert tree.nodes(1) == [SHOES, TOTES, BOOTS, BELTS]
    assert tree.nodes(2) == tree.paths == [SHOES, TOTES, RAIN, SKI, BELTS]
    assert tree.level_index(0).tolist() == [0, 1, 0, 0, 1]
    assert tree.level_index(1).tolist() == [0, 1, 2, 2, 3]
    assert tree.level_index(2).tolist() == [0, 1, 2, 3, 4]


def test_a_parent_is_the_sum_of_its_children():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25], [0.0, 0.0, 0.0, 1.0, 0.0]])
    roots, middle, leaves = CategoryTree(PATHS).level_probabilities(probabilities)
    torch.testing.assert_close(roots, torch.tensor([[0.55, 0.45], [1.0, 0.0]]))
    torch.testing.assert_close(middle, torch.tensor([[0.1, 0.2, 0.45, 0.25], [0.0, 0.0, 1.0, 0.0]]))
    assert leaves is probabilities


def test_sums_are_exact_at_every_level():
    generator = torch.Generator().manual_seed(0)
    rows = [[f"level {level} {i // 4 ** (3 - level)}" for level in range(2 + i % 3)] for i in range(64)]
    tree = CategoryTree.from_rows(rows)
    leaves = torch.randn(8, len(tree), generator=generator).softmax(dim=-1)
    levels = tree.level_probabilities(leaves)
    assert [level.shape[1] for level in levels] == [len(tree.nodes(level)) for level in range(tree.num_levels)]
    for level in range(tree.num_levels - 1):
        for number, node in enumerate(tree.nodes(level)):
            children = [index for index, child in enumerate(tree.nodes(level + 1)) if child[: level + 1] == node]
            total = torch.zeros(8)
            for child in children:
                total = total + levels[level + 1][:, child]
            assert torch.equal(levels[level][:, number], total)


def test_gradients_pass_through_the_sums():
    leaves = torch.full((1, 5), 0.2, requires_grad=True)
    CategoryTree(PATHS).level_probabilities(leaves)[0][0, 0].backward()
    assert leaves.grad.tolist() == [[1.0, 0.0, 1.0, 1.0, 0.0]]


def test_from_rows_is_sorted_and_leaves_out_empty_paths():
    tree = CategoryTree.from_rows([["b"], ["a", "c"], [], ["b"], ["a"]])
    assert tree.paths == [("a",), ("a", "c"), ("b",)]
    assert (tree.leaf(["a", "c"]), tree.leaf(("b",)), tree.leaf(["c"])) == (1, 2, None)


def test_one_level_is_a_tree():
    tree = CategoryTree([["a"], ["b"]])
    probabilities = torch.tensor([[0.25, 0.75]])
    assert [level.tolist() for level in tree.level_probabilities(probabilities)] == [[[0.25, 0.75]]]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one name"),
        ([["a"], []], "at least one name"),
        ([["a", "b"], ["a", "b"]], "'a > b' is there twice"),
    ],
)
def test_errors_name_the_path(paths, message):
    with pytest.raises(ValueError, match=message):
        CategoryTree(paths)
