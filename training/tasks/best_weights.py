"""The best weights of a run by its validation score: kept in memory and in checkpoints, put back at the end."""

import math
from typing import Any

import torch
from torch import nn

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the trained weights of the best evaluation, the later one of two with the same score.

    A score that is not a number (of a validation set without a positive row, for instance) tells nothing: the latest
    weights are kept then.

    Args:
        model: The model, on its device, frozen where it shall be. Frozen weights are not kept; buffers are.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember which weights are trained."""
        self._tensors: dict[str, torch.Tensor] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._tensors |= dict(model.named_buffers())
        self.score = -float("inf")
        self.samples = 0
        self._kept: dict[str, torch.Tensor] = {}

    def offer(self, score: float, samples: int) -> bool:
        """Keep the weights as they are now if their score is the best.

        Args:
            score: The higher the better.
            samples: Samples that the model has been trained on.

        Returns:
            Whether they were kept.
        """
        if self._kept and not score >= self.score and not math.isnan(self.score):
            return False
        self.score, self.samples = score, samples
        self._kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors.items()}
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model its best weights."""
        for name, kept in self._kept.items():
            self._tensors[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs, for a checkpoint."""
        return {"score": self.score, "samples": self.samples, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: other weights were trained there.
        """
        if state["kept"] and state["kept"].keys() != self._tensors.keys():
            differing = sorted(state["kept"].keys() ^ self._tensors.keys())
            raise ValueError(
                f"the checkpoint's best weights differ in {differing[:3]}; resume with the same `method`, `freeze` "
                "and `lora_rank`."
            )
        self.score, self.samples, self._kept = state["score"], state["samples"], state["kept"]
