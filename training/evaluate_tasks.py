"""Measure checkpoints: `python training/evaluate_tasks.py --config C --checkpoint A B [--task category]`.

With `--task`, the heads of the checkpoints on a split of any data, with intervals. `report.json` then holds for each
checkpoint what was measured, what was left out, and `metrics`: `{name: {"value", "low", "high"}}`; plots lie beside
it.

Without, the checkpoints as they are: retrieval on `test_data`, and matching on `test_pairs` where the configuration
names some. Beside the checkpoints stands the untrained model of the configuration, and `report.json` holds
`{checkpoint: {metric: value}}`.
"""

from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import quiet_libraries, script


@script()
def main() -> None:
    """Parse the arguments, measure, print."""
    data, arguments, model = parse_arguments((DataArguments, EvaluationArguments), of_file=(ModelArguments,))

    from training.evaluation.measure_checkpoints import measure_checkpoints

    quiet_libraries()
    measure_checkpoints(model, data, arguments)


if __name__ == "__main__":
    main()
