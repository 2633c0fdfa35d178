"""Batch size and learning rate as functions of the samples seen.

Counted in samples and not in steps, so that a run of another batch size, or one that is resumed, follows the same
curves.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

BatchSizeRule = Literal["none", "sqrt", "linear"]
_EXPONENTS: dict[str, float] = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def learning_rate_share(
    samples_seen: int, total_samples: int, *, warmup_share: float = 0.1, final_share: float = 0.0
) -> float:
    """Return the share of the peak learning rate: a linear rise, then half a cosine.

    Counted in samples, so that it is the same curve for any batch size (this package's design).

    Args:
        samples_seen: Samples that the model has been trained on before this step.
        total_samples: Samples of the whole run.
        warmup_share: Share of the run over which the rate rises.
        final_share: Share of the peak that the run ends at.

    Returns:
        A number from 0 to 1. The first step has a rate above zero.
    """
    warmup_samples = warmup_share * total_samples
    if samples_seen < warmup_samples:
        return (samples_seen + 1) / (warmup_samples + 1)
    decayed = min(1.0, (samples_seen - warmup_samples) / max(1.0, total_samples - warmup_samples))
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * decayed)) / 2


class BatchSizeSchedule:
    """The batch size of each moment of a run, and what it does to the learning rate.

    Large batches converge badly from the start, so the batch grows during training (e-CLIP, Shin et al. 2022, section
    3.3: batch size scheduler). Steps at shares of the run, and the rules, are this package's design.

    The rates of a run are those of its first batch size, since the two are given together in its arguments and a small
    batch is what one can afford to try rates with: a batch of size B has them multiplied by (B / first size) to the
    power 0 (`"none"`), 1/2 (`"sqrt"`, which suits Adam) or 1 (`"linear"`).

    Args:
        batch_size: Samples in a global batch, all ranks together, from the start.
        steps: `(share, size)` pairs: from this share of the run's samples on, batches have this size.
        total_samples: Samples of the whole run.
        rule: How the learning rate follows.

    Raises:
        ValueError: shares that do not rise between 0 and 1, a size below 2, or an unknown rule.
    """

    def __init__(
        self,
        batch_size: int,
        steps: Sequence[tuple[float, int]],
        total_samples: int,
        rule: BatchSizeRule = "none",
    ) -> None:
        """Check the steps and place them in samples."""
        shares = [share for share, _ in steps]
        if any(later <= earlier for earlier, later in zip([0.0, *shares], [*shares, 1.0], strict=True)):
            raise ValueError(
                f"`batch_size_schedule` has the shares {shares}; give rising ones, above 0 and below 1: the first "
                "size, from the start, is `batch_size`."
            )
        sizes = [batch_size, *(size for _, size in steps)]
        if min(sizes) < 2:
            raise ValueError(f"`batch_size_schedule` has the sizes {sizes}; a contrast needs at least 2 offers.")
        if rule not in _EXPONENTS:
            known = ", ".join(get_args(BatchSizeRule))
            raise ValueError(f"`batch_size_rule` is {rule!r}; choose one of {known}.")
        self.sizes = sizes
        self.starts = [0, *(round(share * total_samples) for share in shares)]
        self.rule = rule

    def __call__(self, samples_seen: int) -> int:
        """Return the size of the batch that starts after so many samples, on all ranks together."""
        return next(
            size for start, size in zip(self.starts[::-1], self.sizes[::-1], strict=True) if samples_seen >= start
        )

    def learning_rate_factor(self, samples_seen: int) -> float:
        """Return what the learning rate of that batch is multiplied by; 1 for batches of the first size."""
        return (self(samples_seen) / self.sizes[0]) ** _EXPONENTS[self.rule]


def parse_batch_size_steps(texts: Sequence[str]) -> list[tuple[float, int]]:
    """Read steps of a batch size schedule, as they are written on a command line.

    Args:
        texts: One `share:size` each, such as `"0.1:4096"`.

    Returns:
        `(share, size)` pairs in the same order.

    Raises:
        ValueError: a text is not of that form.
    """
    steps = []
    for text in texts:
        share, _, size = text.partition(":")
        try:
            steps.append((float(share), int(size)))
        except ValueError:
            raise ValueError(
                f"`batch_size_schedule` holds {text!r}; give share:size, such as 0.1:4096 for batches of 4096 offers "
                "after a tenth of the run."
            ) from None
    return steps


__all__ = ["BatchSizeRule", "BatchSizeSchedule", "learning_rate_share", "parse_batch_size_steps"]
