"""Where raw offers are read from: files of several formats and places, in parts that are done whole or again."""

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
_MOST_PARTS = 2**16  # row numbers have 16 bits for them
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Part:
    """Some of the input: whole files, or some row groups of one.

    Args:
        paths: The files, all of one folder, one format and the same columns.
        row_groups: Of a single parquet file, the row groups; all if not given.
    """

    paths: tuple[str, ...]
    row_groups: tuple[int, ...] | None = None

    @property
    def folder(self) -> Path | None:
        """Folder of the files, where it is a local one."""
        path = self.paths[0].removeprefix(_LOCAL)
        return None if "://" in path else Path(path).parent.resolve()

    @property
    def is_untyped(self) -> bool:
        """Whether all that it holds is text."""
        return _format_of(self.paths[0]) in ("csv", "tsv")

    def read(self, text_columns: Sequence[str] = ()) -> daft.DataFrame:
        """Return its rows, not read yet.

        Args:
            text_columns: Columns that are text, where the format does not say what they are: types are guessed from
                the beginning of a file, and an id like 00123 is no number.
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
    """Divide the input into parts; the same parts whatever computes them.

    Args:
        inputs: Files, folders or globs.
        bytes_at_once: Parts are about that large. Local parquet files are divided; others are whole.
        skipped: Local files that are empty or broken are named here, with what was found; without it they are errors.

    Returns:
        The parts, in the order of the files' names.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file's format is not known or it can't be read, or there is too much for one run.
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
            f"`bytes_at_once` is {bytes_at_once}, which makes {len(parts):,} parts of the input; more than "
            f"{_MOST_PARTS:,} can't be numbered. Give more bytes."
        )
    return parts


def _likeness(path: str) -> tuple[Any, ...]:
    """Return what files have in common that are read together.

    Paths of images begin in the folder of their table. Daft reads all files as the first one is: where a column has
    another type, or the columns of CSV another order, it finds nulls, or the values of another column.
    """
    if path.startswith(_WEB):
        return (path,)
    part = Part((path,))
    return part.folder, _format_of(path), tuple((column.name, str(column.dtype)) for column in part.read().schema())


def _files(pattern: str) -> list[tuple[str, int]]:
    """Return the files that a word of the input stands for, with their sizes in bytes."""
    if pattern.startswith(_WEB):
        _format_of(pattern)
        return [(pattern, 0)]
    is_remote = "://" in pattern
    if not is_remote and not set("*?[{") & set(pattern) and not Path(pattern).exists():
        raise FileNotFoundError(f"`input` names {pattern!r}, which is not there.")
    if not is_remote and Path(pattern).is_dir():
        pattern = str(Path(pattern) / "**")
    elif is_remote and not Path(pattern).suffix and "*" not in pattern:
        pattern = pattern.rstrip("/") + "/**"
    try:
        found = daft.from_glob_path(pattern).select("path", "size").to_pydict()
    except DaftCoreException as error:
        raise FileNotFoundError(f"`input` names {pattern!r}, where nothing can be read: {error}") from error
    files = list(zip(found["path"], found["size"], strict=True))
    if "*" in pattern:
        files = [(path, size) for path, size in files if Path(path).suffix.lower() in _FORMATS]
    if not files:
        raise FileNotFoundError(f"`input` names {pattern!r}, where there is no file of {', '.join(_FORMATS)}.")
    for path, _ in files:
        _format_of(path)
    return [(path, size or 0) for path, size in files]


def _format_of(path: str) -> str:
    suffix = Path(path.split("?")[0]).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"`input` names {path!r}, whose format is not known; give one of {', '.join(_FORMATS)}.")
    return _FORMATS[suffix]


def _row_groups(path: str, bytes_at_once: int) -> list[tuple[int, ...]]:
    """Divide a file's row groups into runs of about so many bytes."""
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
