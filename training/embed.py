"""Embed a corpus: `accelerate launch training/embed.py --checkpoint CHECKPOINT --input products.parquet`.

Writes to `output_dir` parquet files with `row_id`, `catalog_id`, `text_embeds` and `image_embeds` of every row, and
`report.json`, which counts the titles and images that could not be embedded. A stopped run resumes where it was;
`accelerate` starts a process for each device.
"""

import logging

import datasets
import transformers

from training.arguments.parser import parse_arguments
from training.embedding.embed_corpus import EmbedArguments, embed_corpus, logger


def main() -> None:
    """Parse the arguments and embed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    (arguments,) = parse_arguments((EmbedArguments,))
    report = embed_corpus(arguments)
    if report:
        logger.info("%s rows, %s files in %s", f"{report['rows']:,}", report["files"], arguments.output_dir)


if __name__ == "__main__":
    main()
