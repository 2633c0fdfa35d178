"""How a model is trained."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.card import CardArguments
from training.arguments.options import check_ranges, option
from training.arguments.schedule import BatchSizeRule, BatchSizeSchedule, parse_batch_size_steps

__all__ = ["TITLES_PER_IMAGE", "TrainArguments"]

TITLES_PER_IMAGE = 4
"""Titles that are encoded at once for each image that is: a title takes a twentieth of an image's work, so that a
stream of as many would leave a GPU waiting for kernels to be launched; its graph takes a fifteenth of the memory."""


@dataclass
class TrainArguments(CardArguments):
    """How a model is trained. Durations and intervals are counted in samples (offers seen), not in steps."""

    section: ClassVar[str] = "run"

    output_dir: str = option("Folder for checkpoints, the model and the report.", "outputs/eclip")
    overwrite_output_dir: bool = option("Start anew although output_dir holds checkpoints, and remove them.", False)
    resume_from_checkpoint: str | None = option("'latest', or the folder of a checkpoint.", None)
    seed: int = option("Seed of new weights, the order of offers, augmentation and dropout.", 0, within="[0, inf)")
    num_epochs: float = option("Passes over the training offers.", 1.0, within="(0, 1e6]")
    projection_epochs: float = option(
        "Passes that train the projections alone first, on vectors that the towers encode once: new projections "
        "then pull the towers about less.",
        0.0,
        within="[0, 1e6]",
    )
    max_samples: int | None = option("Samples to train on, in place of num_epochs.", None, within="[1, inf)")
    batch_size: int = option("Offers in a batch over all ranks: each is contrasted with all others.", 256)
    batch_size_schedule: list[str] = option(
        "Later batch sizes as share:size; 0.1:4096 means 4096 offers after a tenth of the run.", [], advanced=True
    )
    batch_size_rule: BatchSizeRule = option(
        "How the learning rates, given for batch_size, grow with a later batch size.", "none", advanced=True
    )
    text_stream_size: int | None = option(
        "Titles that a rank encodes at once; four times image_stream_size, or its whole batch, if not given.",
        None,
        within="[1, inf)",
        advanced=True,
    )
    image_stream_size: int | None = option(
        "Images that a rank encodes at once; its whole batch if not given.", None, within="[1, inf)", advanced=True
    )
    keep_graphs: str = option(
        "Share of the streams, 0 to 1, whose graphs are kept, so that they are encoded once; auto: as memory allows.",
        "auto",
        advanced=True,
    )
    mate_contrast_weight: float = option(
        "Weight of the contrast among titles and among images by catalog.", 0.0, within="[0, inf)", advanced=True
    )
    teacher: str = option(
        "Learn a teacher's similarities, too: a checkpoint (e-CLIP, CLIP, SigLIP), a folder that embed.py wrote, or "
        "start: the model as training begins, so that it keeps what it knew.",
        "",
        advanced=True,
    )
    teacher_weight: float = option(
        "Weight of the distance from the teacher's similarities in the loss.", 1.0, within="(0, inf)", advanced=True
    )
    teacher_scale: float = option(
        "Inverse temperature of similarities among titles and among images: 20 looks at the nearest offers of a "
        "batch, 5 at the order of all.",
        20.0,
        within="(0, inf)",
        advanced=True,
    )
    teacher_modalities: list[str] = option(
        "text, image or both: whose similarities are learned.", ["text", "image"], advanced=True
    )
    learning_rate: float = option(
        "Peak learning rate of the projections, and of the towers without tower_learning_rate.", 5e-4, within="[0, 10]"
    )
    tower_learning_rate: float | None = option(
        "Peak learning rate of the towers; learning_rate if not given.", None, within="[0, 10]"
    )
    text_learning_rate: float | None = option(
        "Peak learning rate of the title tower, which forgets sooner; that of both towers if not given.",
        None,
        within="[0, 10]",
        advanced=True,
    )
    layer_decay: float = option(
        "Factor by which a tower's rate shrinks per block below its top.", 1.0, within="[0, 1]", advanced=True
    )
    weight_decay: float = option(
        "Weight decay of matrices; biases, norms and the temperature have none.", 0.1, within="[0, 10]"
    )
    no_weight_decay: list[str] = option(
        "Regular expressions of further parameter names without decay.", [], advanced=True
    )
    adam_beta1: float = option("AdamW's first beta.", 0.9, within="[0, 1)", advanced=True)
    adam_beta2: float = option("AdamW's second beta.", 0.98, within="[0, 1)", advanced=True)
    adam_epsilon: float = option("AdamW's epsilon.", 1e-6, within="(0, 1]", advanced=True)
    warmup_share: float = option("Share of the samples over which the learning rate rises.", 0.1, within="[0, 1]")
    final_learning_rate_share: float = option(
        "Share of the peak learning rate that the cosine ends at.", 0.0, within="[0, 1]", advanced=True
    )
    keep_patches: float = option(
        "Share of an image's patches that the image tower sees in training.", 1.0, within="(0, 1]", advanced=True
    )
    ema_decay: float | None = option(
        "Average the weights over steps with this decay, such as 0.999.", None, within="[0, 1)", advanced=True
    )
    merge: bool = option(
        "Save adapters (`lora_rank`) merged into the weights, as a full model; false: alone, as peft has them.",
        True,
        advanced=True,
    )
    max_grad_norm: float = option("Gradients are clipped to this norm.", 1.0, within="(0, inf)", advanced=True)
    max_bad_steps: int = option(
        "Stop after this many steps in a row whose loss or gradient is not a number.",
        5,
        within="[1, inf)",
        advanced=True,
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto: what `accelerate launch` asks for, otherwise bf16 on accelerators that compute in it, and float32 (no) "
        "on CPUs.",
        "auto",
    )
    tf32: bool = option(
        "Let GPUs compute the towers' float32 products in TensorFloat-32; the loss's stay exact. For mixed_precision "
        "no; bf16 and fp16 have no use for it.",
        False,
        advanced=True,
    )
    compile: bool = option("Compile both towers with torch.compile.", False, advanced=True)
    compile_backend: str = option("Backend of torch.compile.", "inductor", advanced=True)
    cache_frozen_towers: bool = option(
        "Encode offers once with a frozen tower, and keep its vectors on disk.", False, advanced=True
    )
    gradient_checkpointing: bool = option("Compute activations twice to save memory.", False, advanced=True)
    channels_last: bool = option(
        "Use the channels-last memory format: faster for convolutional towers.", False, advanced=True
    )
    fix_batch_norm: bool = option(
        "Keep the statistics of batch norm fixed; recommended for pretrained towers.", True, advanced=True
    )
    eval_batch_size: int | None = option(
        "Offers embedded at a time in evaluation; 32 on CPUs and 256 on accelerators if not given.",
        None,
        within="[1, inf)",
        advanced=True,
    )
    eval_every_samples: int | None = option(
        "Samples between evaluations; there is always one at the start and one at the end.", None, within="[1, inf)"
    )
    save_every_samples: int | None = option(
        "Samples between checkpoints; only the final model is saved if not given.", None, within="[1, inf)"
    )
    save_total_limit: int = option("Number of checkpoints that are kept.", 2, within="[1, inf)", advanced=True)
    report_to: list[str] = option("Experiment trackers: tensorboard, trackio, wandb.", [])
    push_to_hub: bool = option("Publish model and processor at the end.", False)
    hub_model_id: str | None = option(
        "Repository to publish to; the name of output_dir if not given.", None, advanced=True
    )
    hub_private: bool = option("Make that repository private.", False, advanced=True)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_ranges(self)
        if self.text_stream_size is None and self.image_stream_size is not None:
            self.text_stream_size = TITLES_PER_IMAGE * self.image_stream_size
        if not self.teacher_modalities or set(self.teacher_modalities) - {"text", "image"}:
            raise ValueError(f"`teacher_modalities` is {self.teacher_modalities}; give text, image or both.")
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` is {self.batch_size}; a contrast needs at least 2 offers.")
        BatchSizeSchedule(self.batch_size, parse_batch_size_steps(self.batch_size_schedule), 1, self.batch_size_rule)
        if self.keep_graphs != "auto":
            try:
                share = float(self.keep_graphs)
            except ValueError:
                share = math.nan
            if not 0 <= share <= 1:
                raise ValueError(f"`keep_graphs` is {self.keep_graphs!r}; give a share from 0 to 1, or auto.")
