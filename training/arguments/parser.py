"""A YAML file and the command line -> arguments; the command line goes before the file.

The file's values are put through the same parser as the command line's, so that `3e-4` is a number in both (YAML takes
it for text), and an unknown key is refused with the nearest known one.
"""

import argparse
import dataclasses
import difflib
import json
import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from training.arguments.groups import ALL_ARGUMENTS

__all__ = ["parse_arguments"]

_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def parse_arguments(argument_classes: Sequence[type], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill dataclasses from `--config FILE.yaml` and the command line.

    Args:
        argument_classes: The dataclasses that this script reads.
        argv: The command line without the program's name; that of the process if not given.

    Returns:
        One instance per class. A file may also hold keys of the other scripts' classes, so that one file serves a
        whole run; the command line may not.

    Raises:
        SystemExit: a key is unknown, or a value is not of its type (printed with what is known).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    usage = "%(prog)s [--config FILE.yaml] [--argument value ...] (--help lists the arguments)"
    parser = _ArgumentParser(tuple(argument_classes), allow_abbrev=False, usage=usage)
    parser.add_argument("--config", help="YAML file of arguments; the command line goes before it.")
    known = {name for group in argument_classes for name in _names(group)}
    config_path = _take_config(parser, words)
    from_file = _read_config(parser, config_path, known) if config_path else []
    written_out = [_write_out(word) for word in (*from_file, *words)]
    parsed = parser.parse_args_into_dataclasses(written_out, return_remaining_strings=True)
    groups, unknown = parsed[: len(argument_classes)], parsed[-1]
    for word in unknown:
        if word.startswith("--"):
            _refuse(parser, word[2:].split("=")[0], known, "the command line")
    if unknown:
        parser.error(f"the words {unknown} belong to no argument")
    return tuple(groups)


class _ArgumentParser(HfArgumentParser):
    """A parser that takes an empty list for a list, and 1e6 for a whole number."""

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument; `HfArgumentParser` calls this for each field of a dataclass."""
        settings.pop("within", None)  # the dataclass checks it
        if settings.get("nargs") == "+":
            settings["nargs"] = "*"
        if settings.get("type") is int:
            settings["type"] = _whole_number
        return super().add_argument(*names, **settings)


def _write_out(word: str) -> str:
    """Write a negative number without its exponent: argparse takes -1e-4 for an option, and -0.0001 for a number."""
    return format(Decimal(word), "f") if _NEGATIVE_NUMBER.fullmatch(word) else word


def _take_config(parser: HfArgumentParser, words: list[str]) -> str | None:
    """Remove `--config FILE` (or `--config=FILE`) from the words and return the file."""
    for place, word in enumerate(words):
        if word == "--config":
            if place + 1 == len(words):
                parser.error("--config wants a YAML file")
            _, path = words.pop(place), words.pop(place)
            return path
        if word.startswith("--config="):
            return words.pop(place).split("=", 1)[1]
    return None


def _read_config(parser: HfArgumentParser, path: str, known: set[str]) -> list[str]:
    """Return the file as words of a command line."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_PlainLoader) or {}
    except (OSError, yaml.YAMLError) as error:
        parser.error(f"--config {path} can't be read: {error}")
    if not isinstance(content, dict):
        parser.error(f"--config {path} holds {type(content).__name__}; give `key: value` lines")
    known_anywhere = known | {name for group in ALL_ARGUMENTS for name in _names(group)}
    words: list[str] = []
    for key, value in content.items():
        if key not in known_anywhere:
            _refuse(parser, str(key), known_anywhere, path)
        if key in known and value is not None:
            values = value if isinstance(value, list) else [value]
            texts = [json.dumps(item) if isinstance(item, dict) else str(item) for item in values]
            words += [f"--{key}", *texts] if isinstance(value, list) else [f"--{key}={texts[0]}"]
    return words


class _PlainLoader(yaml.SafeLoader):
    """YAML in which `no`, `yes`, `on` and `off` are words, and not false or true."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|false|False)$"), list("tTfF"))


def _whole_number(text: str) -> int:
    """Read a whole number, also one written as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(number)


def _names(group: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(group)]


def _refuse(parser: HfArgumentParser, key: str, known: set[str], where: str) -> None:
    nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)
    parser.error(f"unknown argument {key!r} in {where}; did you mean {nearest[0]!r}?")
