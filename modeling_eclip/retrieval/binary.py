"""Binary embeddings: a search that holds one bit of each value in memory, and reads whole vectors of candidates only.

A vector of 256 values takes 32 bytes. faiss compares codes by the number of bits in which they differ, which is many
times faster than a dot product; the nearest codes are candidates, and their whole vectors, which may stay on disk, are
compared with the query. How many candidates are enough depends on the vectors: measure it on some queries.

Ours, since at 32 bytes sentence-transformers finds .62 of the 10 nearest where this finds .999, and faiss as many but
with 1,056 bytes of each vector in memory (`python tests/benchmarks/search_peers.py`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .faiss_index import import_faiss

__all__ = ["BinaryIndex", "binarize"]

# Values of candidates' vectors in memory at once.
_BLOCK_NUMBERS = 2**22


def binarize(
    embeds: np.ndarray | torch.Tensor | Sequence[Any], center: np.ndarray | torch.Tensor | None = None
) -> np.ndarray:
    """Keep one bit of each value: whether it is greater than the center.

    Args:
        embeds: Vectors, shape `(N, D)`, with `D` a multiple of 8.
        center: Values to compare with, shape `(D,)`; zero if not given. Embeddings of one modality share a direction:
            give their mean, or most of their bits are equal.

    Returns:
        Codes, uint8, shape `(N, D / 8)`.

    Raises:
        ValueError: the vectors have another shape.
    """
    values = _as_array(embeds)
    if values.ndim != 2 or values.shape[1] % 8:
        raise ValueError(f"`embeds` has shape {values.shape}; give (N, D) with D a multiple of 8.")
    return np.packbits(values > (0 if center is None else _as_array(center)), axis=1)


class BinaryIndex:
    """Searches vectors by their bits, and ranks the nearest by the vectors themselves.

    Only the codes are held in memory. Needs faiss (`pip install faiss-cpu`).

    Args:
        vectors: The vectors, shape `(N, D)`, of any numeric type: an array, a tensor or lists; a `numpy.memmap` stays
            on disk. A search reads only the vectors of candidates.
        block_size: Vectors that are read at once while the index is built.

    Attributes:
        center: Mean of the vectors, float32, shape `(D,)`.
        code_bytes: Bytes of one vector in memory.

    Raises:
        ImportError: faiss is absent.
        ValueError: the vectors have another shape, or one of them is not finite.
    """

    def __init__(self, vectors: np.ndarray | torch.Tensor | Sequence[Any], *, block_size: int = 65536) -> None:
        """Read the vectors twice: for their mean, then for their bits."""
        vectors = _as_array(vectors)
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] % 8:
            raise ValueError(
                f"`vectors` has shape {vectors.shape}; give (N, D) with at least one row, and D a multiple of 8."
            )
        self.vectors = vectors
        blocks = [slice(start, start + block_size) for start in range(0, len(vectors), block_size)]
        total = np.zeros(vectors.shape[1])
        for block in blocks:
            _check_finite("vectors", vectors[block], block.start)
            total += vectors[block].sum(axis=0, dtype=np.float64)
        self.center = (total / len(vectors)).astype(np.float32)
        self._codes = import_faiss("searching by bits").IndexBinaryFlat(vectors.shape[1])
        for block in blocks:
            self._codes.add(binarize(vectors[block], self.center))
        self.code_bytes = self._codes.code_size

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self.vectors)

    def search(
        self,
        queries: np.ndarray | torch.Tensor | Sequence[Any],
        num_neighbors: int = 10,
        *,
        num_candidates: int | None = None,
        query_center: np.ndarray | torch.Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors of each query.

        Args:
            queries: Vectors, shape `(Q, D)`.
            num_neighbors: Vectors per query; fewer if there are fewer vectors.
            num_candidates: Codes per query whose vectors are read; ten times `num_neighbors` if not given.
            query_center: Values to compare the queries' values with, shape `(D,)`; the vectors' mean if not given.
                Queries of the other modality, such as titles that search images, need the mean of that modality.

        Returns:
            Dot products in descending order, float32, shape `(Q, K)`, and the rows of their vectors, int64, shape
            `(Q, K)`.

        Raises:
            ValueError: fewer candidates than neighbours, or queries of another shape or not finite.
        """
        queries = np.array(_as_array(queries), dtype=np.float32)  # a copy: torch needs a writable array
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"`queries` has shape {queries.shape}; give (Q, {self.vectors.shape[1]}).")
        _check_finite("queries", queries)
        num_candidates = 10 * num_neighbors if num_candidates is None else num_candidates
        if not 1 <= num_neighbors <= num_candidates:
            raise ValueError(
                f"`num_neighbors` is {num_neighbors} and `num_candidates` {num_candidates}; give at least 1, and at "
                "least as many candidates."
            )
        num_neighbors, num_candidates = (min(number, len(self)) for number in (num_neighbors, num_candidates))
        candidates = self._codes.search(
            binarize(queries, self.center if query_center is None else query_center), num_candidates
        )[1]  # (Q, candidates)
        scores = np.empty((len(queries), num_neighbors), dtype=np.float32)
        rows = np.empty((len(queries), num_neighbors), dtype=np.int64)
        block_size = max(_BLOCK_NUMBERS // (num_candidates * queries.shape[1]), 1)
        for start in range(0, len(queries), block_size):
            block = slice(start, start + block_size)
            # sorted, so that rows of a file are read in its order
            places = np.sort(candidates[block], axis=1)
            vectors = torch.from_numpy(np.asarray(self.vectors[places], dtype=np.float32))
            dots = torch.bmm(vectors, torch.from_numpy(queries[block]).unsqueeze(2)).squeeze(2)
            best = dots.topk(num_neighbors, dim=1)
            scores[block] = best.values.numpy()
            rows[block] = np.take_along_axis(places, best.indices.numpy(), axis=1)
        return scores, rows


def _check_finite(name: str, vectors: np.ndarray, start: int = 0) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):  # one such vector would make the mean useless for all
        raise ValueError(f"`{name}[{start + bad[0]}]` holds a value that is not finite; leave that vector out.")


def _as_array(embeds: Any) -> np.ndarray:
    if isinstance(embeds, torch.Tensor):
        return embeds.detach().float().cpu().numpy()
    if isinstance(embeds, Sequence) and len(embeds) and isinstance(embeds[0], torch.Tensor):  # a tensor a row
        return torch.stack(list(embeds)).detach().float().cpu().numpy()
    # As it is: `asarray` would turn a memmap into a plain array, which loads nothing, but hides its file.
    return embeds if isinstance(embeds, np.ndarray) else np.asarray(embeds)
