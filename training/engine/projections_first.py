"""The projections are trained before the towers are, on vectors that the towers encode once.

New projections pull towers about that have nothing to learn from them yet: what the towers knew is bent, and the first
part of a run is lost. With projections that fit, the towers begin where they are to go on (linear probing before
fine-tuning, LP-FT: Kumar et al. 2022). Steps of projections alone cost next to nothing.
"""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.train import TrainArguments
from training.engine.compile import check_backend
from training.engine.feature_cache import cache_frozen_towers, check_kept
from training.engine.loop import TrainingLoop
from training.engine.patch_dropout import PatchDropping
from training.engine.run_record import RunRecord
from training.engine.teacher import Teacher

logger = logging.getLogger("training")


class ProjectionLoop(TrainingLoop):
    """Trains projections. It takes minutes at most, and so keeps no checkpoints: a run that is stopped begins anew."""

    description = "training projections"
    is_last = False

    def _leave(self, reason: str) -> None:
        logger.warning(
            "stopped by %s while projections were trained, of which no checkpoint is kept; start anew", reason
        )

    def _log(self, values: dict[str, float]) -> None:
        """Tell the trackers nothing: they count steps from the towers' training."""


def check_projections_first(model: EClipModel, arguments: TrainArguments, products: Any) -> None:
    """Refuse what cannot be trained, now or when the towers' turn comes, before anything is encoded.

    Args:
        model: The model, frozen where it shall be.
        arguments: The training arguments.
        products: The training offers.

    Raises:
        ValueError: The offers are a stream, or draw one of several texts or images at each visit; no projection is to
            be trained; or the towers' training has settings that do not fit.
    """
    asked = f"`projection_epochs` is {arguments.projection_epochs:g}"
    check_kept(products, ("text", "image"), asked)
    projections = [*model.text_projection.parameters(), *model.visual_projection.parameters()]
    if not any(parameter.requires_grad for parameter in projections):
        raise ValueError(f"{asked}, and `freeze` leaves no projection to train; give 0, or freeze less.")
    if arguments.compile:
        check_backend(arguments.compile_backend)
    if arguments.keep_patches < 1:
        PatchDropping(model, arguments.keep_patches).remove()


def train_projections(
    model: EClipModel,
    processor: EClipProcessor,
    train_products: Any,
    validation_products: Any,
    *,
    data: DataArguments,
    arguments: TrainArguments,
    accelerator: Accelerator,
    record: RunRecord,
    modalities: Sequence[str],
    teacher: Teacher | None,
) -> list[dict[str, float]]:
    """Train the projections and the temperature for `projection_epochs`; all ranks call this together.

    Args:
        model: The model, frozen where it shall be; its projections are changed.
        processor: Turns titles and images into inputs.
        train_products: Map-style training offers, with the vectors of towers that stay frozen or without.
        validation_products: Held-out offers.
        data: The data arguments.
        arguments: The training arguments: rates and batches are those of the run.
        accelerator: The process's accelerator.
        record: What the run is.
        modalities: The modalities that the offers have.
        teacher: Whose similarities are learned, too, as in the towers' training; `None` for nobody's.

    Returns:
        Retrieval metrics of the held-out offers before and after.
    """
    towers = [parameter for tower in (model.vision_model, model.text_model) for parameter in tower.parameters()]
    paused = [parameter for parameter in towers if parameter.requires_grad]
    for parameter in paused:
        parameter.requires_grad_(False)
    missing = [modality for modality in modalities if f"{modality}_pooler_output" not in train_products.column_names]
    products = train_products
    if missing:
        products = cache_frozen_towers(
            train_products,
            model,
            processor,
            accelerator,
            batch_size=arguments.eval_batch_size,
            num_workers=data.num_workers,
            modalities=missing,
        )
    first = dataclasses.replace(
        arguments,
        num_epochs=arguments.projection_epochs,
        max_samples=None,
        batch_size_schedule=[],
        eval_every_samples=None,
        save_every_samples=None,
        keep_patches=1.0,
        ema_decay=None,
        compile=False,
        gradient_checkpointing=False,
    )
    loop = ProjectionLoop(
        copy.copy(model),  # of the same weights: what accelerate marks and wraps, it wraps once, for good
        processor,
        products,
        validation_products,
        data=data,
        arguments=first,
        accelerator=accelerator,
        record=record,
        teacher=teacher,
    )
    result = loop.run()
    logger.info("projections: %s samples in %.0f s", result.samples, result.seconds)
    accelerator.free_memory()
    if not arguments.cache_frozen_towers:
        model.to(memory_format=torch.contiguous_format)  # as a resumed run, which encodes nothing, has its weights
    for parameter in paused:
        parameter.requires_grad_(True)
    return [result.untrained, {**result.trained, "samples": 0}]


__all__ = ["ProjectionLoop", "check_projections_first", "train_projections"]
