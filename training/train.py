"""Train e-CLIP: `accelerate launch training/train.py --config training/configs/quickstart.yaml --learning_rate 3e-4`.

Writes to `output_dir`: the model and its processor (as `from_pretrained` reads them), `report.json`, `history.png`,
and checkpoints while it runs.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import datasets
import transformers
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from training.adapters import add_adapters, merge_adapters
from training.arguments import DataArguments, ModelArguments, TrainArguments, parse_arguments
from training.build import build_model, build_processor, load_split, source_of
from training.checkpoint import choose_checkpoint, remove_checkpoints
from training.frozen_cache import cache_frozen_towers
from training.loop import RunResult, TrainingLoop, describe
from training.optimization import freeze_parameters
from training.plots import draw_history
from training.precision import fastest_precision

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
    output_dir = Path(arguments.output_dir)
    source_of(model_arguments)  # a mistake there is told before any data is read
    resume_from = choose_checkpoint(
        output_dir, arguments.resume_from_checkpoint, overwrite=arguments.overwrite_output_dir
    )
    precision = fastest_precision() if arguments.mixed_precision == "auto" else arguments.mixed_precision
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
    )
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_checkpoints(output_dir, resume_from)
        keep_arguments((model_arguments, data, arguments), output_dir / "arguments.json", resume_from is not None)

    with accelerator.main_process_first():
        train_products = load_split(data, "train")
        validation_products = load_split(data, "validation")
    if resume_from is not None:
        model_arguments = ModelArguments(
            checkpoint=str(resume_from),
            freeze=model_arguments.freeze,
            catalog_mates=model_arguments.catalog_mates,
            catalog_weight=model_arguments.catalog_weight,
            lora_rank=model_arguments.lora_rank,
            lora_alpha=model_arguments.lora_alpha,
            lora_targets=model_arguments.lora_targets,
        )
    titles = (row["title"] for row in train_products.select_columns("title"))
    processor = build_processor(model_arguments, titles)
    model = build_model(model_arguments, processor.tokenizer, seed=arguments.seed)
    freeze_parameters(model, model_arguments.freeze)
    if model_arguments.lora_rank is not None:
        layers = add_adapters(
            model,
            rank=model_arguments.lora_rank,
            alpha=model_arguments.lora_alpha,
            targets=model_arguments.lora_targets,
        )
        logger.info("%s layers of the towers have adapters of rank %s", len(layers), model_arguments.lora_rank)
    if arguments.cache_frozen_towers:
        train_products = cache_frozen_towers(
            train_products,
            model,
            processor,
            accelerator,
            batch_size=arguments.eval_batch_size,
            num_workers=data.num_workers,
        )
    loop = TrainingLoop(
        model,
        processor,
        train_products,
        validation_products,
        data=data,
        arguments=arguments,
        accelerator=accelerator,
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
    if arguments.report_to:
        accelerator.init_trackers("e-clip", config={k: str(v) for k, v in vars(arguments).items()})
    result = loop.run(resume_from)
    merge_adapters(loop.bare_model)
    if accelerator.is_main_process:
        save_results(loop, result, output_dir)
        if arguments.push_to_hub:
            repository = arguments.hub_model_id or output_dir.resolve().name
            loop.bare_model.push_to_hub(repository, private=arguments.hub_private)
            processor.push_to_hub(repository, private=arguments.hub_private)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    # A short run is judged at its end, when its model is safe.
    loop.skips.check(data.max_skipped_share, min_rows=1)
    return result


def keep_arguments(groups: tuple[Any, ...], path: Path, resumed: bool) -> None:
    """Write the run's arguments beside its results, and tell which ones a resumed run has changed."""
    content = {name: value for group in groups for name, value in vars(group).items()}
    if resumed and path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, value in content.items():
            changes_with_the_run = name in ("resume_from_checkpoint", "overwrite_output_dir", "output_dir")
            if name in before and before[name] != value and not changes_with_the_run:
                logger.warning("resumed with `%s` %r; the run was started with %r", name, value, before[name])
    # In one piece: a run that is killed here is resumed, too.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def save_results(loop: TrainingLoop, result: RunResult, output_dir: Path) -> None:
    """Write the model, its processor, the report and the picture, and print what came out."""
    loop.bare_model.save_pretrained(output_dir)
    loop.processor.save_pretrained(output_dir)
    (output_dir / "report.json").write_text(json.dumps(describe(result), indent=2) + "\n", encoding="utf-8")
    draw_history(result.history, output_dir / "history.png")
    logger.info(loop.skips.report())
    logger.info("%-26s %10s %10s", "held-out offers", "untrained", "trained")
    for name, value in result.trained.items():
        if name != "samples":
            logger.info("%-26s %10.3f %10.3f", name, result.untrained[name], value)
    logger.info(
        "%s samples in %.0f s (%.1f samples/s); model, report.json and history.png are in %s",
        result.samples,
        result.seconds,
        result.samples / max(result.seconds, 1e-9),
        output_dir,
    )


def main() -> None:
    """Parse the arguments and train."""
    train(*parse_arguments((ModelArguments, DataArguments, TrainArguments)))


if __name__ == "__main__":
    main()
