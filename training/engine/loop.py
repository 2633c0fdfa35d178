"""The training loop: batches in, a trained model, its history and its checkpoints out.

Everything is counted in samples: offers that the run has asked for, unusable ones included, so that the same samples
come at the same count for any number of ranks.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from modeling_eclip import EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.train import TrainArguments
from training.data.augmentation import ProductAugmentation, TitleAugmentation
from training.data.loaders import train_loader
from training.data.mixing import rows_per_epoch
from training.data.ranks import gather_objects
from training.data.read_tables import Products
from training.data.row_places import row_files
from training.data.skipped_rows import SkipCounter
from training.engine.adapter_files import save_model
from training.engine.checkpoint import Checkpoints, Progress
from training.engine.compile import compile_towers
from training.engine.interruption import Interruption
from training.engine.lora import AdapterState
from training.engine.nonfinite import check_weights
from training.engine.patch_dropout import drop_patches
from training.engine.run_record import RunRecord
from training.engine.setup import seed_rank
from training.engine.step import OptimizerStep, TrainingStep
from training.engine.teacher import Teacher
from training.engine.tower_products import allow_tf32
from training.engine.waiting import WaitingTime
from training.retrieval.held_out_metrics import HeldOutOffers

logger = logging.getLogger(__name__)


@dataclass
class RunResult:
    """The result of a run.

    Args:
        untrained: Retrieval metrics of the model at the start of the run.
        trained: The same at the end.
        samples: Samples trained on.
        mixed_precision: What the towers computed in: `"no"` is float32.
        seconds: Time spent training, before a resumption included, evaluation and checkpoints not.
        waiting_seconds: The part of it that was spent waiting for data.
        bad_steps: Steps that were skipped because their loss or gradient was not a number.
        history: One record per report: `samples`, and `loss`, ... or retrieval metrics.
        skips: Training rows that could not be used: counts, and the first row ids, by reason.
    """

    untrained: dict[str, float]
    trained: dict[str, float]
    samples: int
    mixed_precision: str
    seconds: float
    waiting_seconds: float
    bad_steps: int
    history: list[dict[str, float]]
    skips: dict[str, Any]


class TrainingLoop:
    """Trains one model on one set of offers.

    Args:
        model: The model, or a head on it, frozen where it shall be, with its adapters.
        processor: Turns titles and images into inputs.
        train_products: What to train on.
        validation_products: Held-out offers for evaluation.
        data: The data arguments.
        arguments: The training arguments.
        accelerator: The process's accelerator.
        record: What the run is, for its checkpoints.
        teacher: Whose similarities are learned, too.
        adapters_of: Checkpoint that the model's adapters belong to, where they are saved alone and not merged.
        before: Evaluations of the model before its first step; it is evaluated if there are none.
    """

    description = "training"
    is_last = True  # whether the run ends with it

    def __init__(
        self,
        model: PreTrainedModel,
        processor: EClipProcessor,
        train_products: Any,
        validation_products: Any,
        *,
        data: DataArguments,
        arguments: TrainArguments,
        accelerator: Accelerator,
        record: RunRecord,
        teacher: Teacher | None = None,
        adapters_of: str | None = None,
        before: Sequence[dict[str, float]] = (),
    ) -> None:
        """Prepare the model for training."""
        self.teacher = teacher
        self.data, self.arguments, self.accelerator = data, arguments, accelerator
        self.processor = processor
        self.train_products, self.validation_products = train_products, validation_products
        self.total_samples = count_samples(train_products, arguments)
        if arguments.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if arguments.channels_last:
            model = model.to(memory_format=torch.channels_last)
        drop_patches(model.base_model, arguments.keep_patches)
        allow_tf32(arguments.tf32)
        if arguments.compile:
            compile_towers(model.base_model, arguments.compile_backend)
        self.step: OptimizerStep = self._make_step(model)
        self.bare_model = self.step.bare_model
        self.progress = Progress()
        self.progress.history.extend(before)
        self.skips = SkipCounter(row_files(train_products))
        kept = {"optimizer": self.step.optimizer, **self._also_kept()}
        if self.step.average is not None:
            kept["average"] = self.step.average
        if hasattr(self.bare_model.base_model, "peft_config") and adapters_of is None:
            kept["adapters"] = AdapterState(self.bare_model)
        self.checkpoints = Checkpoints(
            Path(arguments.output_dir),
            accelerator,
            plain={"progress": self.progress, "bad_steps": self.step.bad_steps},
            kept=kept,
            record=record,
            save_model=lambda folder: save_model(self.bare_model, folder, adapters_of),
            processor=processor,
            limit=arguments.save_total_limit,
        )

    def _make_step(self, model: PreTrainedModel) -> OptimizerStep:
        """Return the object that takes the steps."""
        self.held_out = HeldOutOffers.of(self.validation_products, "validation")
        return TrainingStep(model, self.arguments, self.accelerator, self.total_samples, self.teacher)

    def _also_kept(self) -> dict[str, Any]:
        """Return further objects whose state every checkpoint holds, by name."""
        return {}

    def run(self, resume_from: Path | None = None) -> RunResult:
        """Train to the end, and leave the model with the weights that are to be used: the averaged ones if there are.

        Args:
            resume_from: Checkpoint to go on from; the model must have been built from it.

        Returns:
            The run's result, the same on every rank.

        Raises:
            ValueError: too many rows can't be used.
            FloatingPointError: too many steps in a row were not a number.
            SystemExit: SIGTERM or Ctrl-C came; a checkpoint is written.
        """
        progress = self.progress
        seed_rank(self.arguments.seed, self.accelerator.process_index)
        if resume_from is not None:
            self._resume(resume_from)
        elif progress.history:
            self._log({name: value for name, value in progress.history[-1].items() if name != "samples"})
        else:
            self._evaluate()
        batches = WaitingTime(self._train_loader(start=progress.samples_seen))
        waited_before = progress.waiting_seconds
        with (
            Interruption(is_told=self.accelerator.is_main_process) as interruption,
            contextlib.closing(iter(batches)) as coming,  # ends the workers after an error, too
            tqdm(
                total=self.total_samples,
                initial=progress.samples_seen,
                unit="samples",
                desc=self.description,
                disable=not self.accelerator.is_main_process,
            ) as bar,
        ):
            started = time.perf_counter()
            for batch in coming:
                before = progress.samples_seen
                ranks = gather_objects(
                    (batch["num_rows"], batch["skipped"], batch["passed_over"], interruption.number)
                )
                self._stop_if_asked([number for *_, number in ranks])
                num_rows, num_usable = self._count(ranks)
                record = self.step(batch, before) if num_usable else None
                progress.samples_seen += num_rows
                progress.waiting_seconds = waited_before + batches.seconds
                progress.seconds += time.perf_counter() - started
                bar.update(num_rows)
                if record is not None:
                    self._report(record, bar)
                self.skips.check(self.data.max_skipped_share)
                if _passes(self.arguments.eval_every_samples, before, progress.samples_seen, self.total_samples):
                    self._evaluate()
                is_due = _passes(self.arguments.save_every_samples, before, progress.samples_seen, self.total_samples)
                # Bad steps may come from bad weights: the last checkpoint before them is the better one.
                if is_due and not self.step.bad_steps.is_in_a_row:
                    self._save()
                started = time.perf_counter()
            self._stop_if_asked(gather_objects(interruption.number))
            # The last evaluation takes less time than another start would: a signal that comes now waits for its end.
            self._evaluate()
            if not self.is_last:
                self._stop_if_asked(gather_objects(interruption.number))
        trained = self._choose_weights()
        return RunResult(
            untrained=self._evaluations()[0],
            trained=trained,
            samples=progress.samples_seen,
            mixed_precision=self.accelerator.mixed_precision,
            seconds=progress.seconds,
            waiting_seconds=progress.waiting_seconds,
            bad_steps=self.step.bad_steps.total,
            history=progress.history,
            skips=self.skips.state_dict(),
        )

    def _choose_weights(self) -> dict[str, float]:
        """Leave the model with the weights that are to be used, and return their metrics."""
        if self.step.average is not None:
            self.step.average.swap()
        return self._evaluations()[-1]

    def _evaluations(self) -> list[dict[str, float]]:
        """Return the records of evaluations, in order."""
        return [record for record in self.progress.history if "loss" not in record]

    def _resume(self, folder: Path) -> None:
        """Go on from a checkpoint, with this run's rates, decay and betas."""
        groups = self.step.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self.checkpoints.load(folder)
        for group, setting in zip(self.step.optimizer.param_groups, settings, strict=True):
            group.update(setting)
        self.skips.merge(self.progress.skips)
        if self.progress.samples_seen > self.total_samples:
            raise ValueError(
                f"{str(folder)!r} has seen {self.progress.samples_seen} samples and the run ends at "
                f"{self.total_samples}; raise `num_epochs` or `max_samples`."
            )

    def _save(self) -> None:
        check_weights(self.bare_model, "not saved")
        self.progress.skips = self.skips.state_dict()
        self.checkpoints.save(self.progress.samples_seen)

    def _train_loader(self, start: int) -> Any:
        height, width = image_size_of(self.processor)
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
                (height, width),
                min_crop_scale=self.data.min_crop_scale,
                flip_probability=self.data.flip_probability,
                colour_jitter=self.data.colour_jitter,
            ),
            title_augmentation=TitleAugmentation(self.data.word_dropout, self.data.shuffle_probability),
            mates_share=self.data.mates_share,
            similar_share=self.data.similar_share,
            shuffle_buffer=self.data.shuffle_buffer,
            num_workers=self.data.num_workers,
            prefetch_factor=self.data.prefetch_factor,
            part_size=self.data.part_size,
            memory_gib=self.data.batch_memory_gib,
            **self._loader_settings(),
        )

    def _loader_settings(self) -> dict[str, Any]:
        """Return further arguments of the loader: offers are used for what they have."""
        return {"modality": "either"}

    def _report(self, record: dict[str, float], bar: Any) -> None:
        """Show a step in the bar, and add it to the history and to the trackers."""
        progress = self.progress
        waiting = progress.waiting_seconds / progress.seconds
        scale = f"scale {record['scale']:.1f}, " if "scale" in record else ""
        bar.set_postfix_str(f"loss {record['loss']:.3f}, {scale}waiting for data {waiting:.0%}", refresh=False)
        progress.history.append({"samples": progress.samples_seen} | record)
        rates = {"samples_per_second": bar.format_dict["rate"] or 0.0, "waiting_for_data": waiting}
        self._log(record | rates)

    def _log(self, values: dict[str, float]) -> None:
        """Give the trackers values of now."""
        self.accelerator.log(values, step=self.progress.samples_seen)

    def _stop_if_asked(self, signals: list[int]) -> None:
        """End the process if a rank has got a signal."""
        number = max(signals)
        if not number:
            return
        self._leave(signal.Signals(number).name)
        raise SystemExit(128 + number)

    def _leave(self, reason: str) -> None:
        """Keep what there is of the run, which a signal ends."""
        self._save()
        logger.warning(
            "stopped by %s after %s samples, which a checkpoint holds; go on with `--resume_from_checkpoint latest`",
            reason,
            self.progress.samples_seen,
        )

    def _count(self, ranks: list[Any]) -> tuple[int, int]:
        """Count the rows of all ranks, asked for and usable."""
        for num_rows, skipped, passed_over, _ in ranks:
            self.skips.add({"num_rows": num_rows, "skipped": skipped, "passed_over": passed_over})
        num_rows = sum(num_rows for num_rows, *_ in ranks)
        return num_rows, num_rows - sum(len(skipped) for _, skipped, *_ in ranks)

    def _evaluate(self) -> None:
        """Measure retrieval on the held-out offers and add it to the history."""
        with self.step.average.in_use() if self.step.average is not None else contextlib.nullcontext():
            metrics = self.held_out.measure(
                self.bare_model,
                self.processor,
                self.accelerator,
                batch_size=self.arguments.eval_batch_size,
                num_workers=self.data.num_workers,
            )
        self.progress.history.append({"samples": self.progress.samples_seen} | metrics)
        self._log(metrics)
        if self.accelerator.is_main_process:
            told = {"text-to-image": "text_to_image_recall@1"}
            told |= {f"mates of {one}s,": f"{one}_mates_recall@1" for one in ("title", "image")}
            found = ", ".join(f"{what} recall@1 {metrics[name]:.3f}" for what, name in told.items() if name in metrics)
            tqdm.write(f"after {self.progress.samples_seen} samples: {found}")


def count_samples(products: Products, arguments: TrainArguments) -> int:
    """Return how many samples the run trains on."""
    if arguments.max_samples is not None:
        return arguments.max_samples
    return math.ceil(arguments.num_epochs * rows_per_epoch(products))


def image_size_of(processor: EClipProcessor) -> tuple[int, int]:
    """Return height and width in pixels of the images that an image processor returns.

    Flexible processors (SigLIP 2's) keep the shape of an image; for those, the square with their number of patches.
    """
    image_processor = processor.image_processor
    if getattr(image_processor, "max_num_patches", None):
        side = math.isqrt(image_processor.max_num_patches) * image_processor.patch_size
        return side, side
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "height" in size:
        return size["height"], size["width"]
    return size["shortest_edge"], size["shortest_edge"]


def _passes(interval: int | None, before: int, after: int, total: int) -> bool:
    """Tell whether a multiple of the interval lies between two counts; the end has its own report."""
    return interval is not None and after < total and before // interval != after // interval


def describe(result: RunResult) -> dict[str, Any]:
    """Return a result as plain values, for a JSON file."""
    return asdict(result)


__all__ = ["RunResult", "TrainingLoop", "count_samples", "describe", "image_size_of"]
