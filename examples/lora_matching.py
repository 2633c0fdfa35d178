"""Product matching with LoRA: are two offers of one product? Adapters by peft, and a symmetric function of both.

Call it with a checkpoint: `python examples/lora_matching.py outputs/quickstart`.
"""

import random
import sys

import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import average_precision_score

from modeling_eclip import EClipForProductMatching, EClipProcessor
from modeling_eclip.toy import toy_catalog


def draw_pairs(catalogs: list[int | None]) -> list[tuple[int, int, int]]:
    """Return pairs of rows, 1 for two offers of one product, and for each up to three pairs of two, 0."""
    dice = random.Random(0)
    rows = sorted((catalog, row) for row, catalog in enumerate(catalogs) if catalog is not None)
    pairs = [(left, right, 1) for (one, left), (other, right) in zip(rows[:-1], rows[1:], strict=True) if one == other]
    pairs += [(left, dice.randrange(len(catalogs)), 0) for left, *_ in pairs * 3]
    kept = [(left, right, same) for left, right, same in pairs if same or catalogs[left] != catalogs[right]]
    return dice.sample(kept, len(kept))


def main(checkpoint: str, num_offers: int = 1000, num_epochs: int = 2, batch_size: int = 32) -> tuple[float, float]:
    """Train on pairs of drawn offers; print the average precision on others before and after."""
    processor, catalog = EClipProcessor.from_pretrained(checkpoint), toy_catalog(num_offers)
    trained, tested = (draw_pairs(catalog[split]["catalog_id"][:]) for split in ("train", "test"))
    own = ["classifier", "representation"]  # what is new is trained whole
    lora = LoraConfig(target_modules="all-linear", exclude_modules=r"classifier\..*|.*projection", modules_to_save=own)
    model = get_peft_model(EClipForProductMatching.from_pretrained(checkpoint), lora)
    print("{:,} of {:,} parameters are trained".format(*model.get_nb_trainable_parameters()))

    def run(split: str, pairs: list[tuple[int, int, int]]):
        offers = catalog[split][[row for left, right, _ in pairs for row in (left, right)]]
        inputs = processor(text=offers["title"], images=offers["image"], return_tensors="pt")
        shaped = {name: value.unflatten(0, (-1, 2)) for name, value in inputs.items()}  # (pairs, 2, ...)
        return model.train(split == "train")(**shaped, labels=torch.tensor([label for *_, label in pairs]))

    @torch.no_grad()
    def measure() -> float:
        scores = [run("test", tested[start : start + 64]).logits for start in range(0, len(tested), 64)]
        return average_precision_score([label for *_, label in tested], torch.cat(scores))

    before = measure()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4)
    for start in range(0, num_epochs * len(trained), batch_size):
        run("train", (trained * num_epochs)[start : start + batch_size]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"average precision on other pairs: {before:.3f} without training, {(after := measure()):.3f} with")
    return before, after


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
