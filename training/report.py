"""The paper's claim on real data: `python training/report.py --config training/configs/report.yaml` (`make report`).

Pre-trains e-CLIP and what it is compared with, lets all of them learn every task from every share of the labels, and
writes to `output_dir`

- `report.md` and its plots, `report.json` (a list of metrics with intervals, see `training.benchmark.tables`);
- `checkpoints/DATA-TASK-MODALITY`: e-CLIP's heads, each the one of its seeds that validation prefers;
- `pretraining/METHOD`, and `runs/`, what has been computed. A report that was stopped goes on from there.
"""

import logging
import signal
import sys

from training.arguments.groups import ReportArguments
from training.arguments.parser import parse_arguments
from training.benchmark.report import report


def main() -> None:
    """Parse the arguments and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the time until then is counted, too
    report(*parse_arguments((ReportArguments,)))


if __name__ == "__main__":
    main()
