"""What `interpolate.py` reads and writes."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import check_ranges, option

__all__ = ["InterpolateArguments"]


@dataclass
class InterpolateArguments:
    """Two checkpoints, and the place between them."""

    section: ClassVar[str] = "run"

    start: str = option("Checkpoint that training started from: e-CLIP or CLIP, Hub id or folder.", "")
    checkpoint: str = option("e-CLIP checkpoint that it came to.", "")
    output_dir: str = option("Folder for the model in between; its processor is that of `checkpoint`.", "")
    share: float = option("Share of the way from `start` to `checkpoint`.", 0.5, within="[0, 1]")

    def __post_init__(self) -> None:
        """Check that all is named."""
        check_ranges(self)
        for name in ("start", "checkpoint", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; call interpolate.py START TRAINED OUTPUT.")
