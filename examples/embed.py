"""Embed products with an e-CLIP checkpoint and find the image of a title.

    python examples/embed.py outputs/quickstart

Needs a checkpoint, for instance the one that `make quickstart` leaves.
"""

import sys

import torch
from transformers import AutoModel, AutoProcessor

import modeling_eclip  # noqa: F401  (registers e-CLIP; without it, pass trust_remote_code=True below)
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str) -> None:
    """Print, for some titles, the title of the offer whose image is nearest."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    offers = toy_catalog(200)["test"]  # your own: any list of titles and PIL images
    titles, images = list(offers["title"]), list(offers["image"])
    with torch.no_grad():
        outputs = model(**processor(text=titles, images=images, return_tensors="pt"))
    print(f"{len(titles)} offers, embeddings of {outputs.text_embeds.shape[1]} dimensions")
    for title, similarities in list(zip(titles, outputs.logits_per_text, strict=True))[:5]:
        nearest = int(similarities.argmax())
        print(f"{title[:40]:42} -> image of: {titles[nearest][:40]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
