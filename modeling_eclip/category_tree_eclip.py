"""CategoryTree: paths of any depth, and what the probabilities of its leaves say about every level."""

from collections.abc import Iterable, Sequence

import torch

Path = tuple[str, ...]


class CategoryTree:
    """The categories that products are sorted into, as the paths of its leaves.

    Paths may differ in depth, and one may be the beginning of another: a product can be just "Shoes" where others are
    "Shoes > Boots". Below its own depth such a leaf stays what it is, so that every level holds every product.

    Args:
        paths: The leaves, root first; a leaf's position is its class.

    Raises:
        ValueError: there are no paths, one is empty, or one is there twice.
    """

    def __init__(self, paths: Iterable[Sequence[str]]):
        """Number the nodes of every level, in the order in which the leaves first name them."""
        self.paths: list[Path] = [tuple(path) for path in paths]
        if not self.paths or not all(self.paths):
            raise ValueError(f"A category tree needs paths of at least one name each; it received {self.paths[:5]}.")
        self._leaf_of = {path: leaf for leaf, path in enumerate(self.paths)}
        if len(self._leaf_of) < len(self.paths):
            repeated = next(path for leaf, path in enumerate(self.paths) if self._leaf_of[path] != leaf)
            raise ValueError(f"The path {' > '.join(repeated)!r} is there twice; give each leaf once.")
        self.num_levels = max(map(len, self.paths))
        # Of a level: node -> its number. The deepest level is the leaves themselves.
        self._levels = [
            {node: number for number, node in enumerate(dict.fromkeys(path[: level + 1] for path in self.paths))}
            for level in range(self.num_levels)
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[str]]) -> "CategoryTree":
        """Make the tree of the paths that products have, in alphabetical order.

        Args:
            rows: The path of each product; empty ones are left out.
        """
        return cls(sorted({tuple(row) for row in rows if row}))

    def __len__(self) -> int:
        """Return the number of leaves."""
        return len(self.paths)

    def leaf(self, path: Sequence[str]) -> int | None:
        """Return the class of a path, `None` where the tree has no such leaf."""
        return self._leaf_of.get(tuple(path))

    def nodes(self, level: int) -> list[Path]:
        """Return the nodes of a level, 0 being that of the roots, as paths."""
        return list(self._levels[level])

    def level_index(self, level: int) -> torch.Tensor:
        """Return the node of each leaf at a level, int64, shape `(leaves,)`."""
        numbers = self._levels[level]
        # Made on demand: a model that is built without memory, to be loaded, could not keep it.
        return torch.tensor([numbers[path[: level + 1]] for path in self.paths], device="cpu")

    def level_probabilities(self, leaf_probabilities: torch.Tensor) -> list[torch.Tensor]:
        """Tell the probability of every node; a parent's is the sum of its children's.

        Args:
            leaf_probabilities: Shape `(B, leaves)`.

        Returns:
            For each level, the roots first, shape `(B, nodes of that level)`; the last is the leaves' own.
        """
        levels = [leaf_probabilities]
        for level in range(self.num_levels - 2, -1, -1):
            numbers = self._levels[level]
            parents = torch.tensor([numbers[node[: level + 1]] for node in self._levels[level + 1]])
            sums = leaf_probabilities.new_zeros(len(leaf_probabilities), len(numbers))
            levels.append(sums.index_add(1, parents.to(sums.device), levels[-1]))
        return levels[::-1]


__all__ = ["CategoryTree", "Path"]
