"""sentence-transformers' side of the benchmarks: `sentence_transformers_side.py WORK JSON`."""

import io
import tempfile
from typing import Any

import torch
from measure import keep_vectors, measure, report
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from towers import build_embedder, build_model
from workloads import draw_offers, draw_photographs, draw_titles

from modeling_eclip import EClipModel


class _Embedder(torch.nn.Module):
    """The towers as a module of sentence-transformers: titles or images in, embeddings out."""

    def __init__(self, model: EClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Embed titles or images."""
        if "pixel_values" in features:
            output = self.model.get_image_features(pixel_values=features["pixel_values"])
        else:
            output = self.model.get_text_features(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"]
            )
        return {**features, "sentence_embedding": output.pooler_output}


def step(batch_size: int, stream_size: int) -> dict[str, float]:
    """One optimizer step with the symmetric form of the cached ranking loss.

    Titles are padded to the longest of the batch, as the library's collator does; the loss itself cuts each mini-batch
    to its longest. The scale is a number there and not trained.
    """

    def train(rows: int) -> float:
        longest = int(lengths[:rows].max())
        titles = {
            "input_ids": input_ids[:rows, :longest],
            "attention_mask": (torch.arange(longest) < lengths[:rows, None]).long(),
        }
        optimizer.zero_grad()
        value = loss([titles, {"pixel_values": pixel_values[:rows]}], None)
        value.backward()
        optimizer.step()
        return value.item()

    input_ids, lengths, pixel_values = draw_offers(batch_size)
    model = SentenceTransformer(modules=[_Embedder(build_model())], device="cpu").train()
    loss = CachedMultipleNegativesRankingLoss(
        model,
        scale=torch.tensor(3.0).exp().item(),
        mini_batch_size=stream_size,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    train(2 * stream_size)
    value, seconds, peak_bytes = measure(lambda: train(batch_size), calls=2)
    return {"value": value, "seconds": seconds, "peak_bytes": peak_bytes}


def titles(number: int, batch_size: int) -> dict[str, Any]:
    """Titles to vectors by `encode`."""
    encoder = _encoder()
    drawn = draw_titles(number)
    encoder.encode(drawn[:64])
    found, seconds, peak_bytes = measure(lambda: encoder.encode(drawn, batch_size=batch_size))
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def images(number: int, side: int, batch_size: int) -> dict[str, Any]:
    """JPEG files to vectors by `encode`, which takes Pillow images."""
    encoder = _encoder()
    files = draw_photographs(min(number, 100), side)

    def encode(rows: int) -> Any:
        images = [Image.open(io.BytesIO(files[place % len(files)])) for place in range(rows)]
        return encoder.encode(images, batch_size=batch_size)

    encode(32)
    found, seconds, peak_bytes = measure(lambda: encode(number))
    return {"vectors": keep_vectors(found), "seconds": seconds, "peak_bytes": peak_bytes}


def _encoder() -> SentenceTransformer:
    """The same model, as a checkpoint of it is loaded."""
    model, processor = build_embedder()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return SentenceTransformer(folder, trust_remote_code=True, device="cpu")


if __name__ == "__main__":
    report({"images": images, "step": step, "titles": titles})
