"""Five tasks on products of which nothing is known but a title, an image, or both.

Contract: each task is answered by the head whose checkpoint lies in the folder of its name; a task without one is not
there, and the others are. Answers are plain Python, with probabilities. A head looks at what it was trained on: one of
titles alone refuses a product that has only an image, in words (`ValueError`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

__all__ = ["TASKS", "ProductTasks"]

TASKS = ("category", "attributes", "matching", "clustering", "adult")
"""Tasks, and names of the folders of their heads."""
Answer = tuple[str, float]


class ProductTasks:
    """The heads, loaded. A product is a mapping with `title` and `image`; either may be `None`.

    Args:
        folder: Folder of heads: `folder/category`, `folder/attributes`, `folder/matching`, `folder/clustering`,
            `folder/adult`, as far as they are there.
    """

    def __init__(self, folder: str | Path):
        """Load what is there."""
        self.heads: dict[str, Any] = {}
        self.processors: dict[str, Any] = {}
        for task in TASKS:
            path = Path(folder) / task
            if (path / "config.json").exists():
                self.heads[task] = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
                self.processors[task] = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    def category(self, product: Mapping[str, Any], k: int = 5) -> list[Answer]:
        """Name the `k` most probable categories, root first, the best first."""
        (answers,) = self.heads["category"].decode(self._logits("category", product), k=k)
        return [(" > ".join(path), probability) for path, probability in answers]

    def attributes(self, product: Mapping[str, Any], k: int = 3) -> dict[str, list[Answer]]:
        """Name the `k` most probable values of each attribute, the best first."""
        found = {}
        values = self.heads["attributes"].values
        for name, logits in self._logits("attributes", product).items():
            top = logits[0].softmax(dim=-1).topk(min(k, len(values[name])))
            best = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            found[name] = [(values[name][value], probability) for value, probability in best]
        return found

    def adult(self, product: Mapping[str, Any]) -> tuple[bool, float]:
        """Tell whether a product is for adults only, and how probable that is."""
        return self._yes_or_no("adult", self._logits("adult", product))

    def matching(self, left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[bool, float]:
        """Tell whether two offers are of one product, and how probable that is."""
        head = self.heads["matching"]
        with torch.no_grad():
            embeds = self._represent("matching", [left, right])
            one, other = (
                type(embeds)(**{name: value[row : row + 1] for name, value in embeds.items()}) for row in (0, 1)
            )
            return self._yes_or_no("matching", head.answer(one, right=other).logits)

    def cluster(self, product: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return which of the others are as similar to a product as offers of one product are.

        The threshold is that of the head's groups. `head.cluster` groups a whole set, and needs the package.
        """
        head = self.heads["clustering"]
        products = self._represent("clustering", [product, *others])
        if head.scores_pairs:
            pairs = torch.tensor([[0, place + 1] for place in range(len(others))], dtype=torch.int64).reshape(-1, 2)
            near = head.pair_probabilities(products, pairs) >= head.config.cluster_threshold
            return near.nonzero().flatten().tolist()
        with torch.no_grad():
            embeds = head.answer(products).embeds
        parts = embeds.split(list(head.representation.widths.values()), dim=1)
        # A missing modality is zero; two products are compared by the modalities that both have.
        shared = [part.any(dim=1) & part[0].any() for part in parts]
        dots = sum(part @ part[0] for part in parts)
        norms = [
            sum(has.float() * part.square().sum(dim=1) for has, part in zip(shared, vectors, strict=True)).sqrt()
            for vectors in (parts, [part[:1] for part in parts])
        ]
        similarities = dots / (norms[0] * norms[1]).clamp(min=1e-6)
        return (similarities[1:] >= head.config.cluster_threshold).nonzero().flatten().tolist()

    def _represent(self, task: str, products: Sequence[Mapping[str, Any]]) -> Any:
        given = [{"text": (product["title"] or "").strip() or None, "image": product["image"]} for product in products]
        return self.heads[task].represent_products(self.processors[task], given)

    @torch.no_grad()
    def _logits(self, task: str, product: Mapping[str, Any]) -> Any:
        return self.heads[task].answer(self._represent(task, [product])).logits

    def _yes_or_no(self, task: str, logits: torch.Tensor) -> tuple[bool, float]:
        head = self.heads[task]
        probability = head.probabilities(logits).item()
        return probability >= head.decision_threshold, probability
