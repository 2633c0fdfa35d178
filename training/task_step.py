"""One step of fine-tuning: the head's own loss, the mean over the labelled rows of all ranks."""

from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from training.arguments import TrainArguments
from training.step import OptimizerStep

__all__ = ["TaskStep"]


class TaskStep(OptimizerStep):
    """Steps on a head and on what of its towers is trained. See [`OptimizerStep`]."""

    def __init__(
        self, model: PreTrainedModel, arguments: TrainArguments, accelerator: Accelerator, total_samples: int
    ) -> None:
        """Find what keeps statistics of batches."""
        super().__init__(model, arguments, accelerator, total_samples)
        self._fixed = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if not arguments.fix_batch_norm:
            self._fixed = []

    def backward(self, inputs: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        """Compute the head's loss and its gradient."""
        for module in self._fixed:
            module.eval()
        loss = self.model(**inputs).loss
        # Ranks' gradients are averaged: a rank with more rows counts more, and one with a stand-in only not at all.
        num_rows = torch.tensor(float(len(batch["row_ids"])), device=self.accelerator.device)
        num_all = self.accelerator.reduce(num_rows, "sum")
        share = num_rows / num_all
        self.accelerator.backward(loss * share * self.accelerator.num_processes)
        return self.accelerator.reduce(loss.detach() * share, "sum")
