"""Publish a checkpoint: `python training/publish.py outputs/eclip someone/eclip --license apache-2.0 --private`.

Takes the folder of a model, a head, or adapters, and makes of it a repository of the Hub; `HF_TOKEN`, or
`hf auth login`, says whose. Weights, code, tokenizer, processor and plots go there, and a card with the
metrics of `report.json`. Interrupted, it is started again: files that are there are not sent twice.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from training.arguments.groups import PublishArguments
from training.arguments.parser import parse_arguments
from training.hub.card_facts import publish_checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and publish."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) >= 2 and not any(word.startswith("-") for word in words[:2]):
        words = ["--checkpoint", words[0], "--repo", words[1], *words[2:]]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        (arguments,) = parse_arguments((PublishArguments,), words)
        if not arguments.checkpoint or not arguments.repo:
            raise ValueError(f"give a checkpoint and a repository\n\n{__doc__}")
        publish_checkpoint(
            Path(arguments.checkpoint),
            arguments.repo,
            arguments,
            private=arguments.private or None,
            revision=arguments.revision,
            commit_message=arguments.commit_message,
            create_pr=arguments.create_pr,
            evaluation=arguments.evaluation,
            evaluated_on=arguments.evaluated_on,
            new_card=arguments.new_card,
        )
    except HfHubHTTPError as error:
        # The Hub's own message, in one line; where it wants a token it does not say how to give one.
        told = " ".join(str(error).split())
        sys.exit(
            f"{told} Log in with `hf auth login`, or set HF_TOKEN." if error.response.status_code == 401 else told
        )
    except (ImportError, LocalTokenNotFoundError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
