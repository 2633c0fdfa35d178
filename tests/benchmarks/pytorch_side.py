"""PyTorch's side of the benchmarks of exports, this package's own model: `pytorch_side.py WORK JSON`."""

import torch
from measure import measure, report
from real_offers import build_pretrained, read_offers


def embed_part(part: str, number: int, batch_size: int) -> dict[str, float]:
    """Embed offers in float32, images in the layout that is faster for convolutions."""
    model, processor = build_pretrained()
    batches, _ = read_offers(processor, part, "test", number, batch_size)
    if part == "image":
        model.to(memory_format=torch.channels_last)
        batches = [
            {name: value.contiguous(memory_format=torch.channels_last) for name, value in batch.items()}
            for batch in batches
        ]

    @torch.inference_mode()
    def embed() -> torch.Tensor:
        return torch.cat([model(**batch)[f"{part}_embeds"] for batch in batches])

    embeds, seconds, peak_bytes = measure(embed, calls=3)
    return {"value": len(embeds), "seconds": seconds, "peak_bytes": peak_bytes}


if __name__ == "__main__":
    report({"embed_part": embed_part})
