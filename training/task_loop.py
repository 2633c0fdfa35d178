"""The loop of fine-tuning: pre-training's own, with a head's loss, its figures on validation, and its best weights."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_eclip import EClipProcessor
from modeling_eclip.representation_eclip import EClipTaskModel
from training.adapters import AdapterState, plain_state_dict
from training.arguments import DataArguments, FinetuneArguments
from training.best_weights import BestWeights
from training.checkpoint import Checkpoints, Progress
from training.compilation import compile_towers
from training.loop import TrainingLoop, count_samples
from training.pairs import ProductPairs
from training.patch_dropping import drop_patches
from training.products import Products
from training.representing import represent
from training.skip_counter import SkipCounter
from training.task_step import TaskStep
from training.tasks import Task

logger = logging.getLogger(__name__)

__all__ = ["TaskLoop"]


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
        self.data, self.arguments, self.accelerator, self.task = data, arguments, accelerator, task
        self.processor = processor
        self.train_products, self.validation_products = train_products, validation_products
        self.total_samples = count_samples(train_products, arguments)
        if arguments.gradient_checkpointing:
            head.activation_checkpointing_enable({"use_reentrant": False})
        if arguments.channels_last:
            head = head.to(memory_format=torch.channels_last)
        drop_patches(head.eclip, arguments.keep_patches)
        if arguments.compile:
            compile_towers(head.eclip, arguments.compile_backend)
        self.modality = arguments.modality
        self.step: Any = TaskStep(head, arguments, accelerator, self.total_samples)
        self.bare_model = self.step.bare_model
        self.progress = Progress()
        self.skips = SkipCounter()
        self.best = BestWeights(self.bare_model)
        kept = [self.progress, self.step.bad_steps, self.best]
        if self.step.average is not None:
            kept.append(self.step.average)
        if hasattr(self.bare_model.eclip, "peft_config"):
            kept.append(AdapterState(self.bare_model))
        self.checkpoints = Checkpoints(
            Path(arguments.output_dir),
            accelerator,
            kept,
            save_model=lambda folder: self.bare_model.save_pretrained(
                folder, state_dict=plain_state_dict(self.bare_model)
            ),
            processor=processor,
            limit=arguments.save_total_limit,
        )

    def _choose_weights(self) -> dict[str, float]:
        """Leave the head with its best weights, and return their figures."""
        self.best.restore()
        return next(record for record in self._evaluations() if record["samples"] == self.best.samples)

    def _loader_settings(self) -> dict[str, Any]:
        """Have the loader read labels, and no side that the head does not look at."""
        return {"own_catalog_for_singles": False, "modality": self.modality, "labels": self.task.labels}

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
            figures = self.task.figures(self.bare_model, rows)
            score, samples = self.task.score(figures), self.progress.samples_seen
            is_best = self.best.offer(score, samples)
        self.progress.history.append({"samples": samples} | figures)
        self.accelerator.log(figures, step=samples)
        if self.accelerator.is_main_process:
            told = ", ".join(f"{name} {figures[name]:.3f}" for name in self.task.scored_by)
            tqdm.write(f"after {samples} samples: {told}{', the best' if is_best else ''}")
