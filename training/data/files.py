"""Files and folders that are there whole or not at all: a process that is killed leaves what was there before."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def file_state(path: str) -> list[int] | None:
    """Return a local file's bytes and the time of its last change; none for what is elsewhere."""
    file = Path(path.removeprefix("file://"))
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None


def files_digest(paths: Sequence[str]) -> str:
    """Return a name for files as they are now: how many, and a digest of their paths and states."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path} {file_state(path)}\0".encode())
    return f"{len(paths)} files, {digest.hexdigest()[:20]}"


__all__ = ["file_state", "files_digest", "whole_file", "whole_folder", "write_json"]
