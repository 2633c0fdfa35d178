"""The loop that transformers' documentation shows: batches in the order of arrival, each padded to its longest."""

import io
from typing import Any

import torch
from measure import keep_vectors, measure, report
from PIL import Image
from towers import build_embedder
from workloads import draw_photographs, draw_titles


def titles(number: int, batch_size: int) -> dict[str, Any]:
    """Titles to vectors."""
    model, processor = build_embedder()
    drawn = draw_titles(number)

    @torch.no_grad()
    def embed(rows: int) -> torch.Tensor:
        found = []
        for start in range(0, rows, batch_size):
            inputs = processor.tokenizer(
                drawn[start : start + batch_size],
                padding=True,
                truncation=True,
                return_token_type_ids=False,
                return_tensors="pt",
            )
            found.append(model(**inputs).text_embeds)
        return torch.cat(found)

    embed(64)
    found, seconds, peak_bytes = measure(lambda: embed(number))
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def products(number: int, side: int, batch_size: int) -> dict[str, Any]:
    """Titles and JPEG files to vectors, decoding by Pillow included."""
    model, processor = build_embedder()
    drawn, files = draw_titles(number), draw_photographs(min(number, 100), side)

    @torch.no_grad()
    def embed(rows: int) -> torch.Tensor:
        found = []
        for start in range(0, rows, batch_size):
            places = range(start, min(start + batch_size, rows))
            images = [Image.open(io.BytesIO(files[place % len(files)])).convert("RGB") for place in places]
            inputs = dict(processor.image_processor(images, return_tensors="pt"))
            inputs |= processor.tokenizer(
                [drawn[place] for place in places],
                padding=True,
                truncation=True,
                return_token_type_ids=False,
                return_tensors="pt",
            )
            output = model(**inputs)
            found.append(torch.cat([output.text_embeds, output.image_embeds], dim=1))
        return torch.cat(found)

    embed(32)
    found, seconds, peak_bytes = measure(lambda: embed(number))
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


if __name__ == "__main__":
    report({"products": products, "titles": titles})
