"""Train e-CLIP in a loop of your own: a model, a batch as large as you like, an optimizer.

    python examples/own_loop.py

Builds small towers from configurations; with weights from the Hub it would be
`EClipModel.from_towers("google/vit-base-patch16-224", "google-bert/bert-base-uncased")`.
"""

import torch
from transformers import ViTImageProcessorPil

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor, MultiStreamAccumulation
from modeling_eclip.fitting import train_title_tokenizer
from modeling_eclip.toy import toy_catalog


def main(num_steps: int = 40, batch_size: int = 64) -> float:
    """Train some steps on generated offers and return the last loss."""
    offers = toy_catalog(1000)["train"].shuffle(seed=0)
    tokenizer = train_title_tokenizer(offers["title"], vocab_size=1000)
    size = {"height": 32, "width": 32}
    processor = EClipProcessor(ViTImageProcessorPil(size=size), tokenizer, max_title_length=16)
    text_tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = EClipConfig(
        vision_config={"model_type": "convnext", "num_stages": 2, "hidden_sizes": [32, 64], "depths": [1, 1]},
        text_config={"model_type": "bert", "vocab_size": len(tokenizer), **text_tower},
        projection_dim=64,
    )
    model = EClipModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    # Memory holds 32 offers at a time; each is contrasted with the whole batch all the same.
    accumulate = MultiStreamAccumulation(model, stream_size=32)
    for step in range(num_steps):
        start = step * batch_size % len(offers)
        rows = offers[start : start + batch_size]
        # The offers of one catalog are one product: no negatives of each other. -1 is an offer that is alone.
        catalog_ids = torch.tensor([-1 if number is None else number for number in rows["catalog_id"]])
        inputs = processor(text=rows["title"], images=rows["image"], return_tensors="pt")
        loss = accumulate(inputs, catalog_ids)  # forward and backward
        optimizer.step()
        optimizer.zero_grad()
        model.clamp_logit_scale()
        if step % 10 == 0 or step == num_steps - 1:
            print(f"step {step:3}  loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main()
