"""Sort products into a category tree: by the names of the categories alone, then by a classifier learnt in seconds.

    python examples/classify.py outputs/quickstart outputs/classify

Needs a checkpoint, such as `make quickstart` leaves. The towers stay as they are, so every product is looked at once.
At scale: `accelerate launch training/finetune.py --checkpoint CHECKPOINT --task category --method linear`.
"""

import sys

import torch
from transformers import pipeline

from modeling_eclip import EClipForCategoryClassification, EClipProcessor
from modeling_eclip.fitting import fit_classifier
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, num_offers: int = 2000) -> tuple[float, float]:
    """Learn from generated offers, save the head, use it; return the accuracy on other offers before and after."""
    catalog = toy_catalog(num_offers)
    paths = sorted({tuple(path) for path in catalog["train"]["category"]})
    head = EClipForCategoryClassification.from_pretrained(checkpoint, category_paths=[list(path) for path in paths])
    processor = EClipProcessor.from_pretrained(checkpoint)
    embeds, labels = {}, {}
    for split, offers in catalog.items():
        products = offers.select_columns(["title", "image"]).rename_column("title", "text")
        embeds[split] = head.eval().represent_products(processor, products)
        # -100 is a category that training has not seen.
        leaves = [paths.index(path) if (path := tuple(row)) in paths else -100 for row in offers["category"]]
        labels[split] = torch.tensor(leaves)

    def accuracy(logits: torch.Tensor) -> float:
        return (logits.argmax(dim=1) == labels["test"]).float().mean().item()

    by_name = accuracy(head.zero_shot(head.embed_categories(processor), embeds["test"]).logits)
    fit_classifier(head.classifier, embeds["train"], labels["train"], embeds["validation"], labels["validation"])
    learnt = accuracy(head.answer(embeds["test"]).logits)
    print(
        f"{len(paths)} categories, {len(labels['test'])} offers: {by_name:.1%} right by name, {learnt:.1%} when learnt"
    )

    head.save_pretrained(folder)
    processor.save_pretrained(folder)
    classify = pipeline("eclip-product-classification", model=folder, trust_remote_code=True)
    for offer in catalog["test"].select(range(5)):
        print(offer["title"][:60])
        for answer in classify(text=offer["title"], image=offer["image"], top_k=2):
            print(f"    {answer['score']:.2f} {answer['label']}")
    return by_name, learnt


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
