"""Prepare a corpus: `python training/prepare.py --config FILE --input raw.parquet --output_dir corpus`.

Writes to `output_dir`: the folders `kept`, which training reads as it is, and `dropped`, with a reason for each offer;
`report.html` and `report.json`, whose counts add up; and `work`, from which a stopped run resumes. `work` may be
removed afterwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.prepare import PrepareArguments
from training.arguments.script import script
from training.arguments.train import TrainArguments

if TYPE_CHECKING:
    from training.corpus.drop_mismatches import FirstModelTrainer


def first_model_trainer(config: str) -> "FirstModelTrainer":
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
            validation_share=0.0,
            test_data=[],  # which training does not read
        )
        resume_from = "latest" if find_checkpoints(output_dir) else training.resume_from_checkpoint
        train(model, offers, replace(training, output_dir=str(output_dir), resume_from_checkpoint=resume_from))
        return output_dir

    return train_first_model


@script()
def run(arguments: PrepareArguments, trainer: "FirstModelTrainer | None") -> None:
    """Prepare the corpus and print what was dropped."""
    # Imported here: the processes that examine offers import this file, too, and would hold what they do not need.
    from training.corpus.pipeline import prepare

    report = prepare(arguments, trainer)
    for step in report["funnel"]:
        for reason, count in step["dropped"].items():
            print(f"{step['step']:12} {reason:20} {-count:12,}")
    kept = f"{report['kept']:,} of {report['input']:,} offers kept"
    print(f"{kept}; report.html is in {arguments.output_dir}")


@script()
def main() -> None:
    """Parse the arguments and prepare."""
    (arguments,) = parse_arguments((PrepareArguments,))
    trainer = first_model_trainer(arguments.first_model) if arguments.first_model else None

    from training.corpus.sandbox import run_script

    run_script(partial(run, arguments, trainer))


if __name__ == "__main__":
    main()
