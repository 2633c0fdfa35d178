"""Tell the attributes of products, colour and pattern, from the title, from the image and from both.

    python examples/extract.py outputs/quickstart

Needs a checkpoint, such as `make quickstart` leaves. The towers stay as they are, so every product is looked at once.
At scale: `accelerate launch training/finetune.py --checkpoint CHECKPOINT --task attributes --method linear`.
"""

import sys

import torch
from transformers import pipeline

from modeling_eclip import EClipForAttributeExtraction, EClipProcessor
from modeling_eclip.fitting import fit_classifier
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, num_offers: int = 2000) -> dict[str, float]:
    """Learn from generated offers, print what is told of others; return the accuracy of each attribute."""
    catalog = toy_catalog(num_offers)
    values = {name: sorted(set(catalog["train"][name])) for name in ("colour", "pattern")}
    head = EClipForAttributeExtraction.from_pretrained(checkpoint, attributes=values).eval()
    processor = EClipProcessor.from_pretrained(checkpoint)
    embeds = {}
    for split, offers in catalog.items():
        products = offers.select_columns(["title", "image"]).rename_column("title", "text")
        embeds[split] = head.represent_products(processor, products)

    accuracies = {}
    for (name, known), classifier in zip(head.values.items(), head.classifier.attributes, strict=True):
        # -100 is a value that training has not seen.
        columns = {split: [known.index(v) if v in known else -100 for v in catalog[split][name]] for split in catalog}
        labels = {split: torch.tensor(column) for split, column in columns.items()}
        fit_classifier(classifier, embeds["train"], labels["train"], embeds["validation"], labels["validation"])
        answers = head.answer(embeds["test"]).logits[name].argmax(dim=1)
        accuracies[name] = (answers == labels["test"]).float().mean().item()
        usual = labels["train"].mode().values
        guessed = (labels["test"] == usual).float().mean()
        print(f"{name}: {accuracies[name]:.1%} right; {guessed:.1%} if it were always {known[usual]}")

    extract = pipeline("eclip-product-classification", model=head, processor=processor)
    for offer in catalog["test"].select(range(5)):
        text, image = offer["title"], offer["image"]
        print(text[:60])
        for modality, answer in (
            ("title", extract(text)),
            ("image", extract(image)),
            ("both", extract(text=text, image=image)),
        ):
            told = ", ".join(f"{name} {best['label']} ({best['score']:.2f})" for name, [best] in answer.items())
            print(f"    by {modality}: {told}")
    return accuracies


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
