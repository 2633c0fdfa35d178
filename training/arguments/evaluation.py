"""What `evaluate_tasks.py` measures."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.options import check_ranges, option

__all__ = ["EvaluationArguments", "ResamplingArguments"]


@dataclass
class ResamplingArguments:
    """How the intervals of a head's metrics are computed."""

    section: ClassVar[str] = "run"

    num_resamples: int = option(
        "Number of bootstrap samples for the confidence intervals of a head's metrics.",
        1000,
        within="[1, inf)",
        advanced=True,
    )
    resample_by: Literal["catalogs", "rows"] = option(
        "Unit of the bootstrap; rows where training has seen the same catalogs as the split.",
        "catalogs",
        advanced=True,
    )


@dataclass
class EvaluationArguments(ResamplingArguments):
    """What `evaluate_tasks.py` measures."""

    section: ClassVar[str] = "run"

    checkpoint: list[str] = option(
        "e-CLIP checkpoints that are compared, with each other and with the untrained model that the file describes.",
        [],
        command_line_only=True,
    )
    output_dir: str = option("Folder for metrics and plots.", "outputs/evaluation", command_line_only=True)
    eval_batch_size: int | None = option(
        "Offers embedded at a time; 32 on CPUs and 256 on accelerators if not given.",
        None,
        within="[1, inf)",
        advanced=True,
    )
    eval_mixed_precision: Literal["no", "bf16", "fp16"] = option(
        "Number format of the towers' computation; no is float32, which every machine computes alike.",
        "no",
        advanced=True,
    )
    seed: int = option(
        "Seed of the untrained model's weights, of derived pairs and of resampling.",
        0,
        within="[0, inf)",
        advanced=True,
    )
    task: str | None = option(
        "Task that the checkpoints' heads are measured on; retrieval and matching without training if not given.",
        None,
    )
    modality: Literal["text", "image", "both"] | None = option(
        "Modality that a head gets; all that it was trained with if not given.", None
    )
    zero_shot: bool = option(
        "Predict by the names of the classes, without training, for categories and attributes; the classes are those "
        "of the split where a checkpoint has no head.",
        False,
    )
    split: Literal["train", "validation", "test"] = option("Split that heads are measured on.", "test")

    def __post_init__(self) -> None:
        """Check the values."""
        check_ranges(self)
