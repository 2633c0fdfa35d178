"""Product matching with LoRA: are two offers of one product? Adapters by peft, and a symmetric function of both.

    python examples/lora_matching.py outputs/quickstart

At scale: `accelerate launch training/finetune.py --checkpoint CHECKPOINT --task matching --method lora`.
"""

import sys
from itertools import pairwise

import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import average_precision_score

from modeling_eclip import EClipForProductMatching, EClipProcessor
from modeling_eclip.toy import toy_catalog


def draw_pairs(catalogs: list[int | None]) -> torch.Tensor:
    """Return pairs of rows with 1 for two offers of one product, else 0: each offer and the next one, and 3 others."""
    rows = sorted((catalog, row) for row, catalog in enumerate(catalogs) if catalog is not None)
    mates = [(left, right) for (one, left), (other, right) in pairwise(rows) if one == other]
    pairs = mates + [(left, int(torch.randint(len(catalogs), ()))) for left, _ in mates * 3]
    return torch.tensor([(one, two, catalogs[one] == catalogs[two]) for one, two in pairs])[torch.randperm(len(pairs))]


def main(checkpoint: str, num_offers: int = 1000, num_epochs: int = 2, batch_size: int = 32) -> tuple[float, float]:
    """Train on pairs of generated offers; print the average precision on others before and after."""
    torch.manual_seed(0)
    processor, catalog = EClipProcessor.from_pretrained(checkpoint), toy_catalog(num_offers)
    pairs = {split: draw_pairs(catalog[split]["catalog_id"][:]) for split in ("train", "test")}
    own = ["classifier", "representation"]  # what is new is trained whole
    lora = LoraConfig(target_modules="all-linear", exclude_modules=r"classifier\..*|.*projection", modules_to_save=own)
    model = get_peft_model(EClipForProductMatching.from_pretrained(checkpoint), lora)
    print("{:,} of {:,} parameters are trained".format(*model.get_nb_trainable_parameters()))

    def run(split: str, pairs: torch.Tensor):
        offers = catalog[split][pairs[:, :2].flatten().tolist()]
        inputs = processor(text=offers["title"], images=offers["image"], return_tensors="pt")
        shaped = {name: value.unflatten(0, (-1, 2)) for name, value in inputs.items()}  # (pairs, 2, ...)
        return model.train(split == "train")(**shaped, labels=pairs[:, 2])

    @torch.no_grad()
    def measure() -> float:
        return average_precision_score(pairs["test"][:, 2], run("test", pairs["test"]).logits)

    before = measure()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4)
    for some in pairs["train"].repeat(num_epochs, 1).split(batch_size):
        run("train", some).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"average precision on other pairs: {before:.3f} without training, {(after := measure()):.3f} with")
    return before, after


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
