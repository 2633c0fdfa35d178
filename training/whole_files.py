"""Files and folders that are there whole or not at all: a process that is killed leaves what was there before."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["whole_file", "whole_folder", "write_json"]


@contextmanager
def whole_file(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Write a file in one piece; its folder is made if need be.

    Args:
        path: The file.
        suffix: Of the file that is written to; each process needs its own where several may write the same.

    Yields:
        The file to write to, which takes the place of `path` at the end, if there was no error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(suffix)
    yield partial
    os.replace(partial, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that is not there yet, in one piece.

    Args:
        path: The folder.

    Yields:
        An empty folder, which becomes `path` at the end, if there was no error.
    """
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    yield partial
    partial.rename(path)


def write_json(content: Any, path: Path, *, allow_nan: bool = True) -> None:
    """Write a JSON file in one piece.

    Args:
        content: What it holds.
        path: The file.
        allow_nan: Whether it may hold not-a-number and infinity, for which JSON has no word.

    Raises:
        ValueError: it holds one, and may not.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=allow_nan) + "\n", encoding="utf-8")
