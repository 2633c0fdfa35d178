"""This package's side of the benchmarks: `eclip_side.py WORK JSON`."""

import tempfile
from typing import Any

import numpy as np
import torch
from measure import keep_vectors, measure, report
from towers import build_embedder, build_model
from workloads import draw_embeddings, draw_offers, draw_photographs, draw_products, draw_titles

from modeling_eclip import BinaryIndex, MultiStreamAccumulation, contrastive_loss, embed_products
from training.data.augmentation import ProductAugmentation
from training.data.images import read_view


def loss(batch_size: int, dim: int, is_sigmoid: bool = False) -> dict[str, float]:
    """Forward and backward of the contrastive loss; gradients of embeddings, scale and the bias of a sigmoid."""

    def forward_backward(text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> float:
        value = contrastive_loss(text_embeds, image_embeds, logit_scale, logit_bias=logit_bias)
        value.backward()
        return value.item()

    logit_scale = torch.tensor(3.0, requires_grad=True)
    logit_bias = torch.tensor(-10.0, requires_grad=True) if is_sigmoid else None
    forward_backward(*draw_embeddings(64, dim))
    text_embeds, image_embeds = draw_embeddings(batch_size, dim)
    value, seconds, peak_bytes = measure(lambda: forward_backward(text_embeds, image_embeds))
    return {"value": value, "seconds": seconds, "peak_bytes": peak_bytes}


def step(batch_size: int, text_stream_size: int, image_stream_size: int, keep_graphs: float) -> dict[str, float]:
    """One optimizer step by multi-stream accumulation."""

    def train(rows: int) -> float:
        longest = int(lengths[:rows].max())
        inputs = {
            "input_ids": input_ids[:rows, :longest],
            "attention_mask": (torch.arange(longest) < lengths[:rows, None]).long(),
            "pixel_values": pixel_values[:rows],
        }
        optimizer.zero_grad()
        value = accumulate(inputs)
        optimizer.step()
        model.clamp_logit_scale()
        return value.item()

    input_ids, lengths, pixel_values = draw_offers(batch_size)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    accumulate = MultiStreamAccumulation(
        model,
        text_stream_size=text_stream_size,
        image_stream_size=image_stream_size,
        keep_graphs=keep_graphs,
    )
    train(2 * image_stream_size)
    value, seconds, peak_bytes = measure(lambda: train(batch_size), calls=2)
    return {"value": value, "seconds": seconds, "peak_bytes": peak_bytes}


def decode(number: int, side: int, target: int) -> dict[str, float]:
    """JPEG files to RGB images of the target's size, by this package's training augmentation."""
    torch.set_num_threads(1)
    files = draw_photographs(number, side)
    augmentation = ProductAugmentation((target, target), min_crop_scale=0.9, flip_probability=0.0)
    rng = np.random.default_rng(0)

    def decode_all() -> None:
        for file in files:
            read_view({"bytes": file}, augmentation, rng)

    decode_all()
    _, seconds, peak_bytes = measure(decode_all)
    return {"value": target, "seconds": seconds, "peak_bytes": peak_bytes}


def titles(number: int) -> dict[str, Any]:
    """Titles to vectors."""
    model, processor = build_embedder()
    drawn = draw_titles(number)
    embed_products(model, processor, drawn[:64])
    found, seconds, peak_bytes = measure(lambda: embed_products(model, processor, drawn)["text_embeds"])
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def products(number: int, side: int, num_workers: int) -> dict[str, Any]:
    """Titles and JPEG files to vectors, decoding included; returns both vectors of a product, concatenated."""
    model, processor = build_embedder()
    drawn, files = draw_titles(number), _files(number, side)
    embed_products(model, processor, drawn[:64], files[:64])

    def embed() -> torch.Tensor:
        found = embed_products(model, processor, drawn, files, num_workers=num_workers)
        return torch.cat([found["text_embeds"], found["image_embeds"]], dim=1)

    found, seconds, peak_bytes = measure(embed)
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def images(number: int, side: int, num_workers: int) -> dict[str, Any]:
    """JPEG files to vectors, decoding included."""
    model, processor = build_embedder()
    files = _files(number, side)
    embed_products(model, processor, images=files[:64])
    found, seconds, peak_bytes = measure(
        lambda: embed_products(model, processor, images=files, num_workers=num_workers)["image_embeds"]
    )
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def search(number: int, dim: int, queries: int, candidates: int) -> dict[str, Any]:
    """The 10 nearest of each query by bits in memory, re-scored by vectors in a file."""
    vectors, asked = draw_products(number, dim, queries)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors)
        del vectors
        index = BinaryIndex(np.load(f"{folder}/vectors.npy", mmap_mode="r"))
        index.search(asked[:20], 10, num_candidates=candidates)
        found, seconds, peak_bytes = measure(lambda: index.search(asked, 10, num_candidates=candidates)[1])
    return {
        "neighbors": found.tolist(),
        "bytes_in_memory": index.code_bytes,
        "seconds": seconds,
        "peak_bytes": peak_bytes,
    }


def _files(number: int, side: int) -> list[bytes]:
    """A hundred photographs, repeated: drawing takes longer than embedding, and neither side caches images."""
    drawn = draw_photographs(min(number, 100), side)
    return [drawn[place % len(drawn)] for place in range(number)]


if __name__ == "__main__":
    works = (decode, images, loss, products, search, step, titles)
    report({work.__name__: work for work in works})
