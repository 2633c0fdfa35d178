"""Numbers that are none.

Steps whose loss or gradient is not a number are skipped, counted, and too many of them in a row stop the run. Weights
and vectors that are not numbers are never written.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from training.data.ranks import gather_objects

logger = logging.getLogger(__name__)


class BadSteps:
    """Counts the steps that are skipped because their loss or gradient is not a finite number.

    Not those whose gradients a scaler has scaled beyond float16: it finds its scale by such steps.

    Args:
        accelerator: The process's accelerator.
        limit: How many in a row stop the run.
        path: Where the rows of their batches are written then.
    """

    def __init__(self, accelerator: Accelerator, limit: int, path: Path) -> None:
        """Start with none."""
        self.accelerator = accelerator
        self.limit = limit
        self.path = path
        self.total = 0
        self._in_a_row: list[dict[str, Any]] = []

    @property
    def is_in_a_row(self) -> bool:
        """Whether the last step was a bad one."""
        return bool(self._in_a_row)

    def good(self) -> None:
        """Note a step that was taken."""
        self._in_a_row.clear()

    def bad(self, samples_seen: int, loss: float, gradient_norm: float, row_ids: list[str]) -> None:
        """Note a step that was skipped; all ranks call this together.

        Args:
            samples_seen: Samples before the step.
            loss: Its loss.
            gradient_norm: Norm of its gradient.
            row_ids: This rank's rows.

        Raises:
            FloatingPointError: it was one too many in a row.
        """
        self.total += 1
        step = {"samples_seen": samples_seen, "loss": str(loss), "gradient_norm": str(gradient_norm)}
        self._in_a_row.append(step | {"row_ids": row_ids})
        logger.warning("after %s samples: loss %s, gradient norm %s; step skipped", samples_seen, loss, gradient_norm)
        if len(self._in_a_row) < self.limit:
            return
        ranks = gather_objects(self._in_a_row)
        steps = [
            parts[0] | {"row_ids": [row_id for part in parts for row_id in part["row_ids"]]}
            for parts in zip(*ranks, strict=True)
        ]
        if self.accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(steps, indent=2) + "\n", encoding="utf-8")
        raise FloatingPointError(
            f"{self.limit} steps in a row had a loss or a gradient that is not a number, the last after "
            f"{samples_seen} samples; their rows are in {str(self.path)!r}. Look at those, lower `learning_rate`, or "
            "use bf16 in place of fp16; `max_bad_steps` is the limit."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts for a checkpoint."""
        return {"total": self.total, "in_a_row": list(self._in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.total, self._in_a_row = state["total"], list(state["in_a_row"])


def check_weights(model: torch.nn.Module, place: str) -> None:
    """Refuse a model with weights that are not finite.

    Args:
        model: The model.
        place: What is not done with them, such as `"not saved"`.

    Raises:
        FloatingPointError: a weight or a buffer holds NaN or infinity.
    """
    bad = [name for name, value in model.state_dict().items() if value.is_floating_point() and not is_finite(value)]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} tensors of the model hold numbers that are not finite ({', '.join(bad[:3])}); it is {place}. "
            "Go on from an earlier checkpoint, with a lower `learning_rate`, or with bf16 in place of fp16."
        )


def is_finite(value: torch.Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    # Not by `isfinite`, which takes a byte a value: the sum of finite numbers could be infinite, their extremes not.
    return value.numel() == 0 or all(torch.isfinite(one).item() for one in value.aminmax())


__all__ = ["BadSteps", "check_weights", "is_finite"]
