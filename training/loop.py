"""The training loop: batches in, a trained model, its history and its checkpoints out.

Plain in-batch contrast over all ranks: embeddings are gathered with their gradients, so that any number of ranks gives
the gradients of one with the joined batch. Everything is counted in samples: offers that the run has asked for,
unusable ones included, so that the same samples come at the same count whatever the number of ranks.
"""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_eclip import EClipModel, EClipProcessor, contrastive_loss, gather_rows
from training.arguments import DataArguments, TrainArguments
from training.augmentation import ProductAugmentation, TitleAugmentation
from training.checkpoint import Checkpoints, Progress
from training.data import train_loader
from training.embedding import model_inputs
from training.optimization import build_optimizer, set_training_mode
from training.products import Products
from training.schedule import learning_rate_share
from training.skip_counter import SkipCounter
from training.zero_shot import embed_products, retrieval_figures

logger = logging.getLogger(__name__)


@dataclass
class RunResult:
    """What a run came to.

    Args:
        untrained: Retrieval figures of the model at the start of the run.
        trained: The same at the end.
        samples: Samples trained on.
        seconds: Time spent training, before a resumption included, evaluation and checkpoints not.
        history: One record per report: `samples`, and `loss`, ... or retrieval figures.
        skips: Training rows that could not be used: counts, and the first row ids, by reason.
    """

    untrained: dict[str, float]
    trained: dict[str, float]
    samples: int
    seconds: float
    history: list[dict[str, float]]
    skips: dict[str, Any]


class TrainingLoop:
    """Trains one model on one set of offers.

    Args:
        model: The model, frozen where it shall be.
        processor: Turns titles and images into inputs.
        train_products: Offers to train on.
        validation_products: Held-out offers for retrieval.
        data: The data arguments.
        arguments: The training arguments.
        accelerator: The process's accelerator.
    """

    def __init__(
        self,
        model: EClipModel,
        processor: EClipProcessor,
        train_products: Products,
        validation_products: Products,
        *,
        data: DataArguments,
        arguments: TrainArguments,
        accelerator: Accelerator,
    ) -> None:
        """Prepare model and optimizer for the accelerator's devices."""
        self.data, self.arguments, self.accelerator = data, arguments, accelerator
        self.processor = processor
        self.train_products, self.validation_products = train_products, validation_products
        self.total_samples = count_samples(train_products, arguments)
        if arguments.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if arguments.channels_last:
            model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(
            model,
            learning_rate=arguments.learning_rate,
            tower_learning_rate=arguments.tower_learning_rate,
            weight_decay=arguments.weight_decay,
            no_weight_decay=arguments.no_weight_decay,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            epsilon=arguments.adam_epsilon,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.progress = Progress()
        self.skips = SkipCounter()
        self.checkpoints = Checkpoints(
            Path(arguments.output_dir),
            accelerator,
            self.bare_model,
            processor,
            self.progress,
            arguments.save_total_limit,
        )

    @property
    def bare_model(self) -> EClipModel:
        """The model without what distributed training wraps it in."""
        return self.accelerator.unwrap_model(self.model)

    def run(self, resume_from: Path | None = None) -> RunResult:
        """Train to the end.

        Args:
            resume_from: Checkpoint to go on from; the model must have been built from it.

        Returns:
            The run's result, the same on every rank.

        Raises:
            ValueError: too many rows can't be used.
            FloatingPointError: the loss is not a number.
        """
        arguments, progress = self.arguments, self.progress
        skips = self.skips
        if resume_from is not None:
            settings = [
                {key: value for key, value in group.items() if key != "params"}
                for group in self.optimizer.param_groups
            ]
            self.checkpoints.load(resume_from)
            # The optimizer's state is the checkpoint's; rates, decay and betas are those of this run's arguments.
            for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(setting)
            skips.merge(progress.skips)
            if progress.samples_seen >= self.total_samples:
                raise ValueError(
                    f"{str(resume_from)!r} has seen {progress.samples_seen} samples and the run ends at "
                    f"{self.total_samples}; raise `num_epochs` or `max_samples`."
                )
        else:
            self._evaluate()
        loader = self._train_loader(start=progress.samples_seen)
        set_training_mode(self.model, fix_batch_norm=arguments.fix_batch_norm)
        with tqdm(
            total=self.total_samples,
            initial=progress.samples_seen,
            unit="samples",
            desc="training",
            disable=not self.accelerator.is_main_process,
        ) as bar:
            started = time.perf_counter()
            for batch in loader:
                before = progress.samples_seen
                record = self._step(batch, skips)
                bar.update(progress.samples_seen - before)
                if record is not None:
                    bar.set_postfix(loss=f"{record['loss']:.3f}", scale=f"{record['scale']:.1f}")
                    progress.history.append(record)
                    rate = {"samples_per_second": bar.format_dict["rate"] or 0.0}
                    self.accelerator.log(record | rate, step=progress.samples_seen)
                skips.check(self.data.max_skipped_share)
                progress.seconds += time.perf_counter() - started
                if _passes(arguments.eval_every_samples, before, progress.samples_seen, self.total_samples):
                    self._evaluate()
                    set_training_mode(self.model, fix_batch_norm=arguments.fix_batch_norm)
                if _passes(arguments.save_every_samples, before, progress.samples_seen, self.total_samples):
                    progress.skips = skips.state_dict()
                    self.checkpoints.save(progress.samples_seen)
                started = time.perf_counter()
        self._evaluate()
        evaluations = [record for record in progress.history if "text_to_image_recall@1" in record]
        return RunResult(
            untrained=evaluations[0],
            trained=evaluations[-1],
            samples=progress.samples_seen,
            seconds=progress.seconds,
            history=progress.history,
            skips=skips.state_dict(),
        )

    def _train_loader(self, start: int) -> Any:
        height, width = image_size_of(self.processor)
        return train_loader(
            self.train_products,
            self.processor,
            batch_size=self.arguments.batch_size,
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
            shuffle_buffer=self.data.shuffle_buffer,
            num_workers=self.data.num_workers,
        )

    def _step(self, batch: dict[str, Any], skips: SkipCounter) -> dict[str, float] | None:
        """Train on one batch; return what is reported of it, or nothing where no row of it could be used."""
        arguments, progress = self.arguments, self.progress
        share = learning_rate_share(
            progress.samples_seen,
            self.total_samples,
            warmup_share=arguments.warmup_share,
            final_share=arguments.final_learning_rate_share,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        num_rows = self._count(batch, skips)
        inputs = model_inputs(batch, self.accelerator.device)
        if arguments.channels_last and inputs["pixel_values"].ndim == 4:
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        output = self.model(**inputs)
        num_usable = len(batch["row_ids"])  # without a usable row the inputs are a stand-in
        text_embeds, image_embeds = output.text_embeds[:num_usable], output.image_embeds[:num_usable]
        catalog_ids = batch["catalog_ids"].to(self.accelerator.device)
        progress.samples_seen += num_rows
        if len(gather_rows(catalog_ids)) == 0:
            return None
        model = self.bare_model
        loss = contrastive_loss(
            text_embeds,
            image_embeds,
            model.logit_scale,
            catalog_ids,
            catalog_weight=model.config.catalog_weight,
            mates=model.config.catalog_mates,
            distributed=True,
        )
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at {progress.samples_seen} samples, with rows {batch['row_ids'][:5]} and "
                "on; lower `learning_rate`, or use `--mixed_precision bf16` in place of fp16."
            )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        model.clamp_logit_scale()
        return {
            "samples": progress.samples_seen,
            "loss": loss.item(),
            "scale": model.logit_scale.exp().item(),
            "learning_rate": arguments.learning_rate * share,
            "gradient_norm": float(norm),
        }

    def _count(self, batch: dict[str, Any], skips: SkipCounter) -> int:
        """Count the rows of all ranks; return how many were asked for."""
        counted = {"num_rows": batch["num_rows"], "skipped": batch["skipped"]}
        ranks = [counted]
        if self.accelerator.num_processes > 1:
            gathered: list[Any] = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(gathered, counted)
            ranks = gathered
        for rank in ranks:
            skips.add(rank)
        return sum(rank["num_rows"] for rank in ranks)

    def _evaluate(self) -> None:
        """Measure retrieval on the held-out offers and add it to the history."""
        offers = embed_products(
            self.bare_model,
            self.processor,
            self.validation_products,
            self.accelerator,
            batch_size=self.arguments.eval_batch_size,
            num_workers=self.data.num_workers,
        )
        figures = retrieval_figures(offers)
        self.progress.history.append({"samples": self.progress.samples_seen} | figures)
        self.accelerator.log(figures, step=self.progress.samples_seen)
        if self.accelerator.is_main_process:
            found = figures["text_to_image_recall@1"]
            tqdm.write(f"after {self.progress.samples_seen} samples: text-to-image recall@1 {found:.3f}")


def count_samples(products: Products, arguments: TrainArguments) -> int:
    """Return how many samples the run trains on.

    Raises:
        ValueError: a stream of unknown length without `max_samples`.
    """
    if arguments.max_samples is not None:
        return arguments.max_samples
    if not hasattr(products, "__len__"):
        raise ValueError("`streaming` offers have no known number; give `max_samples` in place of `num_epochs`.")
    return math.ceil(arguments.num_epochs * len(products))


def image_size_of(processor: EClipProcessor) -> tuple[int, int]:
    """Return height and width in pixels of what an image processor makes of a picture.

    Flexible processors (SigLIP 2's) keep a picture's shape; for those, what fits their number of patches.
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
