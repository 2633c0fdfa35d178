"""The loop of fine-tuning: pre-training's own, with a head's loss, its figures on validation, and its best weights."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_eclip import EClipProcessor
from modeling_eclip.representation_eclip import EClipTaskModel
from training.adapters import AdapterState, plain_state_dict
from training.arguments import DataArguments, FinetuneArguments
from training.augmentation import ProductAugmentation, TitleAugmentation
from training.best_weights import BestWeights
from training.checkpoint import Checkpoints, Progress
from training.compilation import compile_towers
from training.data import train_loader
from training.interruption import Interruption
from training.loop import RunResult, TrainingLoop, _passes, count_samples, image_size_of
from training.pairs import ProductPairs
from training.patch_dropping import drop_patches
from training.products import Products
from training.representing import represent
from training.skip_counter import SkipCounter
from training.task_step import TaskStep
from training.tasks import Task
from training.waiting import WaitingTime

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

    def run(self, resume_from: Path | None = None) -> RunResult:
        """Train to the end, and leave the head with its best weights.

        Args:
            resume_from: Checkpoint to go on from; the head must have been built from it.

        Returns:
            The run's result, the same on every rank.

        Raises:
            ValueError: too many rows can't be used.
            FloatingPointError: too many steps in a row were not a number.
            SystemExit: SIGTERM came; a checkpoint is written.
        """
        progress, arguments = self.progress, self.arguments
        if resume_from is not None:
            self._resume(resume_from)
        else:
            self._evaluate()
        batches = WaitingTime(self._train_loader(start=progress.samples_seen))
        waited_before = progress.waiting_seconds
        with (
            Interruption() as interruption,
            tqdm(
                total=self.total_samples,
                initial=progress.samples_seen,
                unit="samples",
                desc="training",
                disable=not self.accelerator.is_main_process,
            ) as bar,
        ):
            started = time.perf_counter()
            for batch in batches:
                before = progress.samples_seen
                ranks = self._tell_all((batch["num_rows"], batch["skipped"], interruption.requested))
                if any(is_stopped for _, _, is_stopped in ranks):
                    self._stop()
                num_rows, num_usable = self._count(ranks)
                record = self.step(batch, before) if num_usable else None
                progress.samples_seen += num_rows
                progress.waiting_seconds = waited_before + batches.seconds
                progress.seconds += time.perf_counter() - started
                bar.update(num_rows)
                if record is not None:
                    self._report(record, bar)
                self.skips.check(self.data.max_skipped_share)
                if _passes(arguments.eval_every_samples, before, progress.samples_seen, self.total_samples):
                    self._evaluate()
                if _passes(arguments.save_every_samples, before, progress.samples_seen, self.total_samples):
                    self._save()
                started = time.perf_counter()
        self._evaluate()
        self.best.restore()
        evaluations = [record for record in progress.history if "loss" not in record]
        return RunResult(
            untrained=evaluations[0],
            trained=next(record for record in evaluations if record["samples"] == self.best.samples),
            samples=progress.samples_seen,
            seconds=progress.seconds,
            waiting_seconds=progress.waiting_seconds,
            bad_steps=self.step.bad_steps.total,
            history=progress.history,
            skips=self.skips.state_dict(),
        )

    def _train_loader(self, start: int) -> Any:
        return train_loader(
            self.train_products,
            self.processor,
            batch_size=self.step.batch_size,
            total_samples=self.total_samples,
            seed=self.arguments.seed,
            start=start,
            rank=self.accelerator.process_index,
            num_ranks=self.accelerator.num_processes,
            augmentation=ProductAugmentation(
                image_size_of(self.processor),
                min_crop_scale=self.data.min_crop_scale,
                flip_probability=self.data.flip_probability,
                colour_jitter=self.data.colour_jitter,
            ),
            title_augmentation=TitleAugmentation(self.data.word_dropout, self.data.shuffle_probability),
            own_catalog_for_singles=False,
            mates_share=self.data.mates_share,
            shuffle_buffer=self.data.shuffle_buffer,
            modality=self.modality,
            labels=self.task.labels,
            num_workers=self.data.num_workers,
        )

    def _report(self, record: dict[str, float], bar: Any) -> None:
        """Show a step in the bar, and add it to the history and to the trackers."""
        progress = self.progress
        waiting = progress.waiting_seconds / progress.seconds
        bar.set_postfix_str(f"loss {record['loss']:.3f}, waiting for data {waiting:.0%}", refresh=False)
        progress.history.append({"samples": progress.samples_seen} | record)
        rates = {"samples_per_second": bar.format_dict["rate"] or 0.0, "waiting_for_data": waiting}
        self.accelerator.log(record | rates, step=progress.samples_seen)

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
