"""How a task is learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.options import option
from training.arguments.train import TrainArguments

__all__ = ["FinetuneArguments"]


@dataclass
class FinetuneArguments(TrainArguments):
    """How a task is learned: the training arguments, with defaults that suit tasks, and those of the task.

    Streams, teachers, projections and the contrast of mates belong to pre-training and have no effect here.
    """

    section: ClassVar[str] = "run"

    output_dir: str = option("Folder for checkpoints, the model and the report.", "outputs/finetune")
    task: str = option("Task that is learned; a name that is none lists those there are.", "category")
    modality: Literal["text", "image", "both"] = option("Modality that the task is learned from.", "both")
    method: Literal["linear", "full", "lora"] = option(
        "linear: a classifier on the vectors of frozen towers; full: all weights; lora: adapters in the towers.",
        "full",
    )
    join: list[str] = option(
        "Two heads, of titles and of images, to join in one; only how they are joined is fitted.", [], advanced=True
    )
    label_share: float = option(
        "Share of the training rows (or pairs, or catalogs) whose labels are used.", 1.0, within="(0, 1]"
    )
    num_epochs: float = option("Passes over the labelled rows.", 8.0, within="(0, 1e6]")
    batch_size: int = option("Rows in a batch over all ranks.", 64)
    learning_rate: float = option("Peak learning rate of the head.", 2e-3, within="[0, 10]")
    tower_learning_rate: float | None = option(
        "Peak learning rate of the towers; 1e-4 if not given, 1e-3 for adapters.", None, within="[0, 10]"
    )
    weight_decay: float = option("Weight decay of matrices; biases and norms have none.", 0.05, within="[0, 10]")
    adam_beta2: float = option("AdamW's second beta.", 0.999, within="[0, 1)", advanced=True)
    label_smoothing: float = option(
        "Share of a label's mass that is spread over all classes; no effect with linear.",
        0.05,
        within="[0, 1)",
        advanced=True,
    )
    modality_dropout: float = option(
        "Probability, per modality, of leaving it out where both are given; no effect with linear.",
        0.1,
        within="[0, 1]",
        advanced=True,
    )
    lexical_features: bool = option(
        "Have the head read what titles say literally, words, numbers and codes, beside the vectors.",
        True,
        advanced=True,
    )
    positive_weight: float | None = option(
        "Weight of a restricted product in the loss; if not given, both classes weigh the same in total.",
        None,
        within="(0, inf)",
        advanced=True,
    )
    target_recall: float = option(
        "Recall of restricted products on validation that the threshold is chosen for.",
        0.95,
        within="(0, 1]",
        advanced=True,
    )
    target_precision: float | None = option(
        "Precision on validation that answers are to have; less certain ones are sent to review. None: all are given.",
        None,
        within="(0, 1]",
        advanced=True,
    )
    min_probability: float = option(
        "Attribute values with a lower probability than this are predicted as not stated.",
        0.0,
        within="[0, 1]",
        advanced=True,
    )
    merge: bool = option("Save adapters merged into the weights, as a full model, not alone.", False, advanced=True)

    def __post_init__(self) -> None:
        """Check the values, and set the towers' learning rate."""
        super().__post_init__()
        if self.tower_learning_rate is None:
            self.tower_learning_rate = 1e-3 if self.method == "lora" else 1e-4
