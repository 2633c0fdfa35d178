"""Train e-CLIP: `accelerate launch training/train.py --config training/configs/quickstart.yaml --learning_rate 3e-4`.

Writes to `output_dir`: the model and its processor (as `from_pretrained` reads them), `report.json`, `history.png`,
and checkpoints while it runs.
"""

from training.arguments.groups import DataArguments, ModelArguments, TrainArguments
from training.arguments.parser import parse_arguments
from training.engine.contrastive_training import train


def main() -> None:
    """Parse the arguments and train."""
    train(*parse_arguments((ModelArguments, DataArguments, TrainArguments)))


if __name__ == "__main__":
    main()
