"""Learn a task: `accelerate launch training/finetune.py --checkpoint outputs/quickstart --task category`.

Writes to `output_dir` the model and its processor, as `from_pretrained` reads them (or adapters alone, as peft does),
`report.json`, and checkpoints while it runs. `--method linear` takes seconds: it learns from vectors that are kept on
disk, where further tasks, modalities and shares of the labels find them.
"""

from training.arguments.groups import DataArguments, FinetuneArguments, ModelArguments
from training.arguments.parser import parse_arguments
from training.tasks.finetuning import finetune


def main() -> None:
    """Parse the arguments and learn."""
    finetune(*parse_arguments((ModelArguments, DataArguments, FinetuneArguments)))


if __name__ == "__main__":
    main()
