"""Small models and the reasons for their numbers, once for all tests."""

import http.server
import json
import multiprocessing
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from modeling_eclip.clustering_eclip import _mate_loss
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.modeling_eclip import truncate_embeds
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.train import TrainArguments
from training.plots.canvas import plt

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared"

# Begins a script of a process that finds the package only in the folder of a checkpoint.
WITHOUT_PACKAGE = """
import importlib.abc, sys
class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_eclip", "training"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPackage())
"""

# Runs a script of `training/`, whose name goes before its words, on a Ray cluster of two cores in this machine.
ON_RAY = [
    "-c",
    "import importlib, ray, sys; ray.init(num_cpus=2, include_dashboard=False, logging_level='error');"
    "sys.path.insert(0, '.'); importlib.import_module(f'training.{sys.argv.pop(1)}').main()",
]

# `accelerate launch` starts several CPU processes by mpirun only; torchrun is its equal otherwise.
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]

# Two layers, so that "every layer" differs from "the last one"; width 32 with two heads, the smallest that every
# family accepts; images of 32 px in patches of 8, so that there are 16 patches: more than one, and square.
TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
IMAGE_SIZE = 32
NUM_PATCHES = 16
VIT = {**TRANSFORMER, "image_size": IMAGE_SIZE, "patch_size": 8}
# 100 tokens, of which 0 to 4 are special in one family or another.
VOCAB_SIZE = 100
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

# The same smallness, as a user would ask for it, with one layer; dropout stays on, so that a resumed run must restore
# random states.
MODEL = ModelArguments(
    vision_config=json.dumps(
        {"model_type": "vit", "image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2, "intermediate_size": 64, "hidden_dropout_prob": 0.1}
    ),
    text_config=json.dumps(
        {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 64}
    ),
    vocab_size=300,
    projection_dim=16,
    max_title_length=16,
)  # fmt: skip
MODEL_SETTINGS = {name: value for name, value in vars(MODEL).items() if value not in ("", None, [])}
"""The same for a configuration file."""

# 60 generated offers: about 48 to train on, three batches of 16.
DATA = DataArguments(train_data=["toy"], toy_offers=60, num_workers=0)

VISION_TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_vit": VIT,
    "dinov3_convnext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": IMAGE_SIZE},
    "convnext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    # The family's stages are fixed; only their repeats shrink. Its width is not 32 but the 1,280 of its last layer.
    "efficientnet": {
        "width_coefficient": 1.0,
        "depth_coefficient": 0.1,
        "hidden_dim": 1280,
        "image_size": IMAGE_SIZE,
        "batch_norm_eps": 1e-9,  # or the variances of its small signals would be lost in it
    },
}
TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "bert": {**TRANSFORMER, "vocab_size": VOCAB_SIZE},
    "roberta": {**TRANSFORMER, "vocab_size": VOCAB_SIZE},
    "xlm-roberta": {**TRANSFORMER, "vocab_size": VOCAB_SIZE},
    "modernbert": {**TRANSFORMER, **SPECIAL_TOKENS, "vocab_size": VOCAB_SIZE},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": VOCAB_SIZE},
    "clip_text_model": {**TRANSFORMER, "vocab_size": VOCAB_SIZE, "bos_token_id": 98, "eos_token_id": 99},
    "siglip_text_model": {**TRANSFORMER, "vocab_size": VOCAB_SIZE, "bos_token_id": 98, "eos_token_id": 99},
}


def make_config(vision: str = "vit", text: str = "bert", **fields: Any) -> EClipConfig:
    """Return a small configuration; 16 dimensions, fewer than the towers' 32, so that a mix-up shows."""
    return EClipConfig(
        vision_config={"model_type": vision, **VISION_TOWERS[vision]},
        text_config={"model_type": text, **TEXT_TOWERS[text]},
        **{"projection_dim": 16, **fields},
    )


def make_training_model(
    vision: str = "vit", text: str = "bert", dropout: float = 0.0, dtype: torch.dtype = torch.float64, **fields: Any
) -> EClipModel:
    """Return a small model in training mode with this dropout; in float64, see `assert_same_gradients`."""
    config = make_config(vision, text, **fields)
    for tower in (config.vision_config, config.text_config):
        for name in vars(tower):
            if "drop" in name:
                setattr(tower, name, dropout)
    torch.manual_seed(0)
    return EClipModel(config).train().to(dtype)


def make_inputs(batch_size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random inputs whose titles differ in length; CLIP's end token 99 closes each."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, 98, (batch_size, 7), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row in range(batch_size):
        length = 3 + row % 5
        input_ids[row, length - 1] = 99
        input_ids[row, length:] = 0
        attention_mask[row, length:] = 0
    pixel_values = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}


def save_checkpoint(folder: Path, model_class: type = EClipModel, **fields: Any) -> tuple[Any, EClipProcessor]:
    """Save a small model, or head, with its processor, as training leaves them; return both.

    Its weights are ten times as large as new ones, so that what it says differs from product to product.
    """
    torch.manual_seed(0)
    tokenizer = train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)
    processor = EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, max_title_length=16)
    config = make_config(**fields)
    config.text_config.vocab_size = len(tokenizer)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def train_arguments(folder: Path, **fields: Any) -> TrainArguments:
    """Return the arguments of a run of four steps, which keeps a checkpoint after each."""
    settings = {"max_samples": 64, "batch_size": 16, "learning_rate": 1e-3, "save_every_samples": 16, **fields}
    return TrainArguments(**{"output_dir": str(folder), "save_total_limit": 9, **settings})


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the model in a folder."""
    return load_file(folder / "model.safetensors")


def wake(model: EClipModel) -> EClipModel:
    """Give a new model weights and statistics that keep signals up, and return it in evaluation mode.

    New weights of some families let them die away: EfficientNet's vectors are 1e-35 long, and say nothing.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim in (2, 4) and "embed" not in name:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of one batch
        model.train()(**make_inputs(8))
    return model.eval()


def assert_same_outputs(found: torch.Tensor, expected: torch.Tensor):
    """Compare what two models with the same weights make of the same inputs, in this process or another one.

    The weights are the same to the bit. What is computed is not: some kernels are chosen by where in memory the
    weights lie, and take the sums of float32 in another order.
    """
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 1e-9):
    """Compare gradients by name, each as far as the rounding of its largest element goes.

    The dense loss, the tiled one and a cut batch add up in different orders, and a tower spreads the rounding of its
    large gradients over the small ones: 1e-14 of them in float64, which leaves no doubt on any CPU. In float32 it is
    up to 1e-5, as much as the CPU's instructions make of it, so that mistakes are looked for in float64.
    """
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = rtol * max(gradient.abs().max().item(), 1e-2)
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=name)


def unit_rows(size: int, dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return random vectors of unit length, shape `(size, dim)`."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1).to(dtype)


def naive_loss(
    text, image, logit_scale, catalog_ids, catalog_weight, mates, has_text=None, has_image=None
) -> torch.Tensor:
    """Compute the contrastive loss of the definition, row by row and term by term; gradients are torch's own."""
    size, scale = len(text), logit_scale.exp()
    titles = [i for i in range(size) if has_text is None or has_text[i]]
    images = [j for j in range(size) if has_image is None or has_image[j]]

    def is_mate(i, j):
        return i != j and catalog_ids is not None and catalog_ids[i] >= 0 and catalog_ids[i] == catalog_ids[j]

    def mean_of_cross_entropies(own, others, similarity):
        losses = []
        for i in own:
            masses = {
                j: 1.0 if i == j else (catalog_weight if mates == "positive" and is_mate(i, j) else 0.0)
                for j in others
            }
            kept = [j for j in others if not (mates == "masked" and is_mate(i, j))]
            if sum(masses.values()) > 0:
                scores = {j: similarity(i, j) for j in kept}
                log_sum = torch.stack(list(scores.values())).logsumexp(0)
                losses.append(-sum(masses[j] / sum(masses.values()) * (scores[j] - log_sum) for j in kept))
        return torch.stack(losses).mean() if losses else logit_scale * 0

    rows = mean_of_cross_entropies(titles, images, lambda i, j: scale * (text[i] @ image[j]))
    columns = mean_of_cross_entropies(images, titles, lambda j, i: scale * (text[i] @ image[j]))
    return (rows + columns) / 2


def naive_sigmoid_loss(
    text, image, logit_scale, logit_bias, catalog_ids, catalog_weight, mates, has_text=None, has_image=None
) -> torch.Tensor:
    """Compute the sigmoid loss of the definition, pair by pair; gradients are torch's own."""
    size = len(text)
    titles = [i for i in range(size) if has_text is None or has_text[i]]
    images = [j for j in range(size) if has_image is None or has_image[j]]
    total = logit_scale * 0
    for i in titles:
        for j in images:
            is_mate = i != j and catalog_ids is not None and catalog_ids[i] >= 0 and catalog_ids[i] == catalog_ids[j]
            label = 1.0 if i == j else (catalog_weight if mates == "positive" and is_mate else 0.0)
            if not (mates == "masked" and is_mate):
                total = total + _binary_cross_entropy(logit_scale.exp() * (text[i] @ image[j]) + logit_bias, label)
    return total * (1 / len(titles) + 1 / len(images)) / 2 if titles and images else total


def naive_sigmoid_mate_loss(embeds, logit_scale, logit_bias, catalog_ids) -> torch.Tensor:
    """Compute the sigmoid's contrast between catalog mates of one modality, pair by pair."""
    losses = []
    for i in range(len(embeds)):
        mates = [j for j in range(len(embeds)) if j != i and catalog_ids[i] >= 0 and catalog_ids[i] == catalog_ids[j]]
        logits = logit_scale.exp() * embeds @ embeds[i] + logit_bias
        pairs = [_binary_cross_entropy(logits[j], float(j in mates)) for j in range(len(embeds)) if j != i]
        losses += [sum(pairs)] if mates else []
    return sum(losses) / len(losses) if losses else logit_scale * 0


def _binary_cross_entropy(logit: torch.Tensor, label: float) -> torch.Tensor:
    zero = torch.zeros_like(logit)
    return label * torch.logaddexp(zero, -logit) + (1 - label) * torch.logaddexp(zero, logit)


def lacking_sides(
    inputs: dict[str, torch.Tensor], has_text: torch.Tensor, has_image: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return inputs without the titles and images that offers lack, as loaders of pre-training give them."""
    kept = {name: value[has_image if name == "pixel_values" else has_text] for name, value in inputs.items()}
    return kept | {"has_text": has_text, "has_image": has_image}


def whole_batch_lacking_sides(
    model: EClipModel,
    inputs: dict[str, torch.Tensor],
    catalog_ids: torch.Tensor,
    has_text: torch.Tensor,
    has_image: torch.Tensor,
    mate_weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return loss and gradients of the definition, from one forward over what there is of each modality."""
    model.zero_grad()
    embeds = {}
    for modality, has, names in (
        ("text", has_text, ("input_ids", "attention_mask")),
        ("image", has_image, ("pixel_values",)),
    ):
        # An absent modality takes no part; its weights have gradients of zero all the same, as all ranks must have.
        rows = has if has.any() else torch.ones_like(has)
        found = getattr(model(**{name: inputs[name][rows] for name in names}), f"{modality}_embeds") * has.any()
        embeds[modality] = found.new_zeros(len(has), found.shape[1]).index_copy(0, rows.nonzero()[:, 0], found)
    config, scale, bias = model.config, model.logit_scale, model.logit_bias
    total = 0 * sum(vectors.sum() for vectors in embeds.values())
    dims = config.matryoshka_dims or [config.projection_dim]
    for dim in dims:
        text, image = (truncate_embeds(vectors, dim) for vectors in embeds.values())
        mates = (config.catalog_weight, config.catalog_mates)
        facts = (catalog_ids.tolist(), *mates, has_text, has_image)
        if bias is None:
            loss = naive_loss(text, image, scale, *facts)
        else:
            loss = naive_sigmoid_loss(text, image, scale, bias, *facts) + 0 * bias
        for vectors, has in ((text, has_text), (image, has_image)):
            if has.any():
                given = (vectors[has], scale, catalog_ids[has])
                among = _mate_loss(*given) if bias is None else naive_sigmoid_mate_loss(*given[:2], bias, given[2])
                loss = loss + mate_weight / 2 * among
        total = total + loss / len(dims)
    total.backward()
    return total.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def noise_image(seed: int, height: int = 40, width: int = 30) -> Image.Image:
    """Return an image of noise, whose resizing and cropping would show."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def loaders_started(monkeypatch):
    """A list that grows by each loader when it starts to load, with its workers if it has any."""
    started: list[DataLoader] = []
    start = DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: started.append(loader) or start(loader))
    return started


@pytest.fixture
def start_method():
    """Sets how processes are started until the end of the test; left alone, Linux forks them, and no other does."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def model() -> EClipModel:
    """Return a small model with the same weights in every test."""
    torch.manual_seed(0)
    return EClipModel(make_config()).eval()


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real data and pretrained towers, or skip visibly where it is absent."""
    if not REAL_DATA.is_dir() or os.environ.get("ECLIP_SKIP_REAL_DATA"):
        pytest.skip(f"the real data in {REAL_DATA.name}/ beside the checkout is absent")
    return REAL_DATA


@pytest.fixture
def store(tmp_path):
    """A server of files that takes any query, as a store takes a signature; its address, and what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path)

        def log_message(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw without a warning, and return the image's colours and the texts in it."""

    def draw(function, *arguments, **settings):
        figures, close = [], plt.close
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("error")
            patch.setattr(plt, "close", figures.append)
            function(*arguments, path=tmp_path / "image.png", **settings)
        (figure,) = figures
        texts = [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))]
        close(figure)
        pixels = np.asarray(Image.open(tmp_path / "image.png").convert("RGB")).reshape(-1, 3)
        return {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}, [text for text in texts if text]

    return draw
