"""Prepare a corpus from raw offers: `python training/prepare.py --config FILE --input raw.parquet --output corpus`.

Writes to `output`: the folders `kept`, which training reads as it is, and `dropped`, with a reason for each offer;
`report.html` and `report.json`, whose counts add up; and `work`, from which a stopped run resumes. `work` may be
removed afterwards.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.arguments.groups import DataArguments, ModelArguments, TrainArguments
from training.arguments.parser import parse_arguments
from training.corpus.options import FirstModelTrainer, PrepareArguments

logger = logging.getLogger("training")


def first_model_trainer(config: str) -> FirstModelTrainer:
    """Return the function that trains a first model, as a configuration of `train.py` describes it.

    Args:
        config: YAML file with arguments of `train.py`.

    Returns:
        A function of the training files, the validation files and the output folder. It returns the folder of the
        model. A finished model in that folder is returned as it is, and a stopped training is resumed.

    Raises:
        SystemExit: the configuration has an unknown key, or a value of the wrong type.
    """
    model, data, training = parse_arguments((ModelArguments, DataArguments, TrainArguments), ["--config", config])

    def train_first_model(train_files: Sequence[str], validation_files: Sequence[str], output_dir: Path) -> Path:
        # Imported here, as in `main`.
        from training.engine.checkpoint import find_checkpoints
        from training.engine.contrastive_training import train

        if (output_dir / "report.json").is_file():
            return output_dir
        offers = replace(
            data,
            train_data=list(train_files),
            validation_data=list(validation_files),
            # Training reads neither. A configuration that names no data has those of the toy catalog.
            test_data=[],
            attribute_columns=[],
        )
        resume_from = "latest" if find_checkpoints(output_dir) else training.resume_from_checkpoint
        train(model, offers, replace(training, output_dir=str(output_dir), resume_from_checkpoint=resume_from))
        return output_dir

    return train_first_model


def main() -> None:
    """Parse the arguments and prepare."""
    # Imported here: the processes that examine offers import this file, too, and would hold what they do not need.
    from training.corpus.pipeline import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (arguments,) = parse_arguments((PrepareArguments,))
    report = prepare(arguments, first_model_trainer(arguments.first_model) if arguments.first_model else None)
    for step in report["funnel"]:
        for reason, count in step["dropped"].items():
            logger.info("%-12s %-20s %12s", step["step"], reason, f"{-count:,}")
    logger.info(
        "%s of %s offers kept; report.html is in %s", f"{report['kept']:,}", f"{report['input']:,}", arguments.output
    )


if __name__ == "__main__":
    main()
