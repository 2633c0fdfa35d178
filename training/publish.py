"""Publish a checkpoint: `python training/publish.py outputs/eclip someone/eclip --license apache-2.0 --private`.

Takes the folder of a model, a head, or adapters, and makes of it a repository of the Hub; `HF_TOKEN`, or
`hf auth login`, says whose. Weights, code, tokenizer, processor and plots go there, and a card with the
metrics of `report.json`; `--dry_run` shows them. Interrupted, it is started again: files that are
there are not sent twice.
"""

import logging

from training.arguments.parser import parse_arguments
from training.arguments.publish import PublishArguments
from training.arguments.script import script


@script()
def main() -> None:
    """Parse the arguments and publish."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    (arguments,) = parse_arguments((PublishArguments,), positional=("checkpoint", "repo"))

    from training.hub.card_facts import publish

    publish(arguments)


if __name__ == "__main__":
    main()
