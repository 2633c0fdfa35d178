"""EClipForCategoryClassification: a product -> its path in the category tree.

One classifier over the leaves; the probability of a category above them is the sum over its leaves (e-CLIP, Shin
et al. 2022, has product category classification among its downstream tasks; the head is this package's).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .fusion_eclip import LateFusionClassifier, ProductEmbeds
from .representation_eclip import SENT_TO_REVIEW, EClipTaskModel, embed_names, modality_widths, zero_shot_logits

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


@dataclass
class CategoryOutput(ModelOutput):
    """What [`EClipForCategoryClassification`] returns.

    Args:
        loss: The loss, a scalar; with `labels`.
        logits: Of the leaves of the tree, float32, shape `(B, leaves)`; their softmax is probabilities.
        products: The products as the head saw them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    products: ProductEmbeds | None = None


class EClipForCategoryClassification(EClipTaskModel):
    """Sort products into a category tree.

    `EClipForCategoryClassification.from_pretrained(base, category_paths=[["Shoes", "Boots"], ["Bags"]])` puts a new
    head on an [`EClipModel`]; its checkpoints know their tree.

    Args:
        config: The configuration, with `category_paths`.

    Raises:
        ValueError: the configuration has no `category_paths`.
    """

    class_field = "category_paths"

    def __init__(self, config: EClipConfig):
        """Build the classifier over the leaves of the configured tree."""
        super().__init__(config)
        if config.category_paths is None:
            raise ValueError("`category_paths` is None; give the categories' paths, such as [['Shoes', 'Boots']].")
        self.tree = CategoryTree(config.category_paths)
        config.id2label = {leaf: " > ".join(path) for leaf, path in enumerate(self.tree.paths)}
        config.label2id = {name: leaf for leaf, name in config.id2label.items()}
        self.classifier = LateFusionClassifier(modality_widths(config), len(self.tree), config.lexical_rows)
        self.post_init()

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> CategoryOutput:
        """Sort products that are represented already.

        Args:
            embeds: The products.
            labels: Their leaves, int64, shape `(B,)`; -100 for a product that carries no loss.

        Returns:
            [`CategoryOutput`].
        """
        logits, loss = self.classifier(embeds, labels, label_smoothing=self.config.label_smoothing)
        return CategoryOutput(loss=loss, logits=logits, products=embeds)

    def level_probabilities(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """Tell the probability of every category of every level; a parent's is the sum of its children's.

        Args:
            logits: Shape `(B, leaves)`.

        Returns:
            For each level of the tree, the roots first, shape `(B, nodes of that level)`, in the order of
            `tree.nodes(level)`.
        """
        return self.tree.level_probabilities(logits.softmax(dim=-1))

    def decode(self, logits: torch.Tensor, k: int = 1) -> list[list[tuple[Path, float]]]:
        """Answer in words.

        Args:
            logits: Shape `(B, leaves)`.
            k: How many categories to name per product; all of them, where the tree has fewer.

        Returns:
            For each product its `k` most probable paths, root first, and their probabilities, the best first. One that
            is sent to review by `config.review_below` has `("sent to review",)` and the probability that the best is
            wrong before them, as one of the `k`.
        """
        top = logits.softmax(dim=-1).topk(min(k, len(self.tree)), dim=-1)
        left = self.sent_to_review("category", top.values[:, 0]).tolist()
        named = []
        for leaves, probabilities, review in zip(top.indices.tolist(), top.values.tolist(), left, strict=True):
            paths = [self.tree.paths[leaf] for leaf in leaves]
            first = [((SENT_TO_REVIEW,), 1 - probabilities[0])] if review else []
            named.append([*first, *zip(paths, probabilities, strict=True)][:k])
        return named

    def embed_categories(self, processor: Any, templates: Sequence[str] = ("{leaf}", "{path}")) -> torch.Tensor:
        """Embed the categories by their names, for `zero_shot`.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            templates: Titles of a product of the category, with `{leaf}` for the last name of its path and `{path}`
                for all of them; the category is the mean of them.

        Returns:
            Embeddings of unit length, shape `(leaves, projection_dim)`.
        """
        names = [
            [template.format(leaf=path[-1], path=" ".join(path)) for template in templates] for path in self.tree.paths
        ]
        return embed_names(self, processor, names)

    def zero_shot(
        self, category_embeds: torch.Tensor, embeds: ProductEmbeds | None = None, **inputs: Any
    ) -> CategoryOutput:
        """Sort products by how near they are to the names of the categories, without any training for it.

        Args:
            category_embeds: What `embed_categories` returned, shape `(leaves, projection_dim)`.
            embeds: The products, as `represent` returns them; `None` where `inputs` are given.
            **inputs: As for `represent`: `input_ids`, `attention_mask`, `pixel_values`, `has_text`, `has_image`, ...

        Returns:
            [`CategoryOutput`], with logits only; `decode` puts them into words.
        """
        embeds = self.represent(**inputs) if embeds is None else embeds
        return CategoryOutput(logits=zero_shot_logits(self, category_embeds, embeds), products=embeds)


__all__ = ["CategoryOutput", "CategoryTree", "EClipForCategoryClassification", "Path"]
