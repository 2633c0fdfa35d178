"""Learning rate as a function of the samples seen."""

import math


def learning_rate_share(
    samples_seen: int, total_samples: int, *, warmup_share: float = 0.1, final_share: float = 0.0
) -> float:
    """Return the share of the peak learning rate: a linear rise, then half a cosine.

    Counted in samples, so that it is the same curve whatever the batch size (this package's design).

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


__all__ = ["learning_rate_share"]
