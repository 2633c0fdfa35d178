"""What `report.py` compares."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import check_ranges, option

__all__ = ["ReportArguments"]


_METHODS = ("eclip", "hard_labels", "no_pretraining", "classical", "classical_lexical")


@dataclass
class ReportArguments:
    """What `report.py` compares."""

    section: ClassVar[str] = "run"

    output_dir: str = option("Folder for runs, checkpoints, tables and plots.", "outputs/report")
    pretraining: str = option("Configuration of the pre-training.", "training/configs/marketplace.yaml")
    pretraining_samples: int | None = option(
        "Samples of each pre-training; as its configuration says if not given.", None, within="[1, inf)", advanced=True
    )
    pretraining_seeds: int = option(
        "Pre-trainings of each kind; the seeds of the tasks use them in turn.", 1, within="[1, inf)", advanced=True
    )
    tasks: list[str] = option("Tasks, as task:configuration; the name of the file is the name of the data.", [])
    trained_modalities: list[str] = option(
        "Modalities, as task:data:modality, whose towers are trained with all labels if that is better on validation "
        "than a linear probe.",
        [],
        advanced=True,
    )
    max_task_rows: int | None = option(
        "Maximum number of training rows of a task; all if not given.", None, within="[1, inf)", advanced=True
    )
    modalities: list[str] = option("text, image, both; both needs the other two.", ["text", "image", "both"])
    methods: list[str] = option(f"{', '.join(_METHODS)}.", list(_METHODS))
    baseline: list[str] = option(
        "Further models to compare with: Hub ids or folders of CLIP, SigLIP or e-CLIP checkpoints.", []
    )
    label_shares: list[float] = option(
        "Shares of the labels that are learned from.", [0.01, 0.1, 1.0], within="(0, 1]"
    )
    num_seeds: int = option("Number of seeds, of the label shares and of training.", 3, within="[1, inf)")
    num_resamples: int = option(
        "Number of bootstrap samples for confidence intervals.", 300, within="[1, inf)", advanced=True
    )
    jobs: int = option("Runs that are computed at the same time; use 1 on a GPU.", 2, within="[1, inf)")

    def __post_init__(self) -> None:
        """Check the values."""
        if "both" in self.modalities and not {"text", "image"} <= set(self.modalities):
            raise ValueError(f"`modalities` is {self.modalities}; both is put together from text and image.")
        known = {
            "modalities": ("text", "image", "both"),
            "methods": _METHODS,
        }
        for name, values in known.items():
            if unknown := [value for value in getattr(self, name) if value not in values]:
                raise ValueError(f"`{name}` holds {unknown[0]!r}; give some of {', '.join(values)}.")
        if not self.methods and not self.baseline:
            raise ValueError(f"`methods` and `baseline` are empty; give some methods of {', '.join(_METHODS)}.")
        check_ranges(self)
        if not self.label_shares:
            raise ValueError("`label_shares` is empty; give shares above 0 and at most 1.")
