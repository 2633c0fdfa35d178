"""Train e-CLIP: `accelerate launch training/train.py --config training/configs/quickstart.yaml --learning_rate 3e-4`.

Writes to `output_dir`: the model and its processor (as `from_pretrained` reads them; with `--merge false`,
adapters alone, as peft does), `report.json`, `history.png`, and checkpoints while it runs.
"""

from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import script
from training.arguments.train import TrainArguments


@script()
def main() -> None:
    """Parse the arguments and train."""
    model, data, arguments = parse_arguments((ModelArguments, DataArguments, TrainArguments))
    data.check_training()

    from training.engine.contrastive_training import train

    train(model, data, arguments)


if __name__ == "__main__":
    main()
