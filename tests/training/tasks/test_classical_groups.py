"""The classical baseline of clustering: n-grams stay sparse, since thousands of offers have a million of them."""

import numpy as np
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
    torch.testing.assert_close(clustering._dense(given, shares), dense.float())
    assert clustering._near_pairs(joined[:1], 5).shape == (0, 2)
    assert clustering._near_pairs(joined[:3], 5).tolist() == [[0, 1], [0, 2], [1, 2]]
