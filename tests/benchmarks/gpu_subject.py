"""What `gpu_check.py` checks and how it measures: sizes, models, batches, seconds, memory, waits of the host."""

import contextlib
import gc
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scaling_model import Tower

from modeling_eclip import EClipConfig, EClipModel
from modeling_eclip.inference.pixels import PixelNormalization

__all__ = ["DRY", "FULL", "GIB", "Bench", "Sizes", "build_model", "draw_batch", "draw_embeddings", "model_operations"]

GIB = 2**30
_LONGEST_TITLE, _VOCAB_SIZE = 32, 500
_NORMALIZATION = PixelNormalization(mean=(127.5,) * 3, factor=(1 / 127.5,) * 3)


@dataclass(frozen=True)
class Sizes:
    """How large the checks are.

    Args:
        product: Rows and columns of the matrices whose product is timed.
        copied: Bytes that are copied.
        dim: Dimensions of the embeddings.
        gradient_rows: Offers of the loss that is compared with a dense one in float64.
        odd_tile: A tile that does not divide them.
        small_shape: Width, layers and heads of the towers whose gradients are compared.
        small_offers: Their offers.
        small_side: Pixels of a side of their images.
        loss_rows: Batch sizes of the loss alone.
        loss_tiles: Tiles that are tried at the second of them.
        shapes: Width, layers and heads of the image tower and of the title tower of whole steps.
        side: Pixels of a side of their images.
        patches: Patch sizes, by the names of the image towers.
        batch_sizes: Batch sizes of whole steps.
        image_stream: Images of a stream.
        text_stream: Titles of a stream.
        profiled: Offers of the step that is profiled.
    """

    product: int
    copied: int
    dim: int
    gradient_rows: int
    odd_tile: int
    small_shape: tuple[int, int, int]
    small_offers: int
    small_side: int
    loss_rows: tuple[int, ...]
    loss_tiles: tuple[int, ...]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
    side: int
    patches: dict[str, int]
    batch_sizes: tuple[int, ...]
    image_stream: int
    text_stream: int
    profiled: int


FULL = Sizes(
    product=8192,
    copied=GIB,
    dim=512,
    gradient_rows=4096,
    odd_tile=1000,
    small_shape=(256, 2, 4),
    small_offers=192,
    small_side=64,
    loss_rows=(16384, 32768, 65536),
    loss_tiles=(2048, 4096, 16384),
    shapes=((768, 12, 12), (512, 12, 8)),
    side=224,
    patches={"ViT-B/32": 32, "ViT-B/16": 16},
    batch_sizes=(4096, 16384, 65536),
    image_stream=256,
    text_stream=1024,
    profiled=1024,
)
# Every check in some seconds on a CPU. Streams of one size: another would be another form to compile.
DRY = Sizes(
    product=64,
    copied=2**16,
    dim=32,
    gradient_rows=96,
    odd_tile=17,
    small_shape=(32, 1, 2),
    small_offers=12,
    small_side=32,
    loss_rows=(64, 128),
    loss_tiles=(32,),
    shapes=((32, 1, 2), (32, 1, 2)),
    side=32,
    patches={"ViT-B/16": 16},
    batch_sizes=(24, 72),
    image_stream=8,
    text_stream=12,
    profiled=24,
)


@dataclass
class Bench:
    """The device, what is run on it, and what was found.

    Args:
        sizes: How large the checks are.
        peak: The card's rate in bfloat16, in operations a second.
        budget: Seconds after which nothing new is begun.
        folder: Where the training steps may write.

    Attributes:
        faults: What is not as it has to be.
    """

    sizes: Sizes
    peak: float
    budget: float
    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    faults: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def is_dry(self) -> bool:
        """Whether the sizes are too small for a figure that means anything."""
        return self.sizes is DRY

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.budget - (time.perf_counter() - self._started)

    def demand(self, holds: bool, what: str) -> str:
        """Note a fault, and return a mark for the line that tells of it."""
        if not holds:
            self.faults.append(what)
        return "" if holds else "   WRONG"

    def seconds(self, function: Callable[[], Any], repeats: int = 3, warm_up: bool = True) -> float:
        """Return the median seconds of some calls."""
        if warm_up:
            function()
        taken = []
        for _ in range(repeats):
            self._synchronize()
            started = time.perf_counter()
            function()
            self._synchronize()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def _synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def clean(self) -> None:
        """Let go of what is not used any more, and begin a new peak of memory."""
        if self.is_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self, above: int = 0) -> float | None:
        """Return the peak of memory on the GPU since `clean`, above so many bytes; nothing of a CPU."""
        return round((torch.cuda.max_memory_allocated() - above) / GIB, 2) if self.is_gpu else None

    def allocated(self) -> int:
        """Return the bytes that are in use on the GPU."""
        return torch.cuda.memory_allocated() if self.is_gpu else 0

    @contextlib.contextmanager
    def waits(self) -> Iterator[Counter[str]]:
        """Count, by line, the calls inside in which the host waits for the GPU."""
        found: Counter[str] = Counter()
        if not self.is_gpu:
            yield found
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for warning in caught:
            if "synchroniz" in str(warning.message):
                found[f"{Path(warning.filename).name}:{warning.lineno}"] += 1


def build_model(
    patch: int,
    side: int,
    dim: int,
    vision: tuple[int, int, int],
    text: tuple[int, int, int],
    device: torch.device,
    dropout: float = 0.0,
) -> EClipModel:
    """Return a model with new weights, in training mode.

    Args:
        patch: Pixels of a side of a patch.
        side: Pixels of a side of an image.
        dim: Dimensions of the embeddings.
        vision: Width, layers and heads of the image tower, a ViT.
        text: Those of the title tower, a BERT.
        device: Where it shall lie.
        dropout: Share of values that both towers drop.
    """
    towers = [
        {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        for width, layers, heads in (vision, text)
    ]
    torch.manual_seed(0)
    config = EClipConfig(
        vision_config={"model_type": "vit", "image_size": side, "patch_size": patch, **towers[0]},
        text_config={"model_type": "bert", "vocab_size": _VOCAB_SIZE, "max_position_embeddings": 77, **towers[1]},
        projection_dim=dim,
    )
    return EClipModel(config).to(device).train()


def draw_batch(size: int, side: int) -> dict[str, Any]:
    """Return a rank's batch as loaders give it: on the CPU, pixels as bytes.

    Titles have 6 to 32 tokens, 18 in the mean; catalogs two offers. Images come again after 1,024 of them.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(size, generator=generator) * 6 + 18).round().clamp(6, _LONGEST_TITLE).long()
    mask = (torch.arange(_LONGEST_TITLE) < lengths[:, None]).long()
    ids = torch.randint(5, _VOCAB_SIZE, (size, _LONGEST_TITLE), generator=generator) * mask
    few = torch.randint(0, 256, (min(size, 1024), 3, side, side), dtype=torch.uint8, generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": few.repeat(-(-size // len(few)), 1, 1, 1)[:size],
        "normalization": _NORMALIZATION,
        "catalog_ids": torch.randint(0, size, (size,), generator=generator),
        "row_ids": [f"r{row}" for row in range(size)],
        "titles": ["a title"] * size,
        "skipped": [],
        "num_rows": size,
    }


def draw_embeddings(size: int, dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return embeddings of titles and of images whose partners are near each other, and catalogs, on the device."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(size, dim, generator=generator)
    image = text + 0.5 * torch.randn(size, dim, generator=generator)
    catalogs = torch.randint(0, size, (size,), generator=generator)
    rows = (torch.nn.functional.normalize(embeds.to(device), dim=1) for embeds in (text, image))
    return *rows, catalogs.to(device)


def model_operations(config: EClipConfig, lengths: torch.Tensor, text_stream: int) -> float:
    """Return the operations of a forward pass over a batch, titles as their sorted streams are trimmed.

    Args:
        config: The model's.
        lengths: Tokens of each title, shape `(B,)`.
        text_stream: Titles of a stream.
    """
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    image_tower = Tower(vision.hidden_size, vision.num_hidden_layers, patches + 1, embeddings=0)
    of_image = image_tower.forward_operations + 6 * patches * vision.patch_size**2 * vision.hidden_size
    of_image += 2 * vision.hidden_size * config.projection_dim
    of_titles = 2.0 * text.hidden_size * config.projection_dim * len(lengths)
    for stream in lengths.sort(descending=True).values.split(text_stream):
        title_tower = Tower(text.hidden_size, text.num_hidden_layers, int(stream[0]), embeddings=0)
        of_titles += len(stream) * title_tower.forward_operations
    return of_image * len(lengths) + of_titles
