"""Measure checkpoints as they are: `python training/evaluate_tasks.py --config C --checkpoints A B`.

Retrieval on `test_data`, and matching on `test_pairs` where the configuration names some. Beside the checkpoints
stands the untrained model of the configuration. Writes `report.json` to `report_dir` and prints the table.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import datasets
import transformers
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments import DataArguments, EvaluationArguments, ModelArguments, parse_arguments
from training.build import build_model, build_processor, load_split
from training.zero_shot import embed_products, matching_figures, retrieval_figures

logger = logging.getLogger("training")

Loader = Callable[[], tuple[EClipModel, EClipProcessor]]


def evaluate(
    models: dict[str, Loader], data: DataArguments, arguments: EvaluationArguments
) -> dict[str, dict[str, float]]:
    """Measure every model on every task that the data allows.

    Args:
        models: Per name what loads the model and its processor.
        data: The data arguments.
        arguments: The evaluation arguments.

    Returns:
        `{name: {figure: value}}`.
    """
    accelerator = Accelerator()
    test_products = load_split(data, "test")
    pair_products = load_split(data, "pairs") if data.test_pairs else None
    figures = {}
    for name, load in models.items():
        model, processor = load()
        model.to(accelerator.device)
        settings = {"batch_size": arguments.eval_batch_size, "num_workers": data.num_workers}
        figures[name] = retrieval_figures(embed_products(model, processor, test_products, accelerator, **settings))
        if pair_products is not None and data.test_pairs:
            offers = embed_products(model, processor, pair_products, accelerator, **settings)
            figures[name] |= matching_figures(offers, data.test_pairs)
    return figures


def load_checkpoint(folder: str) -> Loader:
    """Return what loads a checkpoint."""
    return lambda: (EClipModel.from_pretrained(folder), EClipProcessor.from_pretrained(folder))


def load_untrained(model_arguments: ModelArguments, data: DataArguments, seed: int) -> Loader:
    """Return what builds the model that a training of the same configuration starts from."""

    def load() -> tuple[EClipModel, EClipProcessor]:
        titles = (row["title"] for row in load_split(data, "train").select_columns("title"))
        processor = build_processor(model_arguments, titles)
        return build_model(model_arguments, processor.tokenizer, seed=seed).eval(), processor

    return load


def main() -> None:
    """Parse the arguments, measure, print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    model_arguments, data, arguments = parse_arguments((ModelArguments, DataArguments, EvaluationArguments))
    models = {}
    if model_arguments != ModelArguments():
        models["untrained"] = load_untrained(model_arguments, data, arguments.seed)
    models |= {folder: load_checkpoint(folder) for folder in arguments.checkpoints}
    if not models:
        raise SystemExit("nothing to measure: give --checkpoints, or a --config that names a model")
    figures = evaluate(models, data, arguments)
    report_dir = Path(arguments.report_dir)
    report_dir.mkdir(parents=True, exist_ok=True)
    (report_dir / "report.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    width = max(len(name) for name in next(iter(figures.values())))
    logger.info("%s  %s", " " * width, "  ".join(f"{name:>12}" for name in figures))
    for figure in next(iter(figures.values())):
        values = "  ".join(f"{figures[name][figure]:>{max(12, len(name))}.3f}" for name in figures)
        logger.info("%-*s  %s", width, figure, values)
    logger.info("report.json is in %s", report_dir)


if __name__ == "__main__":
    main()
