"""Binary embeddings: one bit of each value in memory, and the whole vectors of a few candidates from elsewhere.

A vector of 256 values takes 32 bytes. Codes are compared by the number of bits in which they differ, which a processor
does many times faster than it multiplies; the nearest of them are candidates, and their whole vectors, which may stay
on disk, put them in order. How many candidates are enough depends on the vectors: measure it on some queries.
"""

from typing import Any

import numpy as np
import torch

from .faiss_index import import_faiss

# Numbers of candidates' vectors in memory at once.
_BLOCK_NUMBERS = 2**22


def binarize(embeds: np.ndarray | torch.Tensor, center: np.ndarray | None = None) -> np.ndarray:
    """Keep one bit of each value: whether it is above the center.

    Args:
        embeds: Vectors, shape `(N, D)`, with `D` a multiple of 8.
        center: What values are compared with, shape `(D,)`; zero if not given. Vectors that share a direction, as
            embeddings of one modality do, have bits that tell them apart only about their own mean.

    Returns:
        Codes, uint8, shape `(N, D / 8)`.

    Raises:
        ValueError: the vectors have another shape.
    """
    values = _as_array(embeds)
    if values.ndim != 2 or values.shape[1] % 8:
        raise ValueError(f"`embeds` has shape {values.shape}; give (N, D) with D a multiple of 8.")
    return np.packbits(values > (0 if center is None else center), axis=1)


class BinaryIndex:
    """Searches vectors by their bits, and puts the nearest in order by the vectors themselves.

    In memory are the codes alone. Needs faiss (`pip install faiss-cpu`).

    Args:
        vectors: The vectors, shape `(N, D)`, in any number format; a `numpy.memmap` of a file stays on disk. Only the
            candidates' are read by a search.
        block_size: Vectors that are read at once while the index is made.

    Attributes:
        center: Mean of the vectors, float32, shape `(D,)`.
        code_bytes: Bytes of a vector in memory.

    Raises:
        ImportError: faiss is absent.
        ValueError: the vectors have another shape, or one of them is not finite.
    """

    def __init__(self, vectors: np.ndarray, *, block_size: int = 65536) -> None:
        """Read the vectors once for their mean, and once for their bits."""
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
        queries: np.ndarray | torch.Tensor,
        num_neighbors: int = 10,
        *,
        num_candidates: int | None = None,
        query_center: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors of each query.

        Args:
            queries: Vectors, shape `(Q, D)`.
            num_neighbors: Vectors per query; fewer where there are fewer.
            num_candidates: Codes per query whose vectors are read; ten times `num_neighbors` if not given.
            query_center: What queries' values are compared with, shape `(D,)`; the vectors' mean if not given. Queries
                of the other modality, as titles that search images, have a mean of their own.

        Returns:
            Dot products in descending order, float32, shape `(Q, K)`, and the places of the vectors that they are
            with, int64, shape `(Q, K)`.

        Raises:
            ValueError: fewer candidates than neighbours, or queries of another shape or not finite.
        """
        queries = np.array(_as_array(queries), dtype=np.float32)  # a copy: torch wants to be able to write
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
            # in the order of the file: candidates are read, and they are nearer to each other so
            places = np.sort(candidates[block], axis=1)
            vectors = torch.from_numpy(np.asarray(self.vectors[places], dtype=np.float32))
            dots = torch.bmm(vectors, torch.from_numpy(queries[block]).unsqueeze(2)).squeeze(2)
            best = dots.topk(num_neighbors, dim=1)
            scores[block] = best.values.numpy()
            rows[block] = np.take_along_axis(places, best.indices.numpy(), axis=1)
        return scores, rows


def _check_finite(name: str, vectors: np.ndarray, start: int = 0) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):  # one of them would be near to everything, and spoil the mean for all
        raise ValueError(f"`{name}[{start + bad[0]}]` holds a value that is not finite; leave that vector out.")


def _as_array(embeds: Any) -> np.ndarray:
    return embeds.detach().float().cpu().numpy() if isinstance(embeds, torch.Tensor) else np.asarray(embeds)


__all__ = ["BinaryIndex", "binarize"]
