"""EClipForCategoryClassification: a product -> its path in the category tree.

One classifier over the leaves; what it says about every level above them is the sum over their leaves (e-CLIP, Shin
et al. 2022, has product category classification among its downstream tasks; the head is this package's).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from .category_tree_eclip import CategoryTree, Path
from .configuration_eclip import EClipConfig
from .late_fusion_eclip import LateFusionClassifier
from .product_embeds_eclip import ProductEmbeds
from .representation_eclip import EClipTaskModel, side_widths
from .zero_shot_eclip import embed_names, zero_shot_logits


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

    def __init__(self, config: EClipConfig):
        """Build the classifier over the leaves of the configured tree."""
        super().__init__(config)
        if config.category_paths is None:
            raise ValueError("`category_paths` is None; give the categories' paths, such as [['Shoes', 'Boots']].")
        self.tree = CategoryTree(config.category_paths)
        config.id2label = {leaf: " > ".join(path) for leaf, path in enumerate(self.tree.paths)}
        config.label2id = {name: leaf for leaf, name in config.id2label.items()}
        self.classifier = LateFusionClassifier(side_widths(config), len(self.tree))
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
            For each product its `k` most probable paths, root first, and their probabilities, the best first.
        """
        top = logits.softmax(dim=-1).topk(min(k, len(self.tree)), dim=-1)
        return [
            [(self.tree.paths[leaf], probability) for leaf, probability in zip(leaves, probabilities, strict=True)]
            for leaves, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

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


__all__ = ["CategoryOutput", "EClipForCategoryClassification"]
