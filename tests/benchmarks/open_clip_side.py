"""open_clip's side of the benchmarks, run by an interpreter that has open_clip 3.3: `open_clip_side.py WORK JSON`."""

import io
from types import SimpleNamespace
from typing import Any

import torch
from measure import measure, report
from open_clip import CLIP, ClipLoss, image_transform
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip_train.train import train_one_epoch
from PIL import Image
from workloads import (
    CONTEXT_LENGTH,
    TOWER,
    VOCAB_SIZE,
    draw_embeddings,
    draw_offers,
    draw_photographs,
    draw_weight,
)


def loss(batch_size: int, dim: int) -> dict[str, float]:
    """Forward and backward of the contrastive loss; gradients of embeddings and scale."""

    def forward_backward(text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> float:
        value = ClipLoss()(image_embeds, text_embeds, logit_scale.exp())
        value.backward()
        return value.item()

    logit_scale = torch.tensor(3.0, requires_grad=True)
    forward_backward(*draw_embeddings(64, dim))
    text_embeds, image_embeds = draw_embeddings(batch_size, dim)
    value, seconds, peak_bytes = measure(lambda: forward_backward(text_embeds, image_embeds))
    return {"value": value, "seconds": seconds, "peak_bytes": peak_bytes}


def step(batch_size: int, stream_size: int) -> dict[str, float]:
    """One optimizer step by open_clip's own training loop, with `--accum-freq`: titles padded to the context."""

    def train(rows: int) -> float:
        args = SimpleNamespace(
            accum_freq=rows // stream_size,
            batch_size=stream_size,
            device="cpu",
            distill=False,
            grad_clip_norm=None,
            horovod=False,
            log_every_n_steps=1,
            precision="fp32",
            rank=0,
            skip_scheduler=True,
            wandb=False,
            world_size=1,
        )
        batches = [
            (pixel_values[start : start + stream_size], input_ids[start : start + stream_size])
            for start in range(0, rows, stream_size)
        ]
        train_one_epoch(model, {"train": _Loaded(batches, rows)}, loss, 0, optimizer, None, None, None, args)
        return loss.last

    input_ids, _, pixel_values = draw_offers(batch_size)
    model, loss = _build_model(), _RecordingLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    train(2 * stream_size)
    value, seconds, peak_bytes = measure(lambda: train(batch_size), calls=2)
    return {"value": value, "seconds": seconds, "peak_bytes": peak_bytes}


def decode(number: int, side: int, target: int) -> dict[str, float]:
    """JPEG files to RGB images of the target's size, by open_clip's training transform."""
    torch.set_num_threads(1)
    files = draw_photographs(number, side)
    # The rest of the transform converts the image to a tensor and normalises it.
    crop, to_rgb, *_ = image_transform(target, is_train=True).transforms

    def decode_all() -> None:
        for file in files:
            to_rgb(crop(Image.open(io.BytesIO(file))))

    decode_all()
    _, seconds, peak_bytes = measure(decode_all)
    return {"value": target, "seconds": seconds, "peak_bytes": peak_bytes}


class _RecordingLoss(ClipLoss):
    """open_clip's loss, which remembers its last value."""

    last = float("nan")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss."""
        losses = super().forward(*args, **kwargs)
        self.last = losses["contrastive_loss"].item()
        return losses


class _Loaded:
    """Batches in memory, with the attributes that open_clip's loop reads."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]], num_samples: int) -> None:
        self.batches, self.num_samples, self.num_batches = batches, num_samples, len(batches)
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __iter__(self) -> Any:
        return iter(self.batches)


def _build_model() -> CLIP:
    width, layers, heads = TOWER["width"], TOWER["layers"], TOWER["heads"]
    model = CLIP(
        TOWER["projection_dim"],
        CLIPVisionCfg(
            layers=layers,
            width=width,
            head_width=width // heads,
            patch_size=TOWER["patch_size"],
            image_size=TOWER["image_size"],
        ),
        CLIPTextCfg(context_length=CONTEXT_LENGTH, vocab_size=VOCAB_SIZE, width=width, heads=heads, layers=layers),
        output_dict=True,
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "logit_scale":
                weight.copy_(_draw(name, weight))
        model.logit_scale.fill_(3.0)
    return model


_NAMES = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "ln_final.": "text_model.final_layer_norm.",
}
_NAMES_IN_LAYERS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def _draw(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Draw the same values as for the corresponding weight of the transformers model."""
    start = next(start for start in _NAMES if name.startswith(start))
    name = _NAMES[start] + name[len(start) :]
    for theirs, ours in _NAMES_IN_LAYERS.items():
        name = name.replace(theirs, ours)
    if "attn.in_proj_" in name:
        kind = name.rpartition("_")[2]
        prefix = name.replace(f"attn.in_proj_{kind}", "self_attn.")
        shape = (weight.shape[0] // 3, *weight.shape[1:])
        return torch.cat([draw_weight(f"{prefix}{part}_proj.{kind}", shape) for part in "qkv"])
    is_transposed = name in ("text_projection.weight", "visual_projection.weight")
    return draw_weight(name, weight.T.shape).T if is_transposed else draw_weight(name, weight.shape)


if __name__ == "__main__":
    report({"decode": decode, "loss": loss, "step": step})
