"""A task learned, from arguments to a saved head: a linear probe, all weights, or adapters."""

import json
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from modeling_eclip import EClipProcessor
from modeling_eclip.fitting.evidence import fit_idf
from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.sources import plain_sources
from training.data.catalogs import check_catalogs
from training.data.collator import modalities_of
from training.data.fields import field_columns
from training.data.files import without_secrets
from training.data.fingerprint import data_fingerprint
from training.data.pairs import ProductPairs
from training.data.read_tables import Products, read_titles
from training.engine.adapter_files import save_model
from training.engine.build import build_processor, on_checkpoint, source_of, trained_fields
from training.engine.feature_cache import cache_frozen_towers
from training.engine.loop import describe
from training.engine.lora import add_adapters, merge_adapters
from training.engine.nonfinite import check_weights
from training.engine.optimization import freeze_parameters
from training.engine.setup import Run, start_run
from training.hub.card_facts import publish_checkpoint
from training.tasks.features import Represented, represent
from training.tasks.heads import build_head, forget_lexical, freeze_unused, join_heads
from training.tasks.loop import TaskLoop
from training.tasks.registry import find_task
from training.tasks.splits import choose_rows
from training.tasks.task import Task

logger = logging.getLogger("training")

_RANK = 8  # of adapters, where none is given


@dataclass
class Parts:
    """What a fine-tuning works with, on every rank.

    Args:
        head: The head.
        processor: Turns titles and images into inputs.
        train_products: What is learned from.
        validation_products: What is judged on.
        task: The task.
        train_labels: Labels of `train_products`.
        accelerator: The process's accelerator.
    """

    head: Any
    processor: EClipProcessor
    train_products: Products | ProductPairs
    validation_products: Products | ProductPairs
    task: Task
    train_labels: np.ndarray
    accelerator: Accelerator


def finetune(model_arguments: ModelArguments, data: DataArguments, arguments: FinetuneArguments) -> dict[str, Any]:
    """Run one fine-tuning from arguments to saved model.

    Args:
        model_arguments: What the head stands on.
        data: On which products.
        arguments: Which task, and how.

    Returns:
        What `report.json` holds, the same on every rank.

    Raises:
        ValueError: the arguments do not fit together, or the data has no such labels.
    """
    task_class = find_task(arguments.task)
    if arguments.join:
        model_arguments = on_checkpoint(model_arguments, arguments.join[0])
        arguments = replace(arguments, modality="both")
    if model_arguments.checkpoint:  # a configuration of pre-training may name, too, what its model was built of
        model_arguments = on_checkpoint(model_arguments, model_arguments.checkpoint)
    source = source_of(model_arguments)  # a mistake there is told before any data is read
    if arguments.method == "lora" and source != "checkpoint" and not arguments.merge and not arguments.join:
        raise ValueError(
            f"`method` is lora and the model comes from `{source}`: adapters alone would belong to no checkpoint; "
            "give `--merge true`, or a `checkpoint`."
        )
    if model_arguments.load_in_4bit:
        raise ValueError("`load_in_4bit` is true, but heads are trained on whole weights; leave it to train.py.")
    if unused := _without_effect(arguments, data):
        logger.info("without effect here, since it belongs to pre-training or to --method full: %s", ", ".join(unused))
    if task_class.contrasts_mates and not data.mates_share:
        data = replace(data, mates_share=1.0)
    with start_run(arguments, (model_arguments, data, arguments)) as run:
        return _finetune(run, task_class, model_arguments, data, arguments)


def _without_effect(arguments: FinetuneArguments, data: DataArguments) -> list[str]:
    """Name the options that are given and change nothing."""
    names = ["teacher", "projection_epochs", "mate_contrast_weight"]
    found = [name for name in names if getattr(arguments, name)]
    return found + (["similar_share"] if arguments.method == "linear" and data.similar_share else [])


def _finetune(
    run: Run,
    task_class: type[Task],
    model_arguments: ModelArguments,
    data: DataArguments,
    arguments: FinetuneArguments,
) -> dict[str, Any]:
    started = time.perf_counter()
    accelerator, resume_from = run.accelerator, run.resume_from
    with accelerator.main_process_first():
        train_products = task_class.load_split(data, "train", arguments.seed)
        validation_products = task_class.load_split(data, "validation", arguments.seed)
    if task_class.reads_catalogs(data):
        for name, products in (("training offers", train_products), ("held-out offers", validation_products)):
            table = products.products if isinstance(products, ProductPairs) else products
            check_catalogs(table, name, data.max_catalog_share)
    task, rows, train_labels = choose_rows(task_class, train_products, validation_products, data, arguments)
    start = model_arguments if resume_from is None else ModelArguments(checkpoint=str(resume_from))
    table = train_products.products if isinstance(train_products, ProductPairs) else train_products
    processor = build_processor(start, read_titles(table))
    processor.fields = trained_fields(data)
    fields = task.config_fields(train_labels)
    processor.lexical_features = bool(fields["lexical_rows"])
    if arguments.join:
        head = join_heads(task, arguments.join, fields)
    else:
        head = build_head(task_class, start, processor.tokenizer, fields, seed=arguments.seed)
    freeze_unused(head)
    evidence = getattr(head, "evidence", None)
    if not arguments.join or evidence is not None:
        forget_lexical(head)  # a joined classifier keeps its n-grams, which were fitted beside the same titles
    if evidence is not None:
        fit_idf(evidence, read_titles(table))  # of all products: how rare words are takes no labels
    num_weights = head.num_parameters()
    parts = Parts(head, processor, train_products, validation_products, task, train_labels, accelerator)
    if arguments.join:
        found = fit_joined(parts, rows, data, arguments)
    elif arguments.method == "linear":
        found = probe(parts, rows, data, arguments)
    else:
        found = train_head(parts, rows, model_arguments, data, arguments, run)
    names = ("task", "modality", "method", "label_share", "seed")
    report = {name: getattr(arguments, name) for name in names}
    report |= {
        "rows": len(train_labels),
        "mixed_precision": accelerator.mixed_precision,
        **found,
        "weights": num_weights,
        "seconds": time.perf_counter() - started,
    }
    if accelerator.is_main_process:
        # A metric that is not defined is null there.
        told = {name: None if math.isnan(value) else value for name, value in report["validation"].items()}
        text = json.dumps(report | {"validation": told}, indent=2) + "\n"
        (Path(arguments.output_dir) / "report.json").write_text(text, encoding="utf-8")
        for name, value in report["validation"].items():
            logger.info("%-32s %10.3f", name, value)
        trained = f"{report['trained_weights']:,} of {num_weights:,} weights"
        logger.info("%s trained, %.0f s; report.json is in %s", trained, report["seconds"], arguments.output_dir)
        if arguments.push_to_hub:
            output_dir = Path(arguments.output_dir)
            repository = arguments.hub_model_id or output_dir.resolve().name
            publish_checkpoint(output_dir, repository, arguments, private=arguments.hub_private or None)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return report


def probe(parts: Parts, rows: np.ndarray, data: DataArguments, arguments: FinetuneArguments) -> dict[str, Any]:
    """Fit the head to the vectors of frozen towers, and save it."""
    head = parts.head
    head.eclip.requires_grad_(False)
    trained_weights = head.num_parameters(only_trainable=True)
    # All rows are encoded, not only the share: the next run finds them.
    cached = replace(
        parts,
        train_products=_select(_cached(parts, parts.train_products, data, arguments), rows),
        validation_products=_cached(parts, parts.validation_products, data, arguments),
    )
    train = _represent(cached, cached.train_products, data, arguments, "training rows")
    validation = _represent(cached, cached.validation_products, data, arguments, "validation rows")
    for represented in (train, validation):
        represented.skips.check(data.max_skipped_share, min_rows=1)
    head.cpu()
    parts.task.fit_linear(head, train, validation)
    parts.task.fit_decisions(head, validation)
    found = _measured(parts, validation)
    _save(parts, arguments)
    used = {"rows": len(train.rows), "skipped": dict(train.skips.reasons)}
    return found | used | {"trained_weights": trained_weights}


def fit_joined(parts: Parts, rows: np.ndarray, data: DataArguments, arguments: FinetuneArguments) -> dict[str, Any]:
    """Fit the fusion of a head that was joined from two, and save it."""
    head = parts.head
    head.eclip.requires_grad_(False)
    cached = replace(parts, validation_products=_cached(parts, parts.validation_products, data, arguments))
    train = None
    if getattr(head, "evidence", None) is not None:  # it weighs both modalities, which it has not seen together
        products = _select(_cached(parts, parts.train_products, data, arguments), rows)
        train = _represent(parts, products, data, arguments, "training rows")
    validation = _represent(cached, cached.validation_products, data, arguments, "validation rows")
    head.cpu()
    parts.task.settle(head, train, parts.train_labels, validation)
    found = _measured(parts, validation)
    _save(parts, arguments)
    return found | {"trained_weights": 0}


def train_head(
    parts: Parts,
    rows: np.ndarray,
    model_arguments: ModelArguments,
    data: DataArguments,
    arguments: FinetuneArguments,
    run: Run,
) -> dict[str, Any]:
    """Train the head and the towers, or adapters in them, and save them at their best."""
    head, accelerator = parts.head, parts.accelerator
    columns = [] if parts.task.labels is None else parts.task.labels.columns
    run.add_data(
        lambda: {
            "training rows": data_fingerprint(
                _select(parts.train_products, rows), plain_sources(data.train_data), data.train_split, columns
            ),
            "validation rows": data_fingerprint(
                parts.validation_products, plain_sources(data.validation_data), data.validation_split, columns
            ),
        }
    )
    freeze_parameters(head.eclip, model_arguments.freeze)
    if arguments.method == "lora":
        rank = model_arguments.lora_rank or _RANK
        targets = model_arguments.lora_targets
        add_adapters(head.eclip, rank=rank, alpha=model_arguments.lora_alpha, targets=targets)
    if arguments.cache_frozen_towers:
        parts = replace(
            parts,
            train_products=_cached(parts, parts.train_products, data, arguments),
            validation_products=_cached(parts, parts.validation_products, data, arguments),
        )
    trained_weights = head.num_parameters(only_trainable=True)
    if arguments.eval_every_samples is None:
        arguments = replace(arguments, eval_every_samples=len(rows))  # once an epoch
    loop = TaskLoop(
        head,
        parts.processor,
        _select(parts.train_products, rows),
        parts.validation_products,
        task=parts.task,
        data=data,
        arguments=arguments,
        accelerator=accelerator,
        record=run.record,
    )
    if accelerator.is_main_process:
        held_out = len(parts.validation_products)
        logger.info("%s rows, %s held out; %s ranks", len(rows), held_out, accelerator.num_processes)
    if arguments.report_to:
        accelerator.init_trackers(
            "e-clip", config={name: without_secrets(str(value)) for name, value in vars(arguments).items()}
        )
    result = loop.run(run.resume_from)
    head = loop.bare_model
    parts = replace(parts, head=head)
    train = None
    if head.config.lexical_rows:
        train = _represent(parts, _select(parts.train_products, rows), data, arguments, "training rows")
    validation = _represent(parts, parts.validation_products, data, arguments, "validation rows")
    head.cpu()
    parts.task.settle(head, train, parts.train_labels, validation)
    found = _measured(parts, validation)
    if accelerator.is_main_process:
        logger.info(loop.skips.report())
    if arguments.method == "lora" and not arguments.merge:
        _save(parts, arguments, adapters_of=model_arguments.checkpoint)
    else:
        merge_adapters(head.eclip)
        _save(parts, arguments)
    loop.skips.check(data.max_skipped_share, min_rows=1)  # a short run is judged at its end
    found |= {"trained_weights": trained_weights, "best_at_samples": loop.best.samples}
    return found | {"training": describe(result)}


def _measured(parts: Parts, validation: Represented) -> dict[str, Any]:
    """Fit what the finished head leaves to people; measure it, and count the rows that the metrics are over."""
    parts.task.fit_review(parts.head, parts.validation_products, validation)
    metrics = parts.task.metrics(parts.head, validation)
    counts = parts.task.count_rows(validation)
    counts["unusable"] = len(parts.validation_products) - len(validation.rows)
    if parts.accelerator.is_main_process:
        logger.info(
            "validation: %s rows measured, %s of them with labels that training has not seen, which count as mistakes",
            counts["measured"],
            counts.get("unknown", 0),
        )
    config = parts.head.config
    review = {name: getattr(config, name) for name in ("target_precision", "review_below")}
    return {"validation": metrics, "validation_rows": counts} | (review if config.target_precision else {})


def _cached(
    parts: Parts, products: Products | ProductPairs, data: DataArguments, arguments: FinetuneArguments
) -> Products | ProductPairs:
    """Give products the vectors of the frozen towers that the head looks at, unless they have several of a field."""
    several = any(field_columns(products.column_names, one) for one in modalities_of(arguments.modality))
    if several and not arguments.cache_frozen_towers:  # which is refused where it is asked for
        return products
    return cache_frozen_towers(
        products,
        parts.head.eclip,
        parts.processor,
        parts.accelerator,
        batch_size=arguments.eval_batch_size,
        num_workers=data.num_workers,
        modalities=modalities_of(arguments.modality),
    )


def _select(products: Any, rows: np.ndarray) -> Any:
    """Take some of the rows; all of them of a stream, too."""
    return products if len(rows) == len(products) else products.select(rows)


def _represent(
    parts: Parts, products: Products | ProductPairs, data: DataArguments, arguments: FinetuneArguments, name: str
) -> Represented:
    return represent(
        parts.head,
        products,
        parts.processor,
        parts.accelerator,
        labels=parts.task.labels,
        batch_size=arguments.eval_batch_size,
        num_workers=data.num_workers,
        description=name,
    )


def _save(parts: Parts, arguments: FinetuneArguments, adapters_of: str | None = None) -> None:
    """Write the model, or its adapters alone, and its processor."""
    check_weights(parts.head, "not saved")
    if not parts.accelerator.is_main_process:
        return
    save_model(parts.head, Path(arguments.output_dir), adapters_of)
    parts.processor.save_pretrained(arguments.output_dir)


__all__ = ["finetune"]
