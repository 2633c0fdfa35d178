"""Retrieval as an entry of the report: the image for a title and the title for an image, without learning a head.

An image (a title) of the same catalog counts as found, and so does that of an equal title. There is nothing to learn
from labels, and the classical method has no way from titles to images.
"""

from typing import Any

import numpy as np
import torch

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.retrieval.ranking import judge_queries
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.data.catalog_ids import stable_id
from training.engine.build import build_model, build_processor, load_split
from training.engine.setup import open_accelerator
from training.retrieval.offer_embeddings import embed_dataset
from training.tasks.answers import TaskAnswers
from training.tasks.registry import TASKS, find_task
from training.tasks.task import Task

__all__ = ["RETRIEVAL", "RetrievalTask", "rank_offers", "reported_task"]

RETRIEVAL = "retrieval"
_DIRECTIONS = ["text_to_image", "image_to_text"]
_REPORTED = ("recall@1", "recall@10", "ndcg@10", "mean_reciprocal_rank", "mean_average_precision")


class RetrievalTask(Task):
    """What the report asks of a task; none that `finetune.py` learns."""

    name = RETRIEVAL
    metric = "product_retrieval"
    reported = tuple(f"{direction}_{name}" for direction in _DIRECTIONS for name in _REPORTED)

    @classmethod
    def is_drawn(cls, metric: str) -> bool:
        """Draw no curve: no labels are learned from."""
        return False


def reported_task(name: str) -> type[Task]:
    """Return what the report measures: one of the tasks, or retrieval.

    Raises:
        ValueError: there is no such task.
    """
    return RetrievalTask if name == RETRIEVAL and name not in TASKS else find_task(name)


def rank_offers(source: ModelArguments, data: DataArguments, *, batch_size: int | None) -> TaskAnswers:
    """Search the test offers by each other's titles and images.

    Args:
        source: Folder or Hub id of an e-CLIP or CLIP checkpoint.
        data: The data arguments.
        batch_size: Offers embedded at a time, as for [`share_of`].

    Returns:
        How well each offer's right ones are found, in both directions.
    """
    products = load_split(data, "test")
    processor: EClipProcessor = build_processor(source, ())
    model: EClipModel = build_model(source, processor.tokenizer, seed=0).float().eval()
    offers = embed_dataset(
        model, processor, products, open_accelerator(), batch_size=batch_size, num_workers=data.num_workers
    )
    groups = [offers.catalog_ids, torch.tensor([stable_id(title) for title in offers.titles])]
    sides = (offers.text_embeds, offers.image_embeds)
    judged = [judge_queries(*pair, groups) for pair in (sides, sides[::-1])]
    # What the metric takes: rank of the first, average precision and nDCG, shape (N, directions, 3).
    answered: Any = torch.stack([torch.stack(one[1:], dim=-1) for one in judged], dim=1).numpy()
    skipped = len(products) - len(offers.titles)
    return TaskAnswers(
        RetrievalTask.metric,
        answered,
        np.zeros(len(answered), dtype=np.int64),
        offers.catalog_ids.numpy(),
        metric_settings={"directions": _DIRECTIONS},
        left_out={"unusable": skipped} if skipped else {},
    )
