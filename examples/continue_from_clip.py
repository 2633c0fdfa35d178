"""Continue from a CLIP, SigLIP or SigLIP 2 checkpoint: the same embeddings, now an e-CLIP model.

    python examples/continue_from_clip.py google/siglip2-base-patch16-224 outputs/from_siglip2

Then train it: `accelerate launch training/train.py --checkpoint FOLDER --train_data DATA --output_dir OUTPUT`.
"""

import sys

import torch
from PIL import Image

from modeling_eclip import EClipModel, EClipProcessor


def main(source: str, folder: str) -> None:
    """Save the checkpoint as an e-CLIP one and print a similarity."""
    model = EClipModel.from_clip(source)
    processor = EClipProcessor.from_pretrained(source)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    inputs = processor(text=["a red square"], images=[Image.new("RGB", (64, 64), "red")], return_tensors="pt")
    with torch.no_grad():
        similarity = model(**inputs).logits_per_text.item()
    print(
        f"{folder}: {model.num_parameters() / 1e6:.1f} million weights, projection_dim {model.config.projection_dim}"
    )
    print(f"similarity of 'a red square' to a red square: {similarity:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
