"""The loop of fine-tuning: pre-training's own, with a head's loss, its metrics on validation, and its best weights."""

import contextlib
import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from modeling_eclip import EClipProcessor, mate_contrast_loss
from modeling_eclip.representation_eclip import EClipTaskModel
from training.arguments.groups import DataArguments, FinetuneArguments, TrainArguments
from training.data.inputs import model_inputs
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.engine.loop import TrainingLoop
from training.engine.step import OptimizerStep
from training.tasks.best_weights import BestWeights
from training.tasks.features import represent
from training.tasks.task import Task

__all__ = ["TaskLoop", "TaskStep"]

logger = logging.getLogger(__name__)


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

    def backward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Compute the head's loss and its gradient."""
        inputs = model_inputs(batch, self.accelerator.device, channels_last=self.arguments.channels_last)
        self._fix_batch_norm()
        loss = self.model(**inputs).loss
        # Ranks' gradients are averaged, so each counts by its rows; one with a placeholder row alone does not count.
        num_rows = torch.full((), float(len(batch["row_ids"])), device=self.accelerator.device)
        num_all = self.accelerator.reduce(num_rows, "sum")
        share = num_rows / num_all
        self.accelerator.backward(loss * share * self.accelerator.num_processes)
        return self.accelerator.reduce(loss.detach() * share, "sum")

    def _fix_batch_norm(self) -> None:
        for module in self._fixed:
            module.eval()


class ContrastStep(TaskStep):
    """Steps on a head whose loss contrasts the rows of a batch: each with those of all ranks. See [`TaskStep`]."""

    def __init__(
        self, model: PreTrainedModel, arguments: TrainArguments, accelerator: Accelerator, total_samples: int
    ) -> None:
        """Have the head contrast over the ranks."""
        super().__init__(model, arguments, accelerator, total_samples)
        self._has_rows = True
        self.bare_model.contrast = self._contrast

    def backward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Compute the loss over all ranks' rows, and its gradient."""
        inputs = model_inputs(batch, self.accelerator.device, channels_last=self.arguments.channels_last)
        self._fix_batch_norm()
        self._has_rows = bool(batch["row_ids"])
        loss = self.model(**inputs).loss
        self.accelerator.backward(loss)
        return loss.detach()

    def _contrast(self, embeds: torch.Tensor, logit_scale: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Contrast rows with the other rows of their catalog; a placeholder row is nobody's."""
        num_rows = len(embeds) if self._has_rows else 0
        return mate_contrast_loss(embeds[:num_rows], logit_scale, labels[:num_rows], distributed=True)


class TaskLoop(TrainingLoop):
    """Trains one head on one task.

    Args:
        head: The head, frozen where it shall be, with its adapters.
        processor: Turns titles and images into inputs.
        train_products: Products, or pairs of them, to learn from.
        validation_products: Held-out ones that choose the best weights.
        task: The task.
        data: The data arguments.
        arguments: The fine-tuning arguments.
        accelerator: The process's accelerator.
    """

    def __init__(
        self,
        head: EClipTaskModel,
        processor: EClipProcessor,
        train_products: Products | ProductPairs,
        validation_products: Products | ProductPairs,
        *,
        task: Task,
        data: DataArguments,
        arguments: FinetuneArguments,
        accelerator: Accelerator,
    ) -> None:
        """Prepare the head for training."""
        self.task = task
        super().__init__(
            head,
            processor,
            train_products,
            validation_products,
            data=data,
            arguments=arguments,
            accelerator=accelerator,
        )

    def _make_step(self, model: PreTrainedModel) -> OptimizerStep:
        """Have the head's own loss."""
        step = ContrastStep if self.task.contrasts_mates else TaskStep
        return step(model, self.arguments, self.accelerator, self.total_samples)

    def _also_kept(self) -> list[Any]:
        """Keep the best weights so far."""
        self.best = BestWeights(self.bare_model)
        return [self.best]

    def _choose_weights(self) -> dict[str, float]:
        """Leave the head with its best weights, and return their metrics."""
        self.best.restore()
        return next(record for record in self._evaluations() if record["samples"] == self.best.samples)

    def _loader_settings(self) -> dict[str, Any]:
        """Have the loader read labels, and no modality that the head does not look at."""
        return {
            "own_catalog_for_singles": False,
            "modality": self.bare_model.config.modality,
            "labels": self.task.labels,
        }

    def _evaluate(self) -> None:
        """Measure the held-out rows, and keep the weights if they are the best."""
        with self.step.average.in_use() if self.step.average is not None else contextlib.nullcontext():
            rows = represent(
                self.bare_model,
                self.validation_products,
                self.processor,
                self.accelerator,
                labels=self.task.labels,
                batch_size=self.arguments.eval_batch_size,
                num_workers=self.data.num_workers,
                description="validating",
            )
            self.task.fit_decisions(self.bare_model, rows)
            metrics = self.task.metrics(self.bare_model, rows)
            score, samples = self.task.score(metrics), self.progress.samples_seen
            is_best = self.best.offer(score, samples)
        self.progress.history.append({"samples": samples} | metrics)
        self.accelerator.log(metrics, step=samples)
        if self.accelerator.is_main_process:
            told = ", ".join(f"{name} {metrics[name]:.3f}" for name in self.task.scored_by)
            tqdm.write(f"after {samples} samples: {told}{', the best' if is_best else ''}")
