"""Category classification with LoRA: adapters by peft in both towers, and a new classifier on top.

    python examples/lora_category.py outputs/quickstart

Needs a checkpoint, for instance the one that `make quickstart` leaves. At scale, with checkpoints and validation:
`accelerate launch training/finetune.py --checkpoint CHECKPOINT --task category --method lora`.
"""

import sys

import torch
from peft import LoraConfig, get_peft_model

from modeling_eclip import EClipForCategoryClassification, EClipProcessor
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, num_offers: int = 2000, num_epochs: int = 2, batch_size: int = 32) -> float:
    """Train on generated offers; print the accuracy on others, and what is answered about some."""
    torch.manual_seed(0)
    catalog = toy_catalog(num_offers)
    paths = sorted({tuple(path) for path in catalog["train"]["category"]})
    processor = EClipProcessor.from_pretrained(checkpoint)
    head = EClipForCategoryClassification.from_pretrained(checkpoint, category_paths=[list(path) for path in paths])
    own = ["classifier", "representation"]  # what is new is trained whole
    lora = LoraConfig(target_modules="all-linear", exclude_modules=r"classifier\..*|.*projection", modules_to_save=own)
    model = get_peft_model(head, lora)
    trained, total = model.get_nb_trainable_parameters()
    print(f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})")

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    for epoch in range(num_epochs):
        for batch in catalog["train"].shuffle(seed=epoch).iter(batch_size):
            labels = torch.tensor([paths.index(tuple(path)) for path in batch["category"]])
            inputs = processor(text=batch["title"], images=batch["image"], return_tensors="pt")
            loss = model.train()(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}  loss {loss.item():.3f}")

    offers = catalog["test"]
    inputs = processor(text=offers["title"][:], images=offers["image"][:], return_tensors="pt")
    with torch.no_grad():
        answers = head.eval().decode(model(**inputs).logits)
    right = [answer[0][0] == tuple(path) for answer, path in zip(answers, offers["category"], strict=True)]
    for title, [(path, probability)] in list(zip(offers["title"], answers, strict=True))[:5]:
        print(f"{title[:40]:42} -> {' > '.join(path)} ({probability:.2f})")
    print(f"{sum(right)} of {len(right)} offers in the right one of {len(paths)} categories")
    return sum(right) / len(right)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
