"""Derive catalogs, the groups of offers of one product, from pairs of similar offers. Given catalog ids are kept.

A wrong merge turns a negative of the contrastive loss into a positive, so precision matters more than recall. Pairs
are joined from the most similar to the least (`scipy.cluster.hierarchy.DisjointSet`). Two groups are joined only if
each offer of one is similar to each offer of the other, so that a chain of similar pairs does not join different
products; and offers with different given ids are never joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from training.corpus.drops import id_order
from training.data.catalog_ids import NO_CATALOG, stable_id

__all__ = ["Catalogs", "Likeness", "derive_catalogs"]


@dataclass(frozen=True, order=True)
class Likeness:
    """Two similar offers.

    Args:
        left: Row number of the first offer.
        right: Row number of the second offer.
        score: The higher, the more similar.
    """

    left: int
    right: int
    score: float


@dataclass(frozen=True)
class Catalogs:
    """The derived catalogs.

    Args:
        of_row: By row number, the catalog of each offer that is in one; other offers have none.
        split_keys: By catalog whose id was not given, the split key of its first offer, as `decide_part` makes it for
            an offer without a catalog. So that offer keeps its split when others join it.
        held_back: Number of pairs that were not joined because their groups differ elsewhere, or are too large.
        in_conflict: Number of pairs that were not joined because their given ids differ.
    """

    of_row: dict[int, int]
    split_keys: dict[int, str]
    held_back: int
    in_conflict: int


def derive_catalogs(
    pairs: Sequence[Likeness], ids: dict[int, Any], given: dict[int, int], max_size: int, *, join_from: float
) -> Catalogs:
    """Group similar offers.

    Args:
        pairs: All pairs of offers that may be in one group.
        ids: By row number, the id of each offer in a pair, or its content as text where it has no id.
        given: By row number, the given catalog of each offer that has one.
        max_size: Largest number of offers in a group whose id is not given.
        join_from: Pairs with at least this score join their groups. Pairs below may be in one group, but join none.

    Returns:
        The groups. A group's id is the given id of its offers, or is computed from their first id, so that it stays
        the same when offers with later ids are added.
    """
    rows = sorted(
        {row for pair in pairs for row in (pair.left, pair.right)},
        key=lambda row: (id_order(ids[row]), row),
    )
    order = {row: place for place, row in enumerate(rows)}
    groups = DisjointSet(rows)
    catalog = {row: given[row] for row in rows if given.get(row, NO_CATALOG) != NO_CATALOG}  # by the root of a group
    held_back = in_conflict = 0
    like: dict[int, set[int]] = {row: set() for row in rows}
    for pair in pairs:
        like[pair.left].add(pair.right)
        like[pair.right].add(pair.left)

    def are_alike(ones: set[int], others: set[int]) -> bool:
        return all(others <= like[row] for row in ones)

    def ends(pair: Likeness) -> list[int]:
        return sorted((order[pair.left], order[pair.right]))

    joining = [pair for pair in pairs if pair.score >= join_from]
    for pair in sorted(joining, key=lambda pair: (-pair.score, ends(pair))):
        left, right = groups[pair.left], groups[pair.right]
        named = {catalog[root] for root in (left, right) if root in catalog}
        size = groups.subset_size(left) + groups.subset_size(right)
        if left == right or (len(named) == 1 and left in catalog and right in catalog):
            continue  # they are in one catalog already
        if len(named) > 1:
            in_conflict += 1
        elif (not named and size > max_size) or not are_alike(groups.subset(left), groups.subset(right)):
            held_back += 1
        else:
            groups.merge(left, right)
            if named:
                catalog[groups[left]] = named.pop()
    of_row: dict[int, int] = {}
    split_keys: dict[int, str] = {}
    for group in groups.subsets():
        if len(group) > 1:
            first = min(group, key=order.__getitem__)
            name = catalog.get(groups[first])
            if name is None:
                name = stable_id(f"derived:{ids[first]}")
                split_keys[name] = f"offer:{ids[first]}"
            of_row |= dict.fromkeys(group, name)
    return Catalogs(of_row, split_keys, held_back, in_conflict)
