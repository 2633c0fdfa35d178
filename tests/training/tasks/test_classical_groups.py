"""The classical baseline of clustering: n-grams stay sparse, since thousands of offers have a million of them."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from modeling_eclip.retrieval.neighbors import candidate_pairs
from training.tasks import clustering


def views(number, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.random((number, 40)) * (rng.random((number, 40)) < 0.2)
    words[:, 0] += 0.01  # no title is empty
    image = rng.random((number, 6))
    parts = {"words": words, "image": image}
    return {name: part / np.linalg.norm(part, axis=1, keepdims=True) for name, part in parts.items()}


def test_near_pairs_are_those_of_dense_vectors():
    given = views(50)
    shares = {"words": 0.7, "image": 0.3}
    joined = clustering._joined({"words": csr_array(given["words"]), "image": given["image"]}, shares)
    dense = torch.from_numpy(np.concatenate([given[name] * share**0.5 for name, share in shares.items()], axis=1))
    assert torch.equal(clustering._near_pairs(joined, 5), candidate_pairs(dense, 5))
    assert clustering._near_pairs(joined[:1], 5).shape == (0, 2)
    assert clustering._near_pairs(joined[:3], 5).tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("number", [20, 60])  # fewer rows than values, and more
def test_dense_vectors_have_the_same_dot_products_and_no_more_values_than_rows(number):
    given = views(number)
    given = {name: np.concatenate([of, of[:5]]) for name, of in given.items()}  # with equal rows
    vectors = clustering._dense(given, {"words": 0.7, "image": 0.3})
    dense = np.concatenate([given["words"] * 0.7**0.5, given["image"] * 0.3**0.5], axis=1)
    assert vectors.shape == (number + 5, min(number + 5, 46)) and vectors.dtype == torch.float32
    # Views are rounded to float32, and so are the vectors; 1e-7 is added to each row's product with itself.
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), dense @ dense.T, atol=1e-6)
