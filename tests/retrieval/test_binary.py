"""Search by bits: codes by hand, the order by whole vectors, and what is in memory."""

import numpy as np
import pytest
import torch

from modeling_eclip import BinaryIndex, binarize

faiss = pytest.importorskip("faiss")


def clustered(number, dim=64, kinds=50, seed=0):
    dice = np.random.default_rng(seed)
    centers = dice.standard_normal((kinds, dim)) + 0.5  # a mean, as embeddings of one modality have
    vectors = centers[dice.integers(0, kinds, number)] + 0.4 * dice.standard_normal((number, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact(vectors, queries, number):
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :number]


def recall(found, expected):
    return np.mean([len(set(one) & set(other)) for one, other in zip(found, expected, strict=True)]) / len(expected[0])


def test_codes_by_hand():
    values = np.array([[0.5, -1, 2, 0, -0.1, 1, 1, 1], [-1, -1, -1, -1, -1, -1, -1, 3]])
    assert binarize(values).tolist() == [[0b10100111], [0b00000001]]
    assert binarize(torch.tensor(values)).tolist() == [[0b10100111], [0b00000001]]
    assert binarize(values, center=np.array([1, -2, 2, -2, 0, 0, 0, 2])).tolist() == [[0b01010110], [0b01010001]]
    with pytest.raises(ValueError, match="multiple of 8"):
        binarize(np.zeros((2, 12)))


def test_tensors_and_lists_are_searched_as_arrays_are():
    vectors, center = torch.from_numpy(clustered(50)), torch.full((64,), 0.1)
    expected = BinaryIndex(vectors.numpy()).search(vectors.numpy(), 3, query_center=center.numpy())
    for given in (vectors, vectors.requires_grad_(), vectors.tolist(), list(vectors)):
        found = BinaryIndex(given).search(given, 3, query_center=center)
        assert found[1].tolist() == expected[1].tolist()
        np.testing.assert_array_equal(found[0], expected[0])
    assert BinaryIndex(vectors.bfloat16()).search(vectors, 1)[1].ravel().tolist() == list(range(50))


def test_with_all_candidates_it_is_exact():
    vectors, queries = clustered(300), clustered(7, seed=1)
    scores, rows = BinaryIndex(vectors, block_size=64).search(queries, 5, num_candidates=300)
    assert rows.tolist() == exact(vectors, queries, 5).tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, rows, axis=1), rtol=1e-5)


def test_candidates_are_those_whose_bits_differ_least():
    vectors, queries = clustered(300), clustered(4, seed=1)
    center = vectors.mean(axis=0)
    differ = ((vectors > center)[None] != (queries > center)[:, None]).sum(axis=2)
    _, rows = BinaryIndex(vectors).search(queries, 20, num_candidates=20)
    for row, of in zip(rows, differ, strict=True):
        assert sorted(of[row]) == sorted(of)[:20]


def test_more_candidates_find_more():
    drawn = clustered(4050)
    vectors, queries = drawn[:4000], drawn[4000:]
    index, expected = BinaryIndex(vectors), exact(vectors, queries, 10)
    recalls = [recall(index.search(queries, 10, num_candidates=number)[1], expected) for number in (10, 100, 1000)]
    assert recalls[0] < recalls[1] <= recalls[2] and recalls[2] > 0.99
    assert recalls[0] > 0.1, "bits alone are far from chance"


def test_vectors_stay_on_disk(tmp_path):
    vectors, queries = clustered(500), clustered(3, seed=1)
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float16))
    index = BinaryIndex(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    assert index.code_bytes == 64 / 8 and len(index) == 500
    assert isinstance(index.vectors, np.memmap)
    found = index.search(torch.from_numpy(queries), 5, num_candidates=500)[1]
    assert recall(found, exact(vectors, queries, 5)) > 0.9  # float16 swaps near ties


def test_small_sets_and_bad_numbers():
    index = BinaryIndex(clustered(3))
    assert index.search(clustered(2), 10)[1].shape == (2, 3)
    with pytest.raises(ValueError, match="`num_candidates` 2"):
        index.search(clustered(2), 3, num_candidates=2)
    with pytest.raises(ValueError, match="at least one row"):
        BinaryIndex(np.empty((0, 8), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    vectors = clustered(100)
    vectors[70, 3] = bad
    with pytest.raises(ValueError, match=r"vectors\[70\].*leave that vector out"):
        BinaryIndex(vectors, block_size=64)
    with pytest.raises(ValueError, match=r"queries\[0\]"):
        BinaryIndex(clustered(100)).search(vectors[70:])


def test_vectors_and_queries_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        BinaryIndex(np.zeros((5, 12), np.float32))
    with pytest.raises(ValueError, match=r"\(Q, 64\)"):
        BinaryIndex(clustered(10)).search(clustered(2, dim=32))
