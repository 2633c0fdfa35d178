"""The data of the benchmarks, drawn from seeds, so that each side draws the same in its own process.

Needs torch, numpy and Pillow only.
"""

import io
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

__all__ = [
    "CONTEXT_LENGTH",
    "TOWER",
    "VOCAB_SIZE",
    "draw_embeddings",
    "draw_offers",
    "draw_photographs",
    "draw_products",
    "draw_titles",
    "draw_weight",
]

# The same shape for both towers of CLIP, small enough for 2 cores; 50 tokens per image, as in ViT-B/32.
TOWER = {"width": 128, "layers": 6, "heads": 2, "image_size": 112, "patch_size": 16, "projection_dim": 128}
VOCAB_SIZE = 8192
CONTEXT_LENGTH = 77


def draw_embeddings(batch_size: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return leaves of unit rows for titles and images, each float32 of shape `(batch_size, dim)`."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(batch_size, dim, generator=generator) for _ in range(2)]
    text_embeds, image_embeds = (torch.nn.functional.normalize(rows).requires_grad_() for rows in pair)
    return text_embeds, image_embeds


def draw_offers(batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a batch of titles of 20 tokens in the mean, and of images.

    Lengths are log-normal (standard deviation of the logarithm 0.4, so that nine in ten lie between 9 and 36), from 4
    to the 77 tokens that CLIP has room for; the last token is the end of the title.

    Returns:
        `input_ids`, int64 of shape `(batch_size, CONTEXT_LENGTH)`, padded with 0; `lengths`, int64 of shape
        `(batch_size,)`; `pixel_values`, float32 of shape `(batch_size, 3, image_size, image_size)`.
    """
    generator = torch.Generator().manual_seed(1)
    logarithms = 0.4 * torch.randn(batch_size, generator=generator)
    lengths = (20 * torch.exp(logarithms - 0.4**2 / 2)).round().long().clamp(4, CONTEXT_LENGTH)
    input_ids = torch.randint(1, VOCAB_SIZE - 1, (batch_size, CONTEXT_LENGTH), generator=generator)
    places = torch.arange(CONTEXT_LENGTH)
    input_ids[places >= lengths[:, None]] = 0
    input_ids[places == lengths[:, None] - 1] = VOCAB_SIZE - 1
    side = TOWER["image_size"]
    return input_ids, lengths, torch.randn(batch_size, 3, side, side, generator=generator)


def draw_weight(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Return a weight that depends only on its name in transformers, which both sides use."""
    if "norm" in name or "layrnorm" in name:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 and "embedding" not in name else 2500
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * fan_in**-0.5


def draw_titles(number: int) -> list[str]:
    """Return titles of words from a seed, as long as those of `draw_offers`: 20 words in the mean."""
    rng = np.random.default_rng(3)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(2000)]
    lengths = np.exp(rng.normal(np.log(20) - 0.4**2 / 2, 0.4, number)).round().astype(int).clip(4, 75)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def draw_products(number: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of unit length as those of products: kinds within departments, products within kinds.

    Every level is normal about the one above; directions differ in how much they vary (as rank to the power of -0.5,
    as the spectra of trained embeddings fall), in a random rotation, and all share a mean, as vectors of one modality
    do. Queries are noisy versions of products that are not among the vectors themselves, from the same kinds.

    Returns:
        The vectors, float32 of shape `(number, dim)`, and queries, float32 of shape `(queries, dim)`.
    """
    rng = np.random.default_rng(4)
    spectrum = np.arange(1, dim + 1) ** -0.5
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    turned = (spectrum[:, None] * rotation).astype(np.float32)

    def noise(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, dim), dtype=np.float32) @ turned

    departments = noise(40)
    kinds = departments[rng.integers(0, 40, 2000)] + 0.7 * noise(2000)
    products = kinds[rng.integers(0, 2000, number + queries)] + 0.5 * noise(number + queries) + 0.5 * noise(1)
    products[number:] += 0.2 * noise(queries)
    products /= np.linalg.norm(products, axis=1, keepdims=True)
    return products[:number], products[number:]


def draw_photographs(number: int, side: int) -> list[bytes]:
    """Return JPEG files (quality 85, 4:2:0) of square images whose spectrum falls as that of photographs does.

    They take 2 bits per pixel, as photographs of that quality do, and so take as long to decode; drawings or noise do
    not.
    """
    rng = np.random.default_rng(2)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    amplitudes = 1 / np.maximum(frequencies, 1 / side) ** 1.4
    files = []
    for _ in range(number):
        # Mostly grey structure, with colour that changes slowly.
        planes = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * amplitudes) for _ in range(4)]
        grey, *colours = (plane / plane.std() for plane in planes)
        pixels = np.stack([128 + 50 * grey + 15 * colour for colour in colours], axis=-1)
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files
