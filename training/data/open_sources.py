"""Finds and opens what a source names: table files, globs, addresses, folders, datasets of the Hub, the toy data."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import fsspec

from training.data.files import without_secrets
from training.data.table_files import FORMATS, RULES, TableFiles, format_of

__all__ = ["OpenedPart", "open_source", "source_files"]


@dataclass(frozen=True)
class OpenedPart:
    """A part of a source.

    Args:
        table: Its rows, or the parquet files to be streamed.
        folder: Folder that image paths start from.
        files: Files that the rows come from, as far as they are known.
        kind: Format of the files.
    """

    table: datasets.Dataset | list[str]
    folder: Path | None = None
    files: Sequence[str] = ()
    kind: str = "parquet"


@lru_cache(maxsize=1)  # a run asks for its splits one by one, and drawing takes seconds
def _toy_data(num_offers: int, seed: int) -> datasets.DatasetDict:
    from modeling_eclip.toy.catalog import toy_catalog

    return toy_catalog(num_offers, seed=seed)


def open_source(
    source: str, split: str, streaming: bool, encoding: str, toy_offers: int, toy_seed: int
) -> list[OpenedPart]:
    """Opens one source: its tables or, to be streamed, parquet files.

    Args:
        source: The source, as `load_products` takes it.
        split: Split of the toy data, of a folder or of a Hub dataset.
        streaming: Leaves parquet files unread, to be streamed.
        encoding: Encoding of CSV and JSON files.
        toy_offers: Number of offers of the toy data, all splits together.
        toy_seed: Seed of the toy data.

    Returns:
        The parts of the source, in their order.

    Raises:
        FileNotFoundError: If a file, folder or glob names nothing.
        ValueError: If the source cannot be opened.
    """
    if source == "toy":
        splits = _toy_data(toy_offers, toy_seed)
        if split not in splits:
            raise ValueError(f"split={split!r} is not in the toy data. Use one of {sorted(splits)}.")
        return [OpenedPart(splits[split])]
    if files := _table_files(source, split):
        return _open_files(source, files, streaming, encoding)
    path = Path(source).expanduser()
    if path.is_dir() and (saved := _saved_dataset(source, path, split)) is not None:
        return [OpenedPart(saved, path)]
    if path.is_dir():
        return [_open_dataset(source, str(path), None, split, streaming, encoding, path)]
    name, _, config = source.partition(":")
    return [_open_dataset(source, name, config or None, split, streaming, encoding, None)]


def _saved_dataset(source: str, folder: Path, split: str) -> datasets.Dataset | None:
    """Opens what `save_to_disk` wrote; nothing for another folder."""
    if (folder / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        if split not in saved:
            raise ValueError(f"source {source!r} has no split {split!r}. Use one of {sorted(saved)}.")
        return saved[split]
    return datasets.load_from_disk(str(folder)) if (folder / "state.json").is_file() else None


def _table_files(source: str, split: str) -> list[str]:
    """Lists the table files of a source; none where `datasets` knows it by name or finds its files itself."""
    path = Path(source).expanduser()
    if "://" in source:
        if source.startswith(("http://", "https://")) and "?" in source:  # a query, such as a signature; no pattern
            return [source]
        system, pattern = fsspec.core.url_to_fs(source)
        files = [system.unstrip_protocol(file) for file in sorted(system.glob(pattern))]
        if not files:
            raise FileNotFoundError(f"source {source!r} matches no file. Check the address.")
        return files
    if path.is_dir():
        table = _table_in_folder(path, split)
        return [] if table is None else [str(table)]
    if path.is_file():  # checked before patterns: a file's name may have brackets
        return [str(path)]
    if any(character in source for character in "*?["):
        files = [file for file in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(file)]
        if not files:
            raise FileNotFoundError(f"source {source!r} matches no file. Check the pattern and the working directory.")
        return files
    if path.suffix.lower() in FORMATS or path.is_absolute() or source.startswith((".", "~")):
        raise FileNotFoundError(
            f"source {source!r} does not exist (working directory: {os.getcwd()}). Check the path, or name 'toy', a "
            "glob, or a dataset of the Hub as 'owner/name'."
        )
    return []


def source_files(source: str, split: str) -> list[str]:
    """Finds the files that a source is read from, without the image files that its rows name.

    Args:
        source: As `load_products` takes it.
        split: Split of a folder.

    Returns:
        Paths and addresses of tables, or, for a folder without a table, of all files in it; none for the toy data and
        for datasets of the Hub.

    Raises:
        FileNotFoundError: If a file, folder or glob names nothing.
    """
    folder = Path(source).expanduser()
    files = [] if source == "toy" else _table_files(source, split)
    if not files and source != "toy" and folder.is_dir():
        return sorted(str(file) for file in folder.rglob("*") if file.is_file())
    return files


def _table_in_folder(folder: Path, split: str) -> Path | None:
    """Finds the table that describes a folder by its name, if there is one."""
    for stem in ("metadata", f"{split}/metadata", split):
        for suffix in (".parquet", ".jsonl", ".csv", ".tsv"):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


def _open_files(source: str, files: Sequence[str], streaming: bool, encoding: str) -> list[OpenedPart]:
    """Opens table files, those of one format and folder together, since image paths are relative to the folder."""
    groups: dict[tuple[str, Path | None], list[str]] = {}
    for file in files:
        kind = format_of(file)
        if kind is None:
            raise ValueError(
                f"source {source!r}: {Path(without_secrets(file)).name!r} is not a table that can be read. Use one of "
                f"{sorted(FORMATS)}."
            )
        folder = None if "://" in file else Path(file).parent
        groups.setdefault((kind, folder), []).append(file)
    opened: list[OpenedPart] = []
    for (kind, folder), group in groups.items():
        if streaming and kind == "parquet":
            opened.append(OpenedPart(group, folder, group, kind))
        else:
            names = [_no_pattern(file) for file in group]
            opened.append(OpenedPart(_read_files(source, kind, names, encoding), folder, group, kind))
    return opened


def _no_pattern(file: str) -> str:
    """Returns the name of a file as `datasets` takes it, to which some characters mean a pattern.

    An address has been asked for what matches it already, but for its query, where a signature may hold such
    characters; a server takes them by their numbers as well.
    """
    if "://" not in file:
        return glob.escape(file)
    path, mark, query = file.partition("?")
    return path + mark + re.sub(r"[*?[\]]", lambda found: f"%{ord(found[0]):02X}", query)


def _read_files(source: str, kind: str, data_files: Any, encoding: str) -> datasets.Dataset:
    settings = {"dataset_name": kind, "data_files": {"train": data_files}, "kind": kind, "encoding": encoding}
    try:
        builder = TableFiles(**settings, rules=RULES)
        builder.download_and_prepare()
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        is_empty = isinstance(error.__cause__, datasets.arrow_writer.SchemaInferenceError)  # nothing came from there
        if isinstance(error.__cause__, ValueError) and not is_empty:  # it names the file
            raise error.__cause__ from error
        raise ValueError(f"source {source!r} could not be read. {type(error).__name__}: {error}") from error
    return builder.as_dataset(split="train")


def _open_dataset(
    source: str, name: str, config: str | None, split: str, streaming: bool, encoding: str, folder: Path | None
) -> OpenedPart:
    """Opens a dataset that `datasets` knows by name; to be streamed, finds its parquet files."""
    with _named_errors(source, split):
        builder = datasets.load_dataset_builder(name, config)
        files = getattr(builder.config, "data_files", None) or {}
        names = [str(file) for file in files.get(split, ())]
        if not streaming:
            kind = {"csv": "csv", "json": "json"}.get(builder.name)
            if kind is not None and names and builder.info.features is None:
                return OpenedPart(_read_files(source, kind, files[split], encoding), folder, names, kind)
            is_known = builder.name == "parquet"
            return OpenedPart(datasets.load_dataset(name, config, split=split), folder, names if is_known else ())
    if builder.name != "parquet":
        raise ValueError(
            f"source {source!r} is not stored as parquet but as {builder.name}, whose rows cannot be found one by "
            "one. Leave out streaming, or name the parquet files that the Hub made of it: "
            f"'hf://datasets/{name}@refs%2Fconvert%2Fparquet/**/*.parquet'."
        )
    if split not in files:
        raise ValueError(
            f"source {source!r} could not be opened (split={split!r}). Its splits are: {', '.join(files)}."
        )
    return OpenedPart(names, folder, names)


@contextlib.contextmanager
def _named_errors(source: str, split: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(
            f"source {source!r} could not be opened (split={split!r}). Name 'toy', a table file, a glob, a "
            f"folder, or a dataset of the Hub as 'owner/name' or 'owner/name:config'. {type(error).__name__}: {error}"
        ) from error
