"""Average linkage over nearest neighbours: products to groups, without their number and without an N x N matrix.

The similarity of two groups is the average similarity of their products. The two most similar groups are joined
repeatedly, as long as this average reaches a threshold. Unlike connected components of a graph, average linkage does
not make one group of a chain of products of which only neighbours are similar.

Ours, since scikit-learn and fastcluster give the same groups but take 3 GiB for 20,000 products where this takes 0.2,
and 149 GiB for 200,000 where this takes 0.8 (`python tests/benchmarks/linkage_peers.py`).

Notable choices (this package's):
- the average dot product of two groups is the dot product of their averages, so a group is stored as its sum and its
  size, without distances;
- only groups with a pair of products above the threshold can be joined, so candidate pairs are nearest neighbours of
  products, then of groups, until no list of neighbours was too short; with exact neighbours no two groups are left
  whose average reaches the threshold;
- all groups that are each other's most similar one are joined at once: in average linkage the order of these joins
  does not change the result, and tens of rounds take the place of a hundred thousand steps;
- joins are kept with their similarity, so that groups at every higher threshold need no further computation.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from .neighbors import check_vectors, nearest_neighbors, pair_similarities, unique_pairs

__all__ = ["ROUNDING", "Joins", "average_linkage", "connect_pairs", "number_groups"]

# Rounding error of a similarity in float32, so that copies of a product reach a threshold of 1.
ROUNDING = 1e-6
# An adjusted Rand index that is less by so much is as good: validation splits are too small to tell them apart.
_AS_GOOD = 0.005


@dataclass
class Joins:
    """The joins of groups of `N` products, in the order in which they were made.

    Args:
        num_products: `N`.
        kept: The product that represents the first group and then the joined group, int64, shape `(J,)`.
        absorbed: The product that represented the second group, int64, shape `(J,)`.
        similarities: Average similarity of the two groups, float32, shape `(J,)`.
    """

    num_products: int
    kept: torch.Tensor
    absorbed: torch.Tensor
    similarities: torch.Tensor

    def groups(self, threshold: float = -1.0) -> torch.Tensor:
        """Return the group of each product, if groups are joined from this similarity on.

        Args:
            threshold: A similarity not below the one that the joins were made with.

        Returns:
            Number of each product's group, int64, shape `(N,)`: groups are numbered from 0 in the order of their first
            products.
        """
        joined = self.similarities >= threshold - ROUNDING
        parents = torch.arange(self.num_products, device=self.kept.device)
        parents[self.absorbed[joined]] = self.kept[joined]
        return number_groups(_find_roots(parents))

    def best_threshold(self, catalog_ids: torch.Tensor, min_precision: float = 0.0) -> tuple[float, float]:
        """Find the highest threshold whose groups agree with catalogs as well as any, by the adjusted Rand index.

        An index within .005 of the best is as good. Of more products there are more wrong pairs for each right one, so
        that a threshold which is fitted on some should rather be too high than too low for many.

        Args:
            catalog_ids: Catalog of each product, int64, shape `(N,)`; negative for a product that is alone.
            min_precision: Share of the pairs in a group that are to be of one catalog, one more counted as wrong.

        Returns:
            The threshold, midway between two joins, and its index. 1 and 0 where no groups are better than none.

        Raises:
            ValueError: shapes that do not fit, or no two products are of one catalog.
        """
        if catalog_ids.shape != (self.num_products,):
            raise ValueError(f"`catalog_ids` has shape {tuple(catalog_ids.shape)}; give ({self.num_products},).")
        ids = catalog_ids.tolist()
        true_pairs = sum(n * (n - 1) // 2 for n in Counter(number for number in ids if number >= 0).values())
        if not true_pairs:
            raise ValueError("no two products of `catalog_ids` are of one catalog; a threshold needs some that are.")
        all_pairs = self.num_products * (self.num_products - 1) // 2
        parents = list(range(self.num_products))
        sizes = [1] * self.num_products
        catalogs = [Counter([number] if number >= 0 else []) for number in ids]  # of each group, by its root
        order = self.similarities.argsort(descending=True, stable=True)
        heights = [1.0, *self.similarities[order].tolist()]
        joined_pairs = joined_true_pairs = 0
        found = [(0.0, 1.0)]  # indices and thresholds, which descend
        for step, pair in enumerate(zip(self.kept[order].tolist(), self.absorbed[order].tolist(), strict=True)):
            small, large = sorted((_find_root(parents, one) for one in pair), key=lambda root: sizes[root])
            joined_pairs += sizes[small] * sizes[large]
            joined_true_pairs += sum(n * catalogs[large][number] for number, n in catalogs[small].items())
            parents[small] = large
            sizes[large] += sizes[small]
            catalogs[large].update(catalogs[small])
            catalogs[small].clear()
            expected = joined_pairs * true_pairs / all_pairs
            highest = (joined_pairs + true_pairs) / 2
            score = (joined_true_pairs - expected) / (highest - expected) if highest > expected else 1.0
            below = heights[step + 2] if step + 2 < len(heights) else heights[step + 1]
            # A threshold cannot separate joins of equal similarity.
            is_last = below < heights[step + 1] or step + 2 == len(heights)
            is_precise = joined_true_pairs >= min_precision * (joined_pairs + 1)
            if is_last and is_precise:
                found.append((score, (heights[step + 1] + below) / 2))
        best = max(score for score, _ in found)
        enough = best - _AS_GOOD if best > _AS_GOOD else best
        score, threshold = next(one for one in found if one[0] >= enough)
        return threshold, score


def average_linkage(
    embeds: torch.Tensor, threshold: float, *, num_neighbors: int = 10, exact: bool | None = None
) -> Joins:
    """Join products into groups, by the average similarity of groups.

    Args:
        embeds: Vectors of the products, of unit length, shape `(N, D)`.
        threshold: Cosine similarity from which groups are joined.
        num_neighbors: Nearest neighbours per product, then per group, that make the candidate pairs.
        exact: As for [`nearest_neighbors`].

    Returns:
        The joins; `joins.groups()` are the groups.

    Raises:
        ValueError: shapes that do not fit, or vectors that are not finite.
        ImportError: faiss is needed and absent.
    """
    embeds = check_vectors(embeds)
    num_products = len(embeds)
    sums, sizes = embeds.clone(), embeds.new_ones(num_products)
    rows = torch.arange(num_products, device=embeds.device)  # the representatives of the groups that are searched
    made: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    while len(rows) > 1:
        means = sums[rows].div_(sizes[rows, None])
        similarities, neighbors = nearest_neighbors(means, num_neighbors, exact=exact)
        # A group whose last neighbour is similar enough may have more such neighbours.
        is_cut_off = torch.zeros(num_products, dtype=torch.bool, device=embeds.device)
        is_cut_off[rows] = (similarities[:, -1] >= threshold - ROUNDING) & (len(rows) - 1 > num_neighbors)
        near = similarities >= threshold - ROUNDING
        pairs = torch.stack([rows.unsqueeze(1).expand_as(neighbors)[near], rows[neighbors[near]]], dim=1)
        pairs = unique_pairs(pairs, num_products)
        joins = _join_pairs(sums, sizes, pairs, threshold)
        if not joins:
            break
        made.extend(joins)
        parents = torch.arange(num_products, device=embeds.device)
        for kept, absorbed, _ in joins:
            parents[absorbed] = kept
        # Either group of a pair may list the other, so only groups with cut-off lists are searched again.
        rows = _find_roots(parents)[is_cut_off].unique()
    nothing = (rows[:0], rows[:0], sizes[:0])
    kept, absorbed, values = (torch.cat(parts) for parts in zip(nothing, *made, strict=True))
    return Joins(num_products, kept, absorbed, values)


def _join_pairs(
    sums: torch.Tensor, sizes: torch.Tensor, pairs: torch.Tensor, threshold: float
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Join groups along pairs until none is similar enough; updates `sums` and `sizes`."""
    num_products = len(sizes)
    similarities = _average_similarities(sums, sizes, pairs)
    # Joined at once: copies of one product are equally similar to each other and would be joined one by one.
    roots = connect_pairs(pairs[similarities >= 1 - ROUNDING], num_products)
    absorbed = (roots != torch.arange(num_products, device=roots.device)).nonzero().flatten()
    joins = []
    if len(absorbed):
        joins.append((roots[absorbed], absorbed, similarities.new_ones(len(absorbed))))
        sums.index_add_(0, roots[absorbed], sums[absorbed])
        sizes.index_add_(0, roots[absorbed], sizes[absorbed])
        pairs = unique_pairs(roots[pairs], num_products)
        similarities = _average_similarities(sums, sizes, pairs)
    while True:
        near = similarities >= threshold - ROUNDING
        pairs, similarities = pairs[near], similarities[near]
        if len(pairs) == 0:
            return joins
        chosen = _each_others_best(pairs, similarities, num_products)
        kept, absorbed = pairs[chosen].T
        joins.append((kept, absorbed, similarities[chosen]))
        sums[kept] += sums[absorbed]
        sizes[kept] += sizes[absorbed]
        new_name = torch.arange(num_products, device=sums.device)
        new_name[absorbed] = kept
        is_new = torch.zeros(num_products, dtype=torch.bool, device=sums.device)
        is_new[kept] = True
        renamed = new_name[pairs]
        touched = is_new[renamed].any(dim=1)
        new_pairs = unique_pairs(renamed[touched], num_products)
        pairs = torch.cat([pairs[~touched], new_pairs])
        similarities = torch.cat([similarities[~touched], _average_similarities(sums, sizes, new_pairs)])


def connect_pairs(pairs: torch.Tensor, num_products: int) -> torch.Tensor:
    """Find the first product of each product's connected component.

    Args:
        pairs: Pairs of row numbers, int64, shape `(P, 2)`.
        num_products: `N`.

    Returns:
        Its row number, int64, shape `(N,)`.
    """
    roots = torch.arange(num_products, device=pairs.device)
    while True:
        low, high = roots[pairs].amin(dim=1), roots[pairs].amax(dim=1)
        if torch.equal(low, high):
            return roots
        roots = _find_roots(roots.scatter_reduce(0, high, low, "amin"))


def _each_others_best(pairs: torch.Tensor, similarities: torch.Tensor, num_products: int) -> torch.Tensor:
    """Choose pairs of groups that are each other's most similar one, of equals the first; shape `(chosen,)`."""
    best = similarities.new_full((num_products,), -torch.inf)
    for end in pairs.T:
        best.scatter_reduce_(0, end, similarities, "amax")
    candidates = (similarities == best[pairs].amax(dim=1)).nonzero().flatten()
    candidates = candidates[similarities[candidates] == best[pairs[candidates]].amin(dim=1)]
    first = torch.full((num_products,), len(pairs), device=pairs.device)
    for end in pairs[candidates].T:
        first.scatter_reduce_(0, end, candidates, "amin")
    return candidates[(first[pairs[candidates]] == candidates.unsqueeze(1)).all(dim=1)]


def _average_similarities(sums: torch.Tensor, sizes: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    return pair_similarities(sums, pairs) / sizes[pairs].prod(dim=1)


def _find_root(parents: list[int], product: int) -> int:
    while parents[product] != product:
        parents[product] = parents[parents[product]]
        product = parents[product]
    return product


def _find_roots(parents: torch.Tensor) -> torch.Tensor:
    """Follow each product's parents to the root, doubling the length of the path in each step."""
    while True:
        grandparents = parents[parents]
        if torch.equal(grandparents, parents):
            return parents
        parents = grandparents


def number_groups(groups: torch.Tensor) -> torch.Tensor:
    """Renumber groups from 0, in the order of their first products.

    Args:
        groups: A number for each product, the same within a group, int64, shape `(N,)`.

    Returns:
        The new numbers, int64, shape `(N,)`.
    """
    groups = groups.unique(return_inverse=True)[1]
    rows = torch.arange(len(groups), device=groups.device)
    first = torch.full_like(rows, len(groups)).scatter_reduce_(0, groups, rows, "amin")
    return first[groups].unique(return_inverse=True)[1]
