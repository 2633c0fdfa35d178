"""What is measured on held-out offers without a task: retrieval, by what the offers have."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from training.data.catalog_ids import NO_CATALOG
from training.data.sources import column_values, has_images, has_titles
from training.retrieval.offer_embeddings import embed_dataset, embed_modality
from training.retrieval.retrieval_metrics import mate_recall, retrieval_metrics

__all__ = ["HeldOutOffers"]

logger = logging.getLogger(__name__)

_WORDS = {"text": "title", "image": "image"}


@dataclass
class HeldOutOffers:
    """Held-out offers, by what can be measured on them.

    Args:
        pairs: Those with title and image: the image of a title is looked for, and the other way round.
        alone: By `"text"` or `"image"` all titles, or images, where some have no partner and some have catalog mates:
            those are looked for.
    """

    pairs: datasets.Dataset | None
    alone: dict[str, datasets.Dataset]

    @classmethod
    def of(cls, products: datasets.Dataset, split: str) -> "HeldOutOffers":
        """Find what can be measured, and tell it.

        Args:
            products: The offers.
            split: Their split, for the error.

        Raises:
            ValueError: nothing can be.
        """
        has = {"text": has_titles(products), "image": has_images(products)}
        both = has["text"] & has["image"]
        num_with_mates = {}
        for modality, rows in has.items():
            ids = column_values(products, "catalog_id")[rows]
            sizes = np.unique(ids[ids != NO_CATALOG], return_counts=True)[1]
            num_with_mates[modality] = int(sizes[sizes > 1].sum())
        if not both.any() and not any(num_with_mates.values()):
            raise ValueError(
                f"nothing can be measured on `{split}_data`: none of its {len(products)} offers has a title and an "
                "image, and no two titles, or images, share a catalog; name other data, or the right columns."
            )
        if both.any() and not both.all():
            logger.info("held-out offers: retrieval between titles and images of the %s that have both", both.sum())
        alone = {}
        for modality, rows in has.items():
            if not num_with_mates[modality] or not (rows & ~both).any():
                continue
            logger.info(
                "held-out offers: recall of catalog mates among %s %ss, for %s that have some",
                rows.sum(),
                _WORDS[modality],
                num_with_mates[modality],
            )
            alone[modality] = products.select(np.flatnonzero(rows))
        pairs = products if both.all() else products.select(np.flatnonzero(both)) if both.any() else None
        return cls(pairs, alone)

    @torch.no_grad()
    def measure(
        self,
        model: EClipModel,
        processor: EClipProcessor,
        accelerator: Accelerator,
        *,
        batch_size: int | None,
        num_workers: int,
    ) -> dict[str, float]:
        """Measure a model; all ranks call this together.

        Args:
            model: The model, not wrapped for distributed training.
            processor: Its processor.
            accelerator: The process's accelerator.
            batch_size: Offers embedded at a time, as for [`share_of`].
            num_workers: Processes that decode images.

        Returns:
            The metrics of [`retrieval_metrics`] of the pairs, and those of [`mate_recall`] of what is alone.
        """
        settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
        metrics: dict[str, float] = {}
        if self.pairs is not None:
            offers = embed_dataset(model, processor, self.pairs, accelerator, **settings)
            metrics |= retrieval_metrics(offers, accelerator)
        for modality, products in self.alone.items():
            embeddings = embed_modality(model, processor, products, accelerator, modality, **settings)
            metrics |= mate_recall(embeddings.embeds, embeddings.catalog_ids, of=_WORDS[modality])
        return metrics
