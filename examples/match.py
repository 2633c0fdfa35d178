"""Find offers of one product: compare nearest neighbours alone, without any training.

    python examples/match.py outputs/quickstart

Needs a checkpoint, such as `make quickstart` leaves; the head's weights, which are listed as new, start from cosines.
Fitted, on other offers, is the threshold alone. To learn more: `training/finetune.py --task matching`.
"""

import sys

import torch
from datasets import Dataset

from modeling_eclip import EClipForProductMatching, EClipProcessor
from modeling_eclip.fitting import threshold_of_best_f1
from modeling_eclip.toy import toy_catalog


@torch.no_grad()
def score_candidates(
    head: EClipForProductMatching, processor: EClipProcessor, offers: Dataset
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pairs of offers, the probability that they are of one product, and whether they are."""
    products = offers.select_columns(["title", "image"]).rename_column("title", "text")
    embeds = head.represent_products(processor, products)
    pairs = head.candidates(embeds)  # nearest neighbours by title, by image and by both
    # An offer without a catalog is alone: it gets a number of its own.
    product = torch.tensor([-1 - row if number is None else number for row, number in enumerate(offers["catalog_id"])])
    return pairs, head.probabilities(head.score_pairs(embeds, pairs)), product[pairs[:, 0]] == product[pairs[:, 1]]


def main(checkpoint: str, num_offers: int = 2000) -> tuple[float, float]:
    """Match generated offers, print some pairs; return precision and recall."""
    head = EClipForProductMatching.from_pretrained(checkpoint).eval()
    processor = EClipProcessor.from_pretrained(checkpoint)
    catalog = toy_catalog(num_offers)
    _, probabilities, same = score_candidates(head, processor, catalog["validation"])
    head.config.decision_threshold = threshold_of_best_f1(probabilities, same.int())

    offers = catalog["test"]
    pairs, probabilities, same = score_candidates(head, processor, offers)
    found = probabilities >= head.decision_threshold
    catalogs = [number for number in offers["catalog_id"] if number is not None]
    num_right = sum(catalogs.count(number) - 1 for number in catalogs) // 2
    precision = (found & same).sum().item() / max(1, found.sum().item())
    recall = (found & same).sum().item() / max(1, num_right)
    print(f"{len(offers)} offers: {len(pairs)} pairs compared of {len(offers) * (len(offers) - 1) // 2}")
    print(f"{found.sum()} pairs predicted to be of one product; precision {precision:.3f}, recall {recall:.3f}")
    for name, chosen in (("right", found & same), ("wrong", found & ~same), ("missed", ~found & same)):
        for place in chosen.nonzero().flatten()[:3].tolist():
            left, right = (offers[row]["title"][:36] for row in pairs[place].tolist())
            print(f"{name:7} {probabilities[place]:.2f}  {left:38} {right}")
    return precision, recall


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
