"""Real offers and pretrained towers for benchmarks of inference; both lie beside the checkout, in `../shared`."""

import datasets
import torch
from sides import ROOT

from modeling_eclip import EClipModel, EClipProcessor

__all__ = ["SHARED", "build_pretrained", "mates_recall", "read_offers"]

SHARED = ROOT.parent / "shared"
_TOWERS = (str(SHARED / "towers" / "efficientnet-lite0"), str(SHARED / "towers" / "minilm-l6"))


def build_pretrained() -> tuple[EClipModel, EClipProcessor]:
    """Return the towers as one model (new projections, the same in every process) with images of 128 px."""
    torch.manual_seed(0)
    model = EClipModel.from_towers(*_TOWERS, projection_dim=256).eval()
    return model, EClipProcessor.from_towers(*_TOWERS, image_size=128, max_title_length=32)


def read_offers(
    processor: EClipProcessor, part: str, split: str, number: int, batch_size: int
) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    """Return the inputs of the first offers of a split, titles sorted by length, and their catalogs, `(number,)`."""
    file = str(SHARED / "data" / "offers" / f"{split}.parquet")
    offers = datasets.load_dataset("parquet", data_files=file, split="train").select(range(number))
    titles = offers["title"][:]
    order = sorted(range(number), key=lambda row: len(titles[row]))
    batches = []
    for start in range(0, number, batch_size):
        rows = offers.select(order[start : start + batch_size])
        given = {"text": rows["title"][:]} if part == "text" else {"images": rows["image"][:]}
        batches.append(dict(processor(**given, return_tensors="pt")))
    return batches, torch.tensor([offers["catalog_id"][row] for row in order])


def mates_recall(embeds: torch.Tensor, catalogs: torch.Tensor) -> float:
    """Return the share of offers that have another one of their catalog among the 10 nearest to them.

    Args:
        embeds: Unit vectors, shape `(N, D)`.
        catalogs: Catalog of each, shape `(N,)`; offers that are alone in theirs are not asked about.
    """
    is_mate = (catalogs[:, None] == catalogs).fill_diagonal_(False)
    nearest = (embeds @ embeds.T).fill_diagonal_(-2).topk(10).indices
    return is_mate.gather(1, nearest).any(dim=1)[is_mate.any(dim=1)].float().mean().item()
