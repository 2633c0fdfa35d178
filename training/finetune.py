"""Learn a task: `accelerate launch training/finetune.py --checkpoint outputs/quickstart --task category`.

Writes to `output_dir` the model and its processor, as `from_pretrained` reads them (or adapters alone, as peft does),
`report.json`, and checkpoints while it runs. `--method linear` takes seconds: it learns from vectors that are kept on
disk, where further tasks, modalities and shares of the labels find them.
"""

from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import script


@script()
def main() -> None:
    """Parse the arguments and learn."""
    model, data, arguments = parse_arguments((ModelArguments, DataArguments, FinetuneArguments))
    data.check_training()

    from training.tasks.finetuning import finetune

    finetune(model, data, arguments)


if __name__ == "__main__":
    main()
