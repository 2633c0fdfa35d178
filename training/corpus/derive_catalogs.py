"""Catalogs: groups of offers of one product. Given ids are kept; others are derived from pairs that are alike.

A wrong merge turns a true negative into a positive, so precision goes before recall. Pairs are joined from the most
alike to the least (`scipy.cluster.hierarchy.DisjointSet`, whose sets are the connected components), but two groups
only where each offer of the one is like each of the other, so that no chain of likenesses swallows a shop; and never
offers whose given ids differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from training.corpus.drops import id_order
from training.data.columns import NO_CATALOG, stable_id

__all__ = ["Catalogs", "Likeness", "derive_catalogs"]


@dataclass(frozen=True, order=True)
class Likeness:
    """Two offers that are alike.

    Args:
        left: Row number of the one.
        right: Of the other.
        score: The higher the more alike.
    """

    left: int
    right: int
    score: float


@dataclass(frozen=True)
class Catalogs:
    """What was derived.

    Args:
        of_row: By row number, the catalog of offers that got one; others stay alone.
        split_keys: By catalog whose id was not given, its first offer as `decide_part` names one that is alone: the
            split of that offer stays when others join it.
        held_back: Pairs that were not joined, since their groups are not alike as a whole, or too large.
        in_conflict: Pairs that were not joined, since different ids were given.
    """

    of_row: dict[int, int]
    split_keys: dict[int, str]
    held_back: int
    in_conflict: int


def derive_catalogs(
    pairs: Sequence[Likeness], ids: dict[int, Any], given: dict[int, int], max_size: int, *, join_from: float
) -> Catalogs:
    """Group offers that are alike.

    Args:
        pairs: All pairs that may be in one group.
        ids: By row number, the id of each offer in a pair; its content, as text, where it has none.
        given: By row number, the catalog of those that have one.
        max_size: Offers of a group at most, where its id is not given.
        join_from: Score from which on a pair joins its groups; the others only do not keep them apart.

    Returns:
        The groups. A group's id is the given one of its offers, or made of the least of their ids, so that it stays
        when offers with later ids are added.
    """
    rows = sorted(
        {row for pair in pairs for row in (pair.left, pair.right)},
        key=lambda row: (id_order(ids[row]), row),
    )
    order = {row: place for place, row in enumerate(rows)}
    groups = DisjointSet(rows)
    catalog = {row: given[row] for row in rows if given.get(row, NO_CATALOG) != NO_CATALOG}  # by a group's root
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
            continue  # they are one already, by what was joined or by the id that both were given
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
