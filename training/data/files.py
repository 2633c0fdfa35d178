"""Files and folders that are written completely or not at all, and the state of files.

A process that is killed while it writes leaves the old file in place, never half of a new one.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = [
    "as_written",
    "file_state",
    "files_digest",
    "one_run_in",
    "secrets_left_out",
    "whole_file",
    "whole_folder",
    "without_secrets",
    "write_json",
]

# Of an address: a name and password before the host, and what follows the path, such as a signature or a token.
_PASSWORD = re.compile(r"(?<=://)[^/@?\s'\"]+@")
_QUERY = re.compile(r"(://[^?\s'\"]*\?)[^\s'\"]+")


def without_secrets(text: str) -> str:
    """Leaves out what opens an address: `https://me:secret@host/a.csv?signature=...` is `https://host/a.csv?...`.

    Args:
        text: An address, or a message with addresses in it.

    Returns:
        The text; the same where no address holds a password or a query.
    """
    return _QUERY.sub(r"\1...", _PASSWORD.sub("", text))


def as_written(content: Any) -> Any:
    """Returns content as a file of `write_json` gives it back, to be compared with that.

    Args:
        content: What JSON can hold.

    Returns:
        The content in lists, dictionaries and plain values, without what opens the addresses in it.
    """
    if isinstance(content, str):
        return without_secrets(content) if "://" in content else content
    if isinstance(content, Mapping):
        return {as_written(_key(name)): as_written(value) for name, value in content.items()}
    return [as_written(value) for value in content] if isinstance(content, list | tuple) else content


def _key(name: Any) -> str:
    """Returns a key as JSON has it."""
    return name if isinstance(name, str) else json.dumps(name)


@contextmanager
def secrets_left_out() -> Iterator[None]:
    """Raises errors without what opens the addresses in them; their causes, which have them too, are dropped."""
    try:
        yield
    except (OSError, ValueError) as error:
        told = without_secrets(str(error))
        if told == str(error):
            raise
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(told) from None


@contextmanager
def one_run_in(folder: Path, argument: str) -> Iterator[None]:
    """Holds the lock of a folder, so that one run at a time writes there; makes the folder if it is absent.

    Args:
        folder: The folder.
        argument: Name of the argument that names it.

    Raises:
        ValueError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"`{argument}` is {str(folder)!r}, where another run is at work; wait for it, or give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_file(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Writes a file completely or not at all; makes its folder if it is absent.

    Args:
        path: The file.
        suffix: Suffix of the file that is written first; processes that may write the same file need different ones.

    Yields:
        The file to write to; it replaces `path` at the end, unless there was an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(suffix)
    yield partial
    os.replace(partial, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fills a new folder completely or not at all.

    Args:
        path: The folder.

    Yields:
        An empty folder; it becomes `path` at the end, unless there was an error.
    """
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was stopped
    partial.mkdir(parents=True)
    yield partial
    partial.rename(path)


def write_json(content: Any, path: Path, *, allow_nan: bool = True) -> None:
    """Writes a JSON file completely or not at all, without what opens the addresses in it: such files are shared.

    Args:
        content: What it holds; see `as_written`.
        path: The file.
        allow_nan: Whether it may hold NaN and infinity, which the JSON standard does not have.

    Raises:
        ValueError: If it holds one although `allow_nan` is false.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(as_written(content), indent=2, allow_nan=allow_nan) + "\n", encoding="utf-8")


def file_state(path: str) -> list[int] | None:
    """Returns a local file's size in bytes and the time of its last change; `None` for a file that is not local."""
    try:
        found = os.stat(path.removeprefix("file://"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a path with a null character
        return None
    return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None


def files_digest(paths: Sequence[str]) -> str:
    """Returns the number of files and a digest of their paths, without what opens them, and states."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{without_secrets(path)} {file_state(path)}\0".encode())
    return f"{len(paths)} files, {digest.hexdigest()[:20]}"
