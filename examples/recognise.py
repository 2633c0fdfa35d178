"""Recognise products that are for adults only: few of them, and nearly all of them are to be found.

    python examples/recognise.py outputs/quickstart

Needs a checkpoint, such as `make quickstart` leaves. The towers stay as they are, so every product is looked at once.
At scale: `accelerate launch training/finetune.py --checkpoint CHECKPOINT --task adult --method linear`.
"""

import sys

import torch
from transformers import pipeline

from modeling_eclip import EClipForAdultRecognition, EClipProcessor
from modeling_eclip.fitting import calibrate, fit_classifier, threshold_of_recall
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, num_offers: int = 1500, target_recall: float = 0.95) -> tuple[float, float]:
    """Learn from generated offers, print the decisions on others; return their precision and recall."""
    seeds, embeds, labels = {"train": 0, "validation": 1, "test": 2}, {}, {}  # rare: offers of their own for each
    catalog = {split: toy_catalog(num_offers, seed=seed)["train"] for split, seed in seeds.items()}
    head = EClipForAdultRecognition.from_pretrained(checkpoint, target_recall=target_recall).eval()
    processor = EClipProcessor.from_pretrained(checkpoint)
    for split, offers in catalog.items():
        products = offers.select_columns(["title", "image"]).rename_column("title", "text")
        embeds[split] = head.represent_products(processor, products)
        labels[split] = torch.tensor(offers["restricted"][:]).long()
    fit_classifier(head.classifier, embeds["train"], labels["train"], embeds["validation"], labels["validation"])
    with torch.no_grad():
        logits = {split: head.answer(embeds[split]).logits for split in ("validation", "test")}
    # By other offers: what a logit is worth as a probability, and from which probability on so many are found.
    head.config.calibration = calibrate(logits["validation"], labels["validation"])
    probabilities = head.probabilities(logits["validation"])
    head.config.decision_threshold = threshold_of_recall(probabilities, labels["validation"], target_recall)

    found, restricted = torch.tensor(head.decode(logits["test"])), labels["test"] == 1
    print(f"{restricted.sum()} of {len(restricted)} offers are restricted", end="")
    print(f"; predicted from a probability of {head.decision_threshold:.3f}")
    print(f"{'':16}{'restricted':>12}{'others':>12}")
    for name, predicted in (("recognised", found), ("let through", ~found)):
        print(f"{name:16}{(predicted & restricted).sum():>12}{(predicted & ~restricted).sum():>12}")
    precision = (found & restricted).sum().item() / max(1, found.sum().item())
    recall = (found & restricted).sum().item() / max(1, restricted.sum().item())
    print(f"precision {precision:.3f}, recall {recall:.3f}; target {target_recall}")

    print(f"\nsome of each, as the pipeline answers: adult from a probability of {head.decision_threshold:.3f}")
    recognise = pipeline("eclip-product-classification", model=head, processor=processor)
    for row in [*restricted.nonzero().flatten()[:3].tolist(), *(~restricted).nonzero().flatten()[:3].tolist()]:
        [answer] = recognise(text=(offer := catalog["test"][row])["title"], image=offer["image"])
        print(f"{offer['title'][:48]:50} {answer['label']} ({answer['score']:.2f})")
    return precision, recall


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
