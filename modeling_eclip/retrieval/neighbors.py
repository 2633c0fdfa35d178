"""Nearest neighbours, and the pairs of rows of which one is a neighbour of the other.

Notable choices:
- exact where this takes seconds: up to 20,000 products on a CPU, any number on an accelerator; block by block, without
  an `N x N` matrix;
- above that by faiss (Johnson et al. 2017): an inverted file over the leading principal directions, which are few and
  so searched quickly; the neighbours it finds are compared again by whole vectors;
- deterministic: the same vectors have the same neighbours every time.
"""

import torch

from .faiss_index import import_faiss

__all__ = [
    "candidate_pairs",
    "check_vectors",
    "nearest_neighbors",
    "pair_similarities",
    "pairs_of_neighbors",
    "unique_pairs",
]

# A CPU compares this many products with each other in seconds.
_EXACT_LIMIT = 20_000
# Values in one block of similarities or of gathered vectors.
_BLOCK_NUMBERS = 2**24
# Directions of the inverted file, its cells that are visited, and how many times more neighbours it returns than are
# kept after comparing whole vectors.
_SEARCH_DIM = 128
_NUM_PROBES = 16
_OVERSAMPLING = 2


def nearest_neighbors(
    embeds: torch.Tensor, num_neighbors: int, *, exact: bool | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest other rows of each row.

    Args:
        embeds: Vectors, shape `(N, D)`; of unit length for cosine similarities.
        num_neighbors: Neighbours per row; fewer if there are fewer other rows.
        exact: Whether to compare each row with every other one; `None` does so up to 20,000 rows on a CPU, and always
            on an accelerator.

    Returns:
        Dot products in descending order, float32, shape `(N, K)`, and the neighbours' rows, int64, shape `(N, K)`,
        with `K = min(num_neighbors, N - 1)`. A search that is not exact may find fewer for a row: the rest is `-inf`,
        with row -1.

    Raises:
        ValueError: shapes that do not fit, or vectors that are not finite.
        ImportError: faiss is needed and absent.
    """
    embeds = check_vectors(embeds)
    if num_neighbors < 1:
        raise ValueError(f"`num_neighbors` is {num_neighbors}; give a positive number.")
    num_neighbors = min(num_neighbors, max(len(embeds) - 1, 0))
    if exact is None:
        exact = embeds.device.type != "cpu" or len(embeds) <= _EXACT_LIMIT
    if num_neighbors == 0:
        return embeds.new_empty((len(embeds), 0)), torch.empty(
            (len(embeds), 0), dtype=torch.int64, device=embeds.device
        )
    return _compare_all(embeds, num_neighbors) if exact else _search(embeds, num_neighbors)


def check_vectors(embeds: torch.Tensor) -> torch.Tensor:
    """Return vectors in float32, detached.

    Args:
        embeds: Shape `(N, D)`.

    Raises:
        ValueError: another shape, or vectors that are not finite.
    """
    if embeds.ndim != 2:
        raise ValueError(f"`embeds` has shape {tuple(embeds.shape)}; give one vector per product, shape (N, D).")
    embeds = embeds.detach().float()
    is_finite = embeds.isfinite().all(dim=1)
    if not is_finite.all():
        row = int((~is_finite).nonzero()[0])
        raise ValueError(f"`embeds[{row}]` is not finite; leave out products that could not be embedded.")
    return embeds


def candidate_pairs(embeds: torch.Tensor, num_neighbors: int, *, exact: bool | None = None) -> torch.Tensor:
    """List the pairs of rows of which at least one is among the nearest neighbours of the other.

    Args:
        embeds: As for [`nearest_neighbors`].
        num_neighbors: As for [`nearest_neighbors`].
        exact: As for [`nearest_neighbors`].

    Returns:
        Pairs of row numbers, the smaller first, each pair once and in ascending order, int64, shape `(P, 2)` with
        `P <= N * num_neighbors`.
    """
    return pairs_of_neighbors(nearest_neighbors(embeds, num_neighbors, exact=exact)[1])


def pairs_of_neighbors(neighbors: torch.Tensor) -> torch.Tensor:
    """List the pairs of rows of which at least one is a neighbour of the other.

    Args:
        neighbors: Neighbours of each of `N` rows, -1 where there are fewer, int64, shape `(N, K)`.

    Returns:
        Pairs of row numbers as [`unique_pairs`] returns them, int64, shape `(P, 2)` with `P <= N * K`.
    """
    rows = torch.arange(len(neighbors), device=neighbors.device).repeat_interleave(neighbors.shape[1])
    return unique_pairs(torch.stack([rows, neighbors.flatten()], dim=1), len(neighbors))


def unique_pairs(pairs: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Sort pairs: the smaller row first, each pair once, ascending; without pairs of row -1 or of a row with itself.

    Args:
        pairs: Pairs of row numbers, int64, shape `(P, 2)`.
        num_rows: Number of rows.

    Returns:
        The pairs, int64, shape `(at most P, 2)`.
    """
    low, high = pairs.amin(dim=1), pairs.amax(dim=1)
    keys = (low * num_rows + high)[(low >= 0) & (low != high)].unique()
    return torch.stack([keys // max(num_rows, 1), keys % max(num_rows, 1)], dim=1)


def pair_similarities(embeds: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Return the dot products of pairs of rows, bit-identical for both orders of a pair.

    Args:
        embeds: Vectors, shape `(N, D)`.
        pairs: Pairs of row numbers, int64, shape `(P, 2)`.

    Returns:
        Dot products, shape `(P,)`.
    """
    block_size = max(_BLOCK_NUMBERS // max(embeds.shape[1], 1), 1)
    blocks = [(embeds[left] * embeds[right]).sum(dim=1) for left, right in (b.T for b in pairs.split(block_size))]
    return torch.cat(blocks) if blocks else embeds.new_empty(0)


def _compare_all(embeds: torch.Tensor, num_neighbors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare each row with every other one, block by block."""
    block_size = max(_BLOCK_NUMBERS // len(embeds), 1)
    found = []
    for start in range(0, len(embeds), block_size):
        with torch.autocast(device_type=embeds.device.type, enabled=False):
            block = embeds[start : start + block_size] @ embeds.T  # (block, N)
        block.diagonal(start).fill_(-torch.inf)
        found.append(block.topk(num_neighbors, dim=1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _search(embeds: torch.Tensor, num_neighbors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find neighbours in an inverted file, and compare their whole vectors."""
    faiss = import_faiss("nearest neighbours among this many products on a CPU (or pass `exact=True` and wait)")
    vectors = embeds.cpu()
    short = _leading_directions(vectors).contiguous().numpy()
    num_cells = max(int(4 * len(short) ** 0.5), 1)
    cells = faiss.IndexFlatIP(short.shape[1])
    index = faiss.IndexIVFFlat(cells, short.shape[1], num_cells, faiss.METRIC_INNER_PRODUCT)
    # Few iterations: exact centres of the cells hardly matter, and k-means takes a large part of the time.
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 6, 40, 1
    index.train(short)
    index.add(short)
    index.nprobe = _NUM_PROBES
    candidates = torch.from_numpy(index.search(short, _OVERSAMPLING * num_neighbors + 1)[1])
    similarities, neighbors = [], []
    block_size = max(_BLOCK_NUMBERS // (candidates.shape[1] * vectors.shape[1]), 1)
    for start in range(0, len(vectors), block_size):
        block = vectors[start : start + block_size]
        others = candidates[start : start + block_size]
        dots = torch.bmm(vectors[others.clamp(min=0)], block.unsqueeze(2)).squeeze(2)  # (block, candidates)
        rows = torch.arange(start, start + len(block)).unsqueeze(1)
        dots = dots.masked_fill((others < 0) | (others == rows), -torch.inf)
        nearest = dots.topk(num_neighbors, dim=1)
        similarities.append(nearest.values)
        neighbors.append(others.gather(1, nearest.indices).masked_fill(nearest.values == -torch.inf, -1))
    return torch.cat(similarities).to(embeds.device), torch.cat(neighbors).to(embeds.device)


def _leading_directions(vectors: torch.Tensor) -> torch.Tensor:
    """Project vectors on the directions that keep their dot products best; shape `(N, at most 128)`."""
    if vectors.shape[1] <= _SEARCH_DIM:
        return vectors
    step = max(len(vectors) // 20_000, 1)  # evenly spaced rows are enough
    sample = vectors[::step]
    directions = torch.linalg.eigh(sample.T @ sample).eigenvectors[:, -_SEARCH_DIM:]
    return vectors @ directions
