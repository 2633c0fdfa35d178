"""Checkpoints are measured side by side: on retrieval and matching as they are, or their heads on a task."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.model import ModelArguments
from training.data.catalogs import check_catalogs
from training.data.files import write_json
from training.data.pairs import ProductPairs
from training.data.read_tables import read_titles
from training.data.sources import has_images, has_titles
from training.engine.adapter_files import load_eclip
from training.engine.build import build_model, build_processor, load_split
from training.engine.setup import open_accelerator
from training.evaluation.gallery import draw_evaluations
from training.evaluation.task_evaluation import (
    evaluate_head,
    load_evaluated_split,
    load_task_head,
    load_zero_shot_head,
)
from training.retrieval.held_out_metrics import HeldOutOffers
from training.retrieval.offer_embeddings import ModalityEmbeddings, OfferEmbeddings, embed_dataset, embed_modality
from training.retrieval.retrieval_metrics import matching_metrics
from training.tasks.registry import find_task

logger = logging.getLogger("training")

Loader = Callable[[], tuple[EClipModel, EClipProcessor]]


def evaluate(
    models: dict[str, Loader], data: DataArguments, arguments: EvaluationArguments
) -> dict[str, dict[str, float]]:
    """Measure every model without a head on what the data allows: retrieval, and pairs where some are named.

    Args:
        models: Per name what loads the model and its processor.
        data: The data arguments.
        arguments: The evaluation arguments.

    Returns:
        `{name: {metric: value}}`.
    """
    accelerator = open_accelerator(mixed_precision=arguments.eval_mixed_precision)
    held_out: HeldOutOffers | None = None
    pairs: ProductPairs | None = None
    if data.test_data or not data.test_pairs:
        test_products = load_split(data, "test")
        assert isinstance(test_products, datasets.Dataset)  # training offers alone are streamed
        check_catalogs(test_products, "test offers", data.max_catalog_share)
        held_out = HeldOutOffers.of(test_products, "test")
    if data.test_pairs:
        found = load_evaluated_split(find_task("matching"), data, "test", arguments.seed)
        assert isinstance(found, ProductPairs)
        pairs = found
    metrics: dict[str, dict[str, float]] = {}
    for name, load in models.items():
        model, processor = load()
        model.to(accelerator.device)
        settings: dict[str, Any] = {"batch_size": arguments.eval_batch_size, "num_workers": data.num_workers}
        metrics[name] = {}
        if held_out is not None:
            metrics[name] |= held_out.measure(model, processor, accelerator, **settings)
        if pairs is not None:
            metrics[name] |= matching_metrics(_embed_pairs(model, processor, pairs, accelerator, settings), pairs)
    return metrics


def _embed_pairs(
    model: EClipModel,
    processor: EClipProcessor,
    pairs: ProductPairs,
    accelerator: Accelerator,
    settings: dict[str, Any],
) -> OfferEmbeddings | ModalityEmbeddings:
    """Embed the offers of pairs by title and image, or by the one that there is."""
    products = pairs.products
    has_text, has_image = has_titles(products), has_images(products)
    if (has_text & has_image).any():
        return embed_dataset(model, processor, products, accelerator, **settings)
    modality = "text" if has_text.any() else "image"
    return embed_modality(model, processor, products, accelerator, modality, **settings)


def load_checkpoint(folder: str) -> Loader:
    """Return what loads a checkpoint."""
    return lambda: (
        load_eclip(folder),
        EClipProcessor.from_pretrained(folder),
    )


def load_untrained(model_arguments: ModelArguments, data: DataArguments, seed: int) -> Loader:
    """Return what builds the model that a training of the same configuration starts from."""

    def load() -> tuple[EClipModel, EClipProcessor]:
        processor = build_processor(model_arguments, read_titles(load_split(data, "train")))
        return build_model(model_arguments, processor.tokenizer, seed=seed).eval(), processor

    return load


def evaluate_task(task_name: str, data: DataArguments, arguments: EvaluationArguments) -> dict[str, Any]:
    """Measure the heads of checkpoints on a task, print the table and draw the plots.

    Args:
        task_name: Name of the task.
        data: The data arguments.
        arguments: The evaluation arguments.

    Returns:
        `{checkpoint: what the report holds of it}`; nothing on other ranks than the first.

    Raises:
        ValueError: a checkpoint has no such head, or a column of labels is missing.
    """
    accelerator = open_accelerator(mixed_precision=arguments.eval_mixed_precision)
    task = find_task(task_name)
    checkpoints = list(dict.fromkeys(arguments.checkpoint))
    # A mistake in one of them is told before any is measured.
    heads = {}
    if not arguments.zero_shot:
        heads = {folder: load_task_head(task, folder, arguments.modality) for folder in checkpoints}
    products = load_evaluated_split(task, data, arguments.split, arguments.seed)
    if arguments.zero_shot:  # the products may tell the classes
        heads = {
            folder: load_zero_shot_head(task, folder, arguments.modality, products, data) for folder in checkpoints
        }
    evaluations = {}
    for name, folder in zip(short_names(checkpoints), heads, strict=True):
        processor = EClipProcessor.from_pretrained(folder)
        evaluation = evaluate_head(task, heads[folder], processor, products, data, arguments, accelerator)
        if evaluation is not None:
            evaluations[name] = evaluation
    if not evaluations:
        return {}
    print_table(
        {name: {metric: str(value) for metric, value in one.metrics.items()} for name, one in evaluations.items()}
    )
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for file in draw_evaluations(evaluations, products, output_dir):
        logger.info("%s", file)
    return {folder: one.to_json() for folder, one in zip(heads, evaluations.values(), strict=True)}


def short_names(checkpoints: Sequence[str]) -> list[str]:
    """Return a name to print for each checkpoint: its last part, where that tells them apart."""
    last = [Path(checkpoint).name or checkpoint for checkpoint in checkpoints]
    counts = Counter(last)
    return [name if counts[name] == 1 else checkpoint for name, checkpoint in zip(last, checkpoints, strict=True)]


def print_table(columns: Mapping[str, Mapping[str, str]]) -> None:
    """Print metrics, a row each, and a column per model."""
    metrics = list(dict.fromkeys(metric for column in columns.values() for metric in column))
    widths = {name: max(12, len(name), *map(len, column.values())) for name, column in columns.items()}
    first = max(map(len, metrics))
    logger.info("%s  %s", " " * first, "  ".join(f"{name:>{widths[name]}}" for name in columns))
    for metric in metrics:
        values = "  ".join(f"{column.get(metric, ''):>{widths[name]}}" for name, column in columns.items())
        logger.info("%-*s  %s", first, metric, values)


def measure_checkpoints(model: ModelArguments, data: DataArguments, arguments: EvaluationArguments) -> None:
    """Measure what the arguments name; print the table, and write `report.json` and plots.

    Args:
        model: The untrained model beside the checkpoints; none where nothing of it is given.
        data: The data arguments.
        arguments: The evaluation arguments.

    Raises:
        ValueError: There is nothing to measure, a checkpoint has no such head, or a column of labels is missing.
    """
    report: dict[str, Any]
    if arguments.task is not None:
        if not arguments.checkpoint:
            raise ValueError(f"`checkpoint` is empty; name a folder with a head for the task {arguments.task!r}.")
        report = evaluate_task(arguments.task, data, arguments)
        if not report:
            return
    else:
        models = {} if model == ModelArguments() else {"untrained": load_untrained(model, data, arguments.seed)}
        models |= {folder: load_checkpoint(folder) for folder in arguments.checkpoint}
        if not models:
            raise ValueError("`checkpoint` is empty; name folders, or a --config that describes a model.")
        report = evaluate(models, data, arguments)
        print_table({name: {metric: f"{value:.3f}" for metric, value in row.items()} for name, row in report.items()})
    write_json(report, Path(arguments.output_dir) / "report.json")
    logger.info("report.json is in %s", arguments.output_dir)
