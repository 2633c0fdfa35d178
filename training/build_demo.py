"""What the demo shows, from a checkpoint: `training/build_demo.py --checkpoint outputs/quickstart --train_data toy`.

Writes to `output_dir` a copy of the checkpoint (`eclip`), a head for each of the five tasks (`heads`, linear probes of
`training/finetune.py`, learned from `train_data`), and the products to search among (`products.parquet`: those of
`test_data`, which nothing has learned from). What is there already stays, so that a run that was stopped goes on. A
task that the data has no labels for is left out, with a warning.
"""

from training.arguments.data import DataArguments
from training.arguments.demo import DemoArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import script


@script()
def main() -> None:
    """Parse the arguments and build."""
    data, arguments = parse_arguments((DataArguments, DemoArguments))

    from training.evaluation.demo_data import build_demo

    build_demo(data, arguments)
    print(f"python examples/demo/app.py --data {arguments.output_dir}")


if __name__ == "__main__":
    main()
