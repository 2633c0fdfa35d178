"""Pre-training with LoRA: adapters by peft in both towers of a CLIP, SigLIP or SigLIP 2 checkpoint.

    python examples/lora_pretraining.py google/siglip2-base-patch16-224 outputs/lora

Leaves the e-CLIP model in `base`, what was learned in `adapters` alone, and both merged in `merged`, a model of
transformers' own, which loads without this package. At scale: `training/train.py --lora_rank 8 --merge false`.
"""

import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export import save_stock, stock_model, stock_processor
from modeling_eclip.toy import toy_catalog

LAYERS = r".*layers\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"  # of the blocks; projections stay: SigLIP has none


def learn(model: PeftModel, processor: EClipProcessor, num_steps: int, batch_size: int = 64) -> list[float]:
    """Take steps on generated offers; return the losses."""
    offers, losses = toy_catalog(2 * num_steps * batch_size)["train"].shuffle(seed=0), []
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for batch in offers.take(num_steps * batch_size).iter(batch_size):
        catalogs = torch.tensor([-1 if one is None else one for one in batch["catalog_id"]])  # -1: alone
        inputs = processor(text=batch["title"], images=batch["image"], return_tensors="pt")
        loss = model.train()(**inputs, catalog_ids=catalogs, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main(source: str, folder: str, num_steps: int = 20) -> list[float]:
    """Learn, save the adapters, load them on the base, merge and export; return the losses."""
    torch.manual_seed(0)
    processor = EClipProcessor.from_pretrained(source)
    EClipModel.from_clip(source).save_pretrained(f"{folder}/base")
    processor.save_pretrained(f"{folder}/base")
    model = EClipModel.from_pretrained(f"{folder}/base")  # adapters keep where it comes from
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LAYERS))
    print("{:,} of {:,} parameters are trained".format(*adapted.get_nb_trainable_parameters()))
    losses = learn(adapted, processor, num_steps)
    adapted.save_pretrained(f"{folder}/adapters")

    again = PeftModel.from_pretrained(EClipModel.from_pretrained(f"{folder}/base"), f"{folder}/adapters")
    merged = again.merge_and_unload()
    save_stock(stock_model(merged), stock_processor(processor, merged.config), f"{folder}/merged")
    print(
        f"loss {losses[0]:.3f} before, {losses[-1]:.3f} after {num_steps} steps; merged weights are in {folder}/merged"
    )
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
