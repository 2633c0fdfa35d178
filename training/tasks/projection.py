"""The linear maps of a clustering head, trained on vectors of frozen towers."""

from collections.abc import Callable
from typing import Any

import torch

from modeling_eclip import ProductEmbeds
from training.data.sampler import RowOrder, batch_spans

__all__ = ["fit_projection"]


def fit_projection(
    head: Any,
    embeds: ProductEmbeds,
    labels: torch.Tensor,
    *,
    seed: int,
    after_epoch: Callable[[int], None],
    num_epochs: int = 10,
    batch_size: int = 512,
    learning_rate: float = 3e-4,
) -> None:
    """Train the linear maps of a clustering head, with products of one catalog side by side in batches.

    Args:
        head: The head; of its weights only the maps are trained.
        embeds: Products to learn from.
        labels: Catalog of each, int64, shape `(N,)`, negative for one that is alone.
        seed: Seed of the order.
        after_epoch: Called with the number of each epoch that is over.
        num_epochs: Passes over the products.
        batch_size: Products in a batch.
        learning_rate: Rate of AdamW.
    """
    order = RowOrder(len(labels), seed, catalog_ids=labels.numpy(), mates_share=1.0)
    optimizer = torch.optim.AdamW(head.product_projection.parameters(), lr=learning_rate)
    sides = dict(embeds)
    for epoch in range(num_epochs):
        for start, stop in batch_spans(batch_size, (epoch + 1) * len(labels), epoch * len(labels)):
            rows = torch.from_numpy(order.rows(start, stop))
            batch = ProductEmbeds(**{name: value[rows] for name, value in sides.items()})
            head.answer(batch, labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after_epoch(epoch + 1)
