"""What is trained: a checkpoint, towers, or new ones."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import check_ranges, option

__all__ = ["ModelArguments"]


@dataclass
class ModelArguments:
    """What is trained. Give one of `checkpoint`, `clip`, the two towers, or the two tower configurations."""

    section: ClassVar[str] = "model"

    checkpoint: str = option("e-CLIP checkpoint to continue from: Hub id or folder.", "")
    clip: str = option("CLIP, SigLIP or SigLIP 2 checkpoint to continue from: Hub id or folder.", "")
    vision_tower: str = option("Pretrained image tower: Hub id or folder.", "")
    text_tower: str = option("Pretrained title tower, with its tokenizer: Hub id or folder.", "")
    vision_config: str = option("Configuration of a new image tower, JSON with a model_type.", "")
    text_config: str = option("Configuration of a new title tower, JSON with a model_type.", "")
    tokenizer: str = option(
        "Tokenizer of a new title tower; one is trained on the titles if not given.", "", advanced=True
    )
    vocab_size: int = option(
        "Size of the vocabulary of a tokenizer that is trained on the titles.",
        8192,
        within="[100, inf)",
        advanced=True,
    )
    image_size: int | None = option(
        "Height and width in pixels that images are resized to; the tower's own if not given.", None, within="[1, inf)"
    )
    max_title_length: int | None = option(
        "Titles are cut after this many tokens; 32, or the checkpoint's own, if not given.", None, within="[3, inf)"
    )
    projection_dim: int | None = option(
        "Dimension of the shared space; 512 if not given, or as in `clip`.", None, within="[1, inf)"
    )
    vision_pooling: str | None = option(
        "pooler, cls, mean or last: how a tower's output becomes one vector; see EClipConfig.", None, advanced=True
    )
    text_pooling: str | None = option(
        "pooler, cls, mean or last: how a tower's output becomes one vector; see EClipConfig.", None, advanced=True
    )
    loss: str | None = option(
        "softmax or sigmoid: the contrast of CLIP or that of SigLIP; softmax, or as in `checkpoint`, if not given.",
        None,
    )
    catalog_mates: str | None = option(
        "positive, negative or masked: the mode for offers of the same catalog; see EClipConfig.", None
    )
    catalog_weight: float | None = option(
        "Target mass of a positive catalog mate relative to the offer's own partner, 0 to 1.",
        None,
        within="[0, 1]",
        advanced=True,
    )
    matryoshka_dims: list[int] = option(
        "Sizes that embeddings can be cut to, projection_dim among them.", [], within="[1, inf)", advanced=True
    )
    matryoshka_weights: list[float] = option(
        "Weight of each of these sizes in the loss; 1 if not given.", [], advanced=True
    )
    freeze: list[str] = option("Regular expressions of parameter names that are not trained.", [], advanced=True)
    lora_rank: int | None = option(
        "Train adapters of this rank in place of the towers' weights.", None, within="[1, inf)", advanced=True
    )
    lora_alpha: int = option(
        "An adapter's output is multiplied by this, divided by its rank.", 16, within="[1, inf)", advanced=True
    )
    lora_targets: list[str] = option(
        "Regular expressions of tower layers that get adapters; the linear ones of blocks if not given.",
        [],
        advanced=True,
    )
    load_in_4bit: bool = option(
        "Hold the towers' weights in 4 bits and train adapters on them (QLoRA); needs bitsandbytes.",
        False,
        advanced=True,
    )

    def __post_init__(self) -> None:
        """Check the values."""
        check_ranges(self)
        if self.load_in_4bit and self.lora_rank is None:
            raise ValueError(
                "`load_in_4bit` is true without `lora_rank`: weights in 4 bits are not trained; give a rank."
            )
