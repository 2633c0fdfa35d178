"""Product matching with LoRA: are two offers of one product? Adapters by peft, and a symmetric function of both.

    python examples/lora_matching.py outputs/quickstart

Needs a checkpoint, for instance the one that `make quickstart` leaves. At scale, with checkpoints and validation:
`accelerate launch training/finetune.py --checkpoint CHECKPOINT --task matching --method lora`.
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import average_precision_score

from modeling_eclip import EClipForProductMatching, EClipProcessor
from training.data.loaders import evaluation_loader, train_loader
from training.data.pairs import pairs_of_catalogs
from training.data.read_tables import load_products
from training.retrieval.offer_embeddings import model_inputs


def main(checkpoint: str, num_offers: int = 1000, num_epochs: int = 2, batch_size: int = 32) -> tuple[float, float]:
    """Train on pairs of drawn offers; print the average precision on others before and after."""
    device = torch.device("cpu")
    processor = EClipProcessor.from_pretrained(checkpoint)
    pairs = {}
    for split in ("train", "test"):  # offers of one product, and for each three of two, half of them of one kind
        products = load_products(["toy"], split=split, toy_offers=num_offers)
        pairs[split] = pairs_of_catalogs(products, seed=0, group_column="category")
    head = EClipForProductMatching.from_pretrained(checkpoint)
    own = ["classifier", "representation"]  # what is new is trained whole
    lora = LoraConfig(target_modules="all-linear", exclude_modules=r"classifier\..*|.*projection", modules_to_save=own)
    model = get_peft_model(head, lora)
    trained, total = model.get_nb_trainable_parameters()
    print(f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})")

    def measure() -> float:
        scores, labels = [], []
        for batch in evaluation_loader(pairs["test"], processor, batch_size=64, modality="both"):
            labels += batch["labels"].tolist()
            with torch.no_grad():
                scores += model.eval()(**model_inputs(batch, device)).logits.tolist()
        return average_precision_score(labels, scores)

    before = measure()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4)
    settings = {"batch_size": batch_size, "total_samples": num_epochs * len(pairs["train"]), "modality": "both"}
    for batch in train_loader(pairs["train"], processor, seed=0, **settings):
        model.train()(**model_inputs(batch, device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = measure()
    print(f"average precision on {len(pairs['test'])} pairs: {before:.3f} without training, {after:.3f} with")
    return before, after


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
