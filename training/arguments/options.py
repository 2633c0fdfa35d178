"""One argument of a script: its help, its default, and the values that it may have."""

import codecs
import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

__all__ = ["check_checkpoint", "check_encoding", "check_ranges", "option"]


def option(
    text: str,
    default: Any = dataclasses.MISSING,
    *,
    within: str | None = None,
    advanced: bool = False,
    command_line_only: bool = False,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Return a field with the help that `--help` prints, and with what it may be where that is no type.

    Args:
        text: The help.
        default: The default.
        default_factory: Finds out the default where it is that of the machine.
        advanced: Whether `--help` lists it last, under "advanced".
        command_line_only: Whether a file's value of this name is meant for other scripts.
        within: The range that a number must lie in, as mathematicians write it: `"(0, 1]"` is above 0 and at most 1.
    """
    metadata: dict[str, Any] = {"help": text}
    metadata |= {"within": within} if within is not None else {}
    metadata |= {"section": "advanced"} if advanced else {}
    metadata |= {"command_line_only": True} if command_line_only else {}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_ranges(arguments: Any) -> None:
    """Refuse numbers that are none, and numbers out of their range; `None` is always allowed.

    Args:
        arguments: An instance of a dataclass whose fields `option` made.

    Raises:
        ValueError: a number is not finite, or out of range.
    """
    for entry in dataclasses.fields(arguments):
        given = getattr(arguments, entry.name)
        within = entry.metadata.get("within")
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or (within is not None and not _lies_within(value, within)):
                leave = ", or leave it out" if entry.default is None else ""
                raise ValueError(f"`{entry.name}` is {value}; give {_in_words(within)}{leave}.")


def _bounds(within: str) -> tuple[float, float]:
    low, high = within[1:-1].split(",")
    return float(low), float(high)


def _lies_within(value: float, within: str) -> bool:
    low, high = _bounds(within)
    above = value >= low if within[0] == "[" else value > low
    return above and (value <= high if within[-1] == "]" else value < high)


def _in_words(within: str | None) -> str:
    if within is None:
        return "a finite number"
    low, high = _bounds(within)
    if high == math.inf:
        return f"at least {low:g}" if within[0] == "[" else f"more than {low:g}"
    first = f"{low:g} to" if within[0] == "[" else f"above {low:g} and"
    last = "at most" if within[0] == "(" and within[-1] == "]" else "" if within[-1] == "]" else "below"
    return " ".join(word for word in (first, last, f"{high:g}") if word)


def check_encoding(name: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        ValueError: it does not.
    """
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise ValueError(f"`encoding` is {name!r}; give one that Python knows, such as utf-8 or latin-1.") from error


# What lies in a folder that an argument may name: of a model or of adapters, of a tokenizer, of `embed.py`.
_OF_MODELS = ("*config.json", "tokenizer*", "vocab*", "*.model", "embeddings-*.parquet")


def check_checkpoint(name: str, value: str | None) -> None:
    """Refuse a folder that is not there before the Hub is asked for it, and one without a model.

    Args:
        name: Name of the argument.
        value: A Hub id or a folder; nothing is checked where it is empty, or may be a Hub id.

    Raises:
        ValueError: The value is a path by its form, or starts with a folder that is here, and there is no such folder;
            or it is one without any file of a model, a tokenizer or vectors.
    """
    if not value:
        return
    if (given := Path(value).expanduser()).exists():
        if not any(file for pattern in _OF_MODELS for file in given.glob(pattern)):
            raise ValueError(f"`{name}` is {value!r}, which is no folder of a model: it has no config.json.")
        return
    first, _, rest = value.partition("/")
    if not (value.startswith(("/", ".", "~")) or rest.count("/") or "\\" in value or (rest and Path(first).is_dir())):
        return
    folder = Path(value).expanduser().parent
    others = [other.name for other in folder.iterdir()] if folder.is_dir() else []
    nearest = difflib.get_close_matches(Path(value).name, others, n=1)
    hint = f"did you mean {(Path(value).parent / nearest[0]).as_posix()!r}?" if nearest else "name one that is."
    raise ValueError(f"`{name}` is {value!r}, and there is no such folder; {hint}")
