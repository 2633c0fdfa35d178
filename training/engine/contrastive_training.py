"""A contrastive training, from arguments to a saved model, its report and its plot."""

import json
import logging
from pathlib import Path

from transformers import set_seed

from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.sources import plain_sources
from training.arguments.train import TrainArguments
from training.data.catalogs import check_catalogs, tell_repeated_ids
from training.data.files import without_secrets
from training.data.fingerprint import data_fingerprint
from training.data.read_tables import read_titles
from training.data.sides import check_sides
from training.engine.adapter_files import base_of, load_adapters, needs_base, with_settings_of
from training.engine.build import build_model, build_processor, load_split, on_checkpoint, source_of, trained_fields
from training.engine.feature_cache import cache_frozen_towers
from training.engine.loop import RunResult, TrainingLoop, describe
from training.engine.lora import add_adapters, check_adapters, merge_adapters, quantised
from training.engine.nonfinite import check_weights
from training.engine.optimization import freeze_parameters, freeze_tower
from training.engine.projections_first import check_projections_first, train_projections
from training.engine.setup import Run, start_run
from training.engine.teacher import check_teacher, open_teacher, vector_files
from training.hub.card_facts import publish_checkpoint
from training.plots.curves import draw_history

__all__ = ["train"]

logger = logging.getLogger("training")


def train(model_arguments: ModelArguments, data: DataArguments, arguments: TrainArguments) -> RunResult:
    """Run one training from arguments to saved model.

    Args:
        model_arguments: What is trained.
        data: On which offers.
        arguments: How.

    Returns:
        The run's result, the same on every rank.
    """
    check_teacher(arguments.teacher, source_of(model_arguments))  # errors there come before any data is read
    check_adapters(model_arguments.lora_rank, merge=arguments.merge, in_4bit=model_arguments.load_in_4bit)
    with start_run(arguments, (model_arguments, data, arguments)) as run:
        return _train(run, model_arguments, data, arguments)


def _train(run: Run, model_arguments: ModelArguments, data: DataArguments, arguments: TrainArguments) -> RunResult:
    output_dir = Path(arguments.output_dir)
    accelerator, resume_from = run.accelerator, run.resume_from
    with accelerator.main_process_first():
        train_products = load_split(data, "train", keeps_row_ids=bool(vector_files(arguments.teacher)))
        validation_products = load_split(data, "validation")
    check_catalogs(train_products, "training offers", data.max_catalog_share)
    tell_repeated_ids(train_products, "training offers")
    check_catalogs(validation_products, "held-out offers", data.max_catalog_share)
    run.add_data(
        lambda: {
            "training offers": data_fingerprint(train_products, plain_sources(data.train_data), data.train_split),
            "held-out offers": data_fingerprint(
                validation_products, plain_sources(data.validation_data), data.validation_split
            ),
        }
    )
    first_arguments = model_arguments
    if resume_from is not None:
        base = base_of(resume_from, merge=arguments.merge)
        model_arguments = on_checkpoint(model_arguments, base or str(resume_from))
        if base is not None:
            model_arguments = with_settings_of(resume_from, model_arguments)
    processor = build_processor(model_arguments, read_titles(train_products))
    processor.fields = trained_fields(data)
    new = {"seed": arguments.seed, "batch_size": arguments.batch_size}
    if not arguments.merge and needs_base(model_arguments):
        if accelerator.is_main_process:
            build_model(model_arguments, processor.tokenizer, **new).save_pretrained(output_dir / "base")
            processor.save_pretrained(output_dir / "base")
        accelerator.wait_for_everyone()
        model_arguments = on_checkpoint(model_arguments, str(output_dir / "base"))
    adapters_of = None if arguments.merge else model_arguments.checkpoint
    settings = quantised(accelerator) if model_arguments.load_in_4bit else {}
    model = build_model(model_arguments, processor.tokenizer, **new, **settings)
    absent = check_sides(train_products, model.config, arguments.mate_contrast_weight)
    freeze_parameters(model, model_arguments.freeze)
    if model_arguments.lora_rank is not None:
        set_seed(arguments.seed)  # new adapters depend on nothing that was drawn for the model
        layers = add_adapters(
            model,
            rank=model_arguments.lora_rank,
            alpha=model_arguments.lora_alpha,
            targets=model_arguments.lora_targets,
            freeze=model_arguments.freeze,
        )
        logger.info("%s layers of the towers have adapters of rank %s", len(layers), model_arguments.lora_rank)
        if adapters_of is not None and resume_from is not None:
            load_adapters(model, resume_from)
    if absent is not None:
        freeze_tower(model, absent)
    modalities = [modality for modality in ("image", "text") if modality != absent]
    has_projections_first = bool(arguments.projection_epochs) and resume_from is None
    if has_projections_first:
        check_projections_first(model, arguments, train_products)
    teacher = None
    if arguments.teacher:
        learned = [modality for modality in arguments.teacher_modalities if modality in modalities]
        if not learned:
            raise ValueError(
                f"`teacher_modalities` is {arguments.teacher_modalities}, and no offer of `train_data` has that; give "
                f"{modalities}, or no `teacher`."
            )
        teacher = open_teacher(
            arguments.teacher,
            train_products,
            first_arguments,
            processor,
            accelerator,
            seed=arguments.seed,
            batch_size=arguments.eval_batch_size,
            num_workers=data.num_workers,
            modalities=learned,
        )
    if arguments.cache_frozen_towers:
        train_products = cache_frozen_towers(
            train_products,
            model,
            processor,
            accelerator,
            batch_size=arguments.eval_batch_size,
            num_workers=data.num_workers,
            modalities=modalities,
        )
    if arguments.report_to:
        accelerator.init_trackers("e-clip", config={k: without_secrets(str(v)) for k, v in vars(arguments).items()})
    before: list[dict[str, float]] = []
    if has_projections_first:
        before = train_projections(
            model,
            processor,
            train_products,
            validation_products,
            data=data,
            arguments=arguments,
            accelerator=accelerator,
            record=run.record,
            modalities=modalities,
            teacher=teacher,
        )
    loop = TrainingLoop(
        model,
        processor,
        train_products,
        validation_products,
        data=data,
        arguments=arguments,
        accelerator=accelerator,
        record=run.record,
        teacher=teacher,
        adapters_of=adapters_of,
        before=before,
    )
    logger.info(
        "%s training offers, %s held-out ones; %s weights, %s of them trained; %s ranks, precision %s",
        len(train_products),
        len(validation_products),
        f"{model.num_parameters():,}",
        f"{model.num_parameters(only_trainable=True):,}",
        accelerator.num_processes,
        accelerator.mixed_precision,
    )
    result = loop.run(resume_from)
    if adapters_of is None:
        merge_adapters(loop.bare_model)
    check_weights(loop.bare_model, "not saved")
    if accelerator.is_main_process:
        save_results(loop, result, output_dir)
        if arguments.push_to_hub:
            repository = arguments.hub_model_id or output_dir.resolve().name
            publish_checkpoint(output_dir, repository, arguments, private=arguments.hub_private or None)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    # A short run is checked at its end, when its model is saved.
    loop.skips.check(data.max_skipped_share, min_rows=1)
    return result


def save_results(loop: TrainingLoop, result: RunResult, output_dir: Path) -> None:
    """Write the model, its processor, the report and the plot, and print the metrics."""
    loop.checkpoints.save_model(output_dir)
    loop.processor.save_pretrained(output_dir)
    (output_dir / "report.json").write_text(json.dumps(describe(result), indent=2) + "\n", encoding="utf-8")
    draw_history(result.history, output_dir / "history.png")
    logger.info(loop.skips.report())
    width = max(map(len, result.trained))
    logger.info("%-*s %10s %10s", width, "validation offers", "untrained", "trained")
    for name, value in result.trained.items():
        if name != "samples":
            logger.info("%-*s %10.3f %10.3f", width, name, result.untrained[name], value)
    logger.info(
        "%s samples in %.0f s (%.1f samples/s); model, report.json and history.png are in %s",
        result.samples,
        result.seconds,
        result.samples / max(result.seconds, 1e-9),
        output_dir,
    )
