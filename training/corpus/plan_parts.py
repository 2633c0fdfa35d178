"""The input: files of several formats and places, divided into parts. A part is processed whole, or again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import daft
import pyarrow as pa
import pyarrow.parquet as pq
from daft import DataType
from daft.exceptions import DaftCoreException

__all__ = ["Part", "plan_parts"]

_FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
_LOCAL = "file://"
_MOST_PARTS = 2**16  # a row number holds its part in 16 bits
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Part:
    """A part of the input: whole files, or some row groups of one file.

    Args:
        paths: The files, all with the same folder, format and columns.
        row_groups: Row groups of a single parquet file; all if not given.
    """

    paths: tuple[str, ...]
    row_groups: tuple[int, ...] | None = None

    @property
    def folder(self) -> Path | None:
        """Folder of the files; `None` where they are not local."""
        path = self.paths[0].removeprefix(_LOCAL)
        return None if "://" in path else Path(path).parent.resolve()

    @property
    def is_untyped(self) -> bool:
        """Whether the format has no types: every value is text."""
        return _format_of(self.paths[0]) in ("csv", "tsv")

    def read(self, text_columns: Sequence[str] = ()) -> daft.DataFrame:
        """Return the rows as a plan that has not read them yet.

        Args:
            text_columns: Columns that are read as text where the format has no types. Types are otherwise guessed from
                the beginning of a file, and an id such as 00123 would become a number.
        """
        found = self._read(None)
        kinds = {name: found.schema()[name].dtype for name in text_columns if name in found.column_names}
        text = {name: DataType.string() for name, kind in kinds.items() if self.is_untyped or kind.is_null()}
        return self._read(text) if text and _format_of(self.paths[0]) != "parquet" else found

    def _read(self, schema: dict[str, DataType] | None) -> daft.DataFrame:
        paths = list(self.paths)
        kind = _format_of(paths[0])
        if kind == "parquet":
            groups = None if self.row_groups is None else [list(self.row_groups)]
            return daft.read_parquet(paths, row_groups=groups)
        if kind == "json":
            return daft.read_json(paths, schema=schema)
        return daft.read_csv(paths, schema=schema, delimiter="\t" if kind == "tsv" else ",")


def plan_parts(inputs: Sequence[str], bytes_at_once: int, skipped: dict[str, str] | None = None) -> list[Part]:
    """Divide the input into parts, always the same parts for the same files.

    Args:
        inputs: Files, folders or globs.
        bytes_at_once: Size of a part, about. Local parquet files are divided; other files stay whole.
        skipped: Gets an entry for each local file that is empty or broken: its path, and the reason. If not given,
            such a file is an error.

    Returns:
        The parts, in the order of the files' names.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: a file's format is unknown, a file can't be read, or the input has too many parts.
    """
    parts: list[Part] = []
    gathered: list[str] = []
    gathered_bytes = 0
    gathered_like: tuple[Any, ...] = ()

    def close() -> None:
        nonlocal gathered, gathered_bytes
        if gathered:
            parts.append(Part(tuple(gathered)))
        gathered, gathered_bytes = [], 0

    for path, size in sorted({file for pattern in inputs for file in _files(pattern)}):
        local = path.removeprefix(_LOCAL)
        try:
            if size > bytes_at_once and "://" not in local and _format_of(local) == "parquet":
                divided = [Part((path,), groups) for groups in _row_groups(local, bytes_at_once)]
                close()
                parts += divided
                continue
            if not size and "://" not in local:
                raise pa.ArrowInvalid("it is empty")
            like = _likeness(path)
        except (DaftCoreException, pa.ArrowException, OSError) as error:
            if skipped is None or "://" in local:  # a store may be out of reach for a while
                raise ValueError(f"`input` names {path!r}, which can't be read: {error}") from error
            skipped[local] = str(error).splitlines()[0]
            continue
        if gathered_bytes + size > bytes_at_once or like != gathered_like:
            close()
        gathered.append(path)
        gathered_like = like
        gathered_bytes += size
    close()
    if len(parts) > _MOST_PARTS:
        raise ValueError(
            f"`bytes_at_once` is {bytes_at_once}, which divides the input into {len(parts):,} parts; at most "
            f"{_MOST_PARTS:,} can be numbered. Give more bytes."
        )
    return parts


def _likeness(path: str) -> tuple[Any, ...]:
    """Return what files must have in common to be read together.

    The folder, because image paths are relative to it. The columns, because Daft reads all files with the schema of
    the first: a column of another type would become null, and CSV columns in another order would be mixed up.
    """
    if path.startswith(_WEB):
        return (path,)
    part = Part((path,))
    return part.folder, _format_of(path), tuple((column.name, str(column.dtype)) for column in part.read().schema())


def _files(pattern: str) -> list[tuple[str, int]]:
    """Return the files that an entry of `input` names, with their sizes in bytes."""
    if pattern.startswith(_WEB):
        _format_of(pattern)
        return [(pattern, 0)]
    is_remote = "://" in pattern
    if not is_remote and not set("*?[{") & set(pattern) and not Path(pattern).exists():
        raise FileNotFoundError(f"`input` names {pattern!r}, which does not exist; correct the path.")
    if not is_remote and Path(pattern).is_dir():
        pattern = str(Path(pattern) / "**")
    elif is_remote and not Path(pattern).suffix and "*" not in pattern:
        pattern = pattern.rstrip("/") + "/**"
    try:
        found = daft.from_glob_path(pattern).select("path", "size").to_pydict()
    except DaftCoreException as error:
        raise FileNotFoundError(f"`input` names {pattern!r}, which can't be read: {error}") from error
    files = list(zip(found["path"], found["size"], strict=True))
    if "*" in pattern:
        files = [(path, size) for path, size in files if Path(path).suffix.lower() in _FORMATS]
    if not files:
        raise FileNotFoundError(f"`input` names {pattern!r}, which holds no file of {', '.join(_FORMATS)}.")
    for path, _ in files:
        _format_of(path)
    return [(path, size or 0) for path, size in files]


def _format_of(path: str) -> str:
    suffix = Path(path.split("?")[0]).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"`input` names {path!r}, whose format is not known; give one of {', '.join(_FORMATS)}.")
    return _FORMATS[suffix]


def _row_groups(path: str, bytes_at_once: int) -> list[tuple[int, ...]]:
    """Divide a file's row groups into runs of about `bytes_at_once` bytes."""
    metadata = pq.read_metadata(path)
    runs: list[list[int]] = [[]]
    so_far = 0
    for group in range(metadata.num_row_groups):
        columns = metadata.row_group(group)
        size = sum(columns.column(place).total_compressed_size for place in range(columns.num_columns))
        if runs[-1] and so_far + size > bytes_at_once:
            runs.append([])
            so_far = 0
        runs[-1].append(group)
        so_far += size
    return [tuple(run) for run in runs]
