"""Weight averaging: an exponential moving average (EMA) of the trained weights, beside the weights themselves.

The average is a list of tensors and no second model: for evaluation and for the final model it changes places with the
weights, so that wrappers, hooks and compiled code of the model apply to it, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """An exponential moving average of a model's trained parameters.

    Counted per optimizer step, for any batch size: a decay of `d` looks back over about `1 / (1 - d)` steps. The first
    step's weights start it. Frozen parameters have no average, and buffers are those of the model.

    Args:
        model: The model, on its device, frozen where it shall be.
        decay: Share of the average that each step keeps.

    Raises:
        ValueError: the decay is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the trained weights."""
        if not 0.0 < decay < 1.0:
            raise ValueError(f"`ema_decay` is {decay}; give a share between 0 and 1, such as 0.999.")
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._parameters: list[torch.Tensor] = [
            parameter for parameter in model.parameters() if parameter.requires_grad
        ]
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._blend = get_ema_multi_avg_fn(decay)
        self._num_steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in; call it after each optimizer step."""
        if self._num_steps == 0:
            torch._foreach_copy_(self._averages, self._parameters)
        else:
            self._blend(self._averages, self._parameters, self._num_steps)
        self._num_steps += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Have average and weights change places, bit for bit; a second time puts them back."""
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            weights = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weights)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the model its averaged weights for as long as the context lasts."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs, for a checkpoint."""
        averages = {name: average.cpu() for name, average in zip(self._names, self._averages, strict=True)}
        return {"num_steps": self._num_steps, "averages": averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the checkpoint's average is of other parameters.
        """
        if list(state["averages"]) != self._names:
            differing = sorted(state["averages"].keys() ^ set(self._names))
            raise ValueError(
                f"the checkpoint's averaged weights differ in {differing[:3]}; resume with the same `freeze` and "
                "`lora_rank`."
            )
        self._num_steps = state["num_steps"]
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(state["averages"][name])


__all__ = ["WeightAverage"]
