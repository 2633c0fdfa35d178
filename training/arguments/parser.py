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
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.options import check_checkpoint
from training.arguments.publish import PublishArguments
from training.arguments.report import ReportArguments
from training.arguments.train import TrainArguments

__all__ = ["ALL_ARGUMENTS", "parse_arguments"]

ALL_ARGUMENTS: tuple[type, ...] = (
    ModelArguments,
    DataArguments,
    TrainArguments,
    FinetuneArguments,
    EvaluationArguments,
    PublishArguments,
    ReportArguments,
)
"""Those whose keys may stand in one file, of which each script reads its own."""

# Arguments that are folders or Hub ids.
_CHECKPOINTS = ("checkpoint", "clip", "start", "teacher", "text_tower", "tokenizer", "vision_tower")
_SECTIONS = ("data", "model", "run", "advanced")
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def parse_arguments(
    argument_classes: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    positional: Sequence[str] = (),
    of_file: Sequence[type] = (),
) -> tuple[Any, ...]:
    """Fill dataclasses from `--config FILE.yaml` and the command line.

    Args:
        argument_classes: The dataclasses that this script reads.
        argv: The command line without the program's name; that of the process if not given.
        positional: Arguments whose values may come first on the command line, without their names.
        of_file: Further dataclasses, which the file alone fills.

    Returns:
        One instance per class. A file may also hold keys of the other scripts' classes, so that one file serves a
        whole run; the command line may not.

    Raises:
        SystemExit: A key is unknown, a value is not of its type or out of its range: told in one line, with exit
            code 2.
    """
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    if len(words) >= len(positional) and not any(word.startswith("-") for word in words[: len(positional)]):
        named = [f"--{name}={word}" for name, word in zip(positional, words, strict=False)]
        words = named + words[len(positional) :]
    parser = _ArgumentParser(argument_classes)
    config_path = _take_config(parser, words)
    of_config = _read_config(parser, config_path, argument_classes) if config_path else []
    parsed = _parse(parser, [*of_config, *words], "the command line")
    if not of_file:
        return parsed
    file_parser = _ArgumentParser(of_file)
    return parsed + _parse(file_parser, _read_config(file_parser, config_path, of_file) if config_path else [], "")


def _parse(parser: "_ArgumentParser", words: list[str], where: str) -> tuple[Any, ...]:
    words = [_write_out(word) for word in words]
    _, unknown = parser.parse_known_args(words)
    for word in unknown:
        if word.startswith("--"):
            _refuse(parser, word[2:].split("=")[0], parser.sections.keys(), where)
    if unknown:
        parser.error(f"the words {unknown} belong to no argument")
    try:
        *groups, _ = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
        for group in groups:
            _check_given(group)
    except ValueError as error:  # of a dataclass that checks its values
        parser.error(str(error))
    return tuple(groups)


def _check_given(group: Any) -> None:
    """Check what need not hold for arguments that a program makes: folders are there, offers are not mixed."""
    for name in _CHECKPOINTS:
        value = getattr(group, name, None) or []
        for checkpoint in [value] if isinstance(value, str) else value:
            check_checkpoint(name, checkpoint)
    if hasattr(group, "check_given"):
        group.check_given()


class _ArgumentParser(HfArgumentParser):
    """A parser that takes an empty list for a list, and 1e6 for a whole number; its help comes in sections.

    Attributes:
        sections: The section of each argument.
        of_machine: Arguments whose defaults are found out on each machine.
    """

    def __init__(self, argument_classes: Sequence[type]) -> None:
        """Adds the arguments of dataclasses."""
        self.sections: dict[str, str] = {
            entry.name: entry.metadata.get("section", getattr(group, "section", "run"))
            for group in argument_classes
            for entry in dataclasses.fields(group)
        }
        self.of_machine = {
            entry.name
            for group in argument_classes
            for entry in dataclasses.fields(group)
            if entry.default_factory is not dataclasses.MISSING and not isinstance(entry.default_factory(), list)
        }
        self._groups: dict[str, Any] = {}
        super().__init__(
            tuple(argument_classes),
            allow_abbrev=False,
            usage="%(prog)s [--config FILE.yaml] [--argument value ...]",
            formatter_class=argparse.HelpFormatter,
        )
        super().add_argument(
            "--config", metavar="FILE", help="YAML file of arguments; the command line goes before it"
        )

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument; `HfArgumentParser` calls this for each field of a dataclass."""
        for name in ("within", "section", "command_line_only"):  # read elsewhere
            settings.pop(name, None)
        name = names[0].lstrip("-")
        if name not in self.sections:  # --help, or --no_flag of a --flag
            return super().add_argument(*names, **settings | ({} if "-h" in names else {"help": argparse.SUPPRESS}))
        if not self._groups:  # here, since argparse is ready now, and in their order
            used = set(self.sections.values())
            self._groups = {title: self.add_argument_group(title) for title in _SECTIONS if title in used}
        if settings.get("nargs") == "+":
            settings["nargs"] = "*"
        if settings.get("type") is int:
            settings["type"] = _whole_number
        if "choices" not in settings:
            settings["metavar"] = _METAVARS.get(settings.get("type"), "TEXT")
        default = settings.get("default")
        if default not in (None, "", []):
            told = " ".join(map(str, default)) if isinstance(default, list) else str(default)
            told = f"here: {told}" if name in self.of_machine else told
            settings["help"] = f"{settings['help']} [{told}]".replace("%", "%%")
        return self._groups[self.sections[name]].add_argument(names[0], **settings)

    def error(self, message: str) -> NoReturn:
        """Ends the script in one line.

        Raises:
            SystemExit: Always, with exit code 2.
        """
        print(f"{self.prog}: {message} (--help lists the arguments)", file=sys.stderr)
        raise SystemExit(2)


def _with_underscores(word: str) -> str:
    """Take `--batch-size` for `--batch_size`."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _write_out(word: str) -> str:
    """Write a negative number without its exponent: argparse takes -1e-4 for an option, and -0.0001 for a number."""
    return format(Decimal(word), "f") if _NEGATIVE_NUMBER.fullmatch(word) else word


def _take_config(parser: "_ArgumentParser", words: list[str]) -> str | None:
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


def _read_config(parser: "_ArgumentParser", path: str, argument_classes: Sequence[type]) -> list[str]:
    """Return what a file says for some dataclasses as words of a command line."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_PlainLoader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path} can't be read: {error}")
    if not isinstance(content, dict):
        parser.error(f"--config {path} holds {type(content).__name__}; give `key: value` lines")
    known_anywhere = {
        entry.name for group in (*argument_classes, *ALL_ARGUMENTS) for entry in dataclasses.fields(group)
    }
    read = {
        entry.name for group in argument_classes for entry in dataclasses.fields(group)
        if not entry.metadata.get("command_line_only")
    }  # fmt: skip
    words: list[str] = []
    for key, value in content.items():
        if key not in known_anywhere:
            _refuse(parser, str(key), known_anywhere, path)
        if key in read and value is not None:
            values = value if isinstance(value, list) else [value]
            if unclear := [item for item in values if item is None or isinstance(item, list)]:
                parser.error(f"`{key}` in {path} holds {json.dumps(unclear[0])}; give text, numbers or mappings")
            texts = [json.dumps(item) if isinstance(item, dict) else str(item) for item in values]
            words += [f"--{key}", *texts] if isinstance(value, list) else [f"--{key}={texts[0]}"]
    return words


class _PlainLoader(yaml.SafeLoader):
    """YAML in which `no`, `yes`, `on` and `off` are words, and not false or true, and a key is given once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Reads a mapping, of which PyYAML would keep the last value of a key that is given twice."""
        keys = [key.value for key, _ in node.value]
        if repeated := [key for place, key in enumerate(keys) if key in keys[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


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


_METAVARS = {_whole_number: "N", float: "X", str: "TEXT"}


def _refuse(parser: _ArgumentParser, key: str, known: Collection[str], where: str) -> None:
    nearest = difflib.get_close_matches(key, sorted({*known, "config"}), n=1, cutoff=0.0)
    parser.error(f"unknown argument {key!r} in {where}; did you mean {nearest[0]!r}?")
