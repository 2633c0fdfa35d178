"""The input: files of several formats and places, divided into parts. A part is processed whole, or again."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

import daft
import daft.functions as F
import pyarrow as pa
import pyarrow.parquet as pq
from daft import col
from daft.exceptions import DaftCoreException

from training.data.files import secrets_left_out
from training.data.table_files import FORMATS, plain_table, read_row_group
from training.data.text_files import EncodingError, TextFile, check_names, read_text_files, text_schema

__all__ = ["Part", "plan_parts"]

logger = logging.getLogger("training")

_FORMATS = {suffix: kind for suffix, kind in FORMATS.items() if kind != "arrow"}
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

    def read(self, encoding: str = "utf-8", unreadable: dict[str, str] | None = None) -> daft.DataFrame:
        """Return the rows; of parquet files as a plan that has not read them yet.

        Args:
            encoding: Encoding of CSV and JSON.
            unreadable: Gets an entry for each file that can't be read: its path, and the reason. If not given, such a
                file is an error.

        Raises:
            EncodingError: a file is not of the encoding.
            ValueError: a file can't be read.
        """
        paths = list(self.paths)
        kind = _format_of(paths[0])
        if kind == "parquet" and paths[0].startswith(_WEB):  # Daft takes a query, such as a signature, for a pattern
            return self.read_what_is_whole(unreadable)
        if kind == "parquet":
            groups = None if self.row_groups is None else [list(self.row_groups)]
            return daft.read_parquet(paths, row_groups=groups)
        files = []
        for path in paths:
            file = _text_file(path, kind, encoding)
            try:
                text_schema([file])
            except EncodingError:  # so are other files, then: their titles would be lost
                raise
            except ValueError as error:
                if unreadable is None:
                    raise
                unreadable[path.removeprefix(_LOCAL)] = str(error).splitlines()[0]
            else:
                files.append(file)
        schema = text_schema(files)
        return daft.from_arrow(pa.concat_tables([schema.empty_table(), *read_text_files(files, schema)]))

    def read_what_is_whole(self, unreadable: dict[str, str] | None) -> daft.DataFrame:
        """Return the rows of parquet files that can be read, one row group after the other.

        Args:
            unreadable: Gets an entry for each row group that can't be read, and the reason. If not given, such a row
                group is an error.

        Raises:
            ValueError: a file is no parquet file, or a row group can't be read.
        """
        tables = []
        for path in (path.removeprefix(_LOCAL) for path in self.paths):
            with _open(path) as file:
                try:
                    parquet = pq.ParquetFile(file)
                except pa.ArrowInvalid as error:
                    raise ValueError(f"`input` names {path!r}, which is no parquet file: {error}") from error
                first_row = 0
                for group in self.row_groups or range(parquet.num_row_groups):
                    try:
                        tables.append(plain_table(read_row_group(parquet, group, path), path, first_row))
                    except ValueError as error:
                        if unreadable is None:
                            raise
                        number = parquet.metadata.row_group(group).num_rows
                        unreadable[f"{path}, row group {group} ({number:,} rows)"] = str(error).splitlines()[0]
                    first_row += parquet.metadata.row_group(group).num_rows
                tables.append(plain_table(parquet.schema_arrow.empty_table(), path))
        return daft.from_arrow(pa.concat_tables(tables, promote_options="permissive"))

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine."""
        return self.folder is not None

    @property
    def is_parquet(self) -> bool:
        """Whether the files are parquet."""
        return _format_of(self.paths[0]) == "parquet"


@lru_cache(maxsize=1)  # a file that is not on this machine is looked at several times
def _downloaded(path: str) -> bytes:
    found = daft.from_pydict({"path": [path]}).select(F.download(col("path"))).to_pydict()
    (content,) = next(iter(found.values()))
    return content


def _open(path: str) -> IO[bytes]:
    local = path.removeprefix(_LOCAL)
    return io.BytesIO(_downloaded(path)) if "://" in local else open(local, "rb")


def _text_file(path: str, kind: str, encoding: str) -> TextFile:
    return TextFile(path.removeprefix(_LOCAL), partial(_open, path), kind, encoding)


@secrets_left_out()
def plan_parts(
    inputs: Sequence[str], bytes_at_once: int, skipped: dict[str, str] | None = None, encoding: str = "utf-8"
) -> list[Part]:
    """Divide the input into parts, always the same parts for the same files.

    Args:
        inputs: Files, folders or globs.
        bytes_at_once: Size of a part, about. Local parquet files are divided; other files stay whole.
        skipped: Gets an entry for each local file that is empty or broken: its path, and the reason. If not given,
            such a file is an error.
        encoding: Encoding of CSV and JSON.

    Returns:
        The parts, in the order of the files' names.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        EncodingError: a file is not of the encoding.
        ValueError: a file's format is unknown, a file can't be read or has two columns of one name, or the input has
            too many parts.
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
            if size and "://" not in local and _format_of(local) == "parquet":
                check_names(pq.read_schema(local).names, local)
            if size > bytes_at_once and "://" not in local and _format_of(local) == "parquet":
                divided = [Part((path,), groups) for groups in _row_groups(local, bytes_at_once)]
                close()
                parts += divided
                continue
            if not size and "://" not in local:
                raise pa.ArrowInvalid("it is empty")
            like = _likeness(path, encoding)
        except (DaftCoreException, pa.ArrowInvalid, _Broken, OSError) as error:
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


class _Broken(Exception):
    """A file can't be read."""


def _likeness(path: str, encoding: str) -> tuple[Any, ...]:
    """Return what files must have in common to be read together.

    The folder, because image paths are relative to it. The columns, because Daft reads all parquet files with the
    schema of the first: a column of another type would become null.
    """
    if path.startswith(_WEB):
        return (path,)
    part, kind = Part((path,)), _format_of(path)
    if kind == "parquet" and part.is_local:
        columns = [(field.name, str(field.type)) for field in pq.read_schema(path.removeprefix(_LOCAL))]
    elif kind == "parquet":
        columns = [(column.name, str(column.dtype)) for column in part.read().schema()]
    else:
        try:
            schema = text_schema([_text_file(path, kind, encoding)], first_rows=True)
        except EncodingError:
            raise
        except ValueError as error:
            raise _Broken(str(error)) from error
        columns = [(field.name, str(field.type)) for field in schema]
    return part.folder, kind, tuple(columns)


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
