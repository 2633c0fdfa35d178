"""Weights that a checkpoint lacks, and that are about to be trained, are no news."""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["expect_new_weights"]

_LOGGER = "transformers.modeling_utils"


@contextlib.contextmanager
def expect_new_weights() -> Iterator[None]:
    """Keep transformers from printing the table of new weights; one that tells anything else is printed whole."""
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_says_more)
    try:
        yield
    finally:
        logger.removeFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    told = record.getMessage()
    return "MISSING" not in told or any(word in told for word in ("UNEXPECTED", "MISMATCH", "CONVERSION"))
