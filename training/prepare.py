"""Make a corpus of raw offers: `python training/prepare.py --config FILE --input raw.parquet --output corpus`.

Writes to `output` the folders `kept`, which training reads as it is, and `dropped`, with a reason each; `report.html`
and `report.json`, whose counts add up; and `work`, which a run that was stopped goes on from, and which may be removed
afterwards.
"""

import logging

from training.arguments.parser import parse_arguments
from training.corpus.options import PrepareArguments

logger = logging.getLogger("training")


def main() -> None:
    """Parse the arguments and prepare."""
    # Not above: the processes that examine offers import this file, too, and would hold what they do not need.
    from training.corpus.pipeline import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (arguments,) = parse_arguments((PrepareArguments,))
    report = prepare(arguments)
    for step in report["funnel"]:
        for reason, count in step["dropped"].items():
            logger.info("%-12s %-20s %12s", step["step"], reason, f"{-count:,}")
    logger.info(
        "%s of %s offers kept; report.html is in %s", f"{report['kept']:,}", f"{report['input']:,}", arguments.output
    )


if __name__ == "__main__":
    main()
