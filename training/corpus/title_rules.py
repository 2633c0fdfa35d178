"""Clean titles as sellers write them, by rules from a file that a shop can change.

Contract: the rules are applied in their order, repeatedly, until no rule changes the title. So cleaning a cleaned
title changes nothing, with any rules. A title that still changes after `_MAX_ROUNDS` rounds is noise, and
becomes empty. Shin et al. (2022) clean titles; these rules are this package's own.
"""

import difflib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import yaml

from training.corpus.title_repairs import REPAIRS, Removal, limit_marks
from training.corpus.title_words import WordsRemoval, words_removal

__all__ = ["CleanedTitle", "TitleRule", "clean_title", "load_title_rules", "title_key"]

_MAX_ROUNDS = 8  # real titles need two or three
_WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*+")
_NO_SHAPE = regex.compile(r"\p{DI}+")  # selectors and joiners, which have no shape of their own


@dataclass(frozen=True)
class TitleRule:
    """One rule.

    Args:
        name: Name of the rule in the report.
        apply: Takes a title and returns a title. It is called again with what it returned.
    """

    name: str
    apply: Callable[[str], str]


@dataclass(frozen=True)
class CleanedTitle:
    """A title after all rules.

    Args:
        title: The cleaned title; empty if nothing is left.
        changed_by: Names of the rules that changed it, each once, in the order of their first change.
    """

    title: str
    changed_by: tuple[str, ...]


def clean_title(title: str | None, rules: Sequence[TitleRule]) -> CleanedTitle:
    """Clean a title.

    Args:
        title: As the seller wrote it; `None` is an empty title.
        rules: From [`load_title_rules`].

    Returns:
        The cleaned title, and the rules that changed it.

    Raises:
        TypeError: the title is not text.
    """
    if title is None:
        return CleanedTitle("", ())
    if not isinstance(title, str):
        raise TypeError(
            f"a title is {title!r}, of type {type(title).__name__}; give text, or None where an offer has no title."
        )
    changed_by: dict[str, None] = {}  # a set that keeps its order
    unchanged = 0  # number of rules in a row that changed nothing
    for _ in range(_MAX_ROUNDS):
        for rule in rules:
            cleaned = rule.apply(title)
            if cleaned == title:
                unchanged += 1
            else:
                changed_by[rule.name] = None
                title, unchanged = cleaned, 0
            if unchanged == len(rules):
                return CleanedTitle(title, tuple(changed_by))
    return CleanedTitle("" if rules else title, tuple(changed_by))


def title_key(title: str) -> str:
    """Return the key of a title: titles that differ only in case, punctuation, accent encoding or spacing share it.

    Args:
        title: The title.

    Returns:
        The words, casefolded, in their order, joined by one space. A word is a run of letters, digits and their marks:
        `"Nike® Men's T-Shirt"` gives `"nike men s t shirt"`.
    """
    if not title.isascii():
        title = unicodedata.normalize("NFD", limit_marks(_NO_SHAPE.sub("", title)))
    folded = title.casefold()
    return " ".join(_WORD.findall(folded if folded.isascii() else unicodedata.normalize("NFC", folded)))


def load_title_rules(path: str | Path) -> tuple[TitleRule, ...]:
    """Read rules from a file.

    Args:
        path: YAML, a list of entries with a `name` and one of `apply`, `remove_words`, `remove_marked_words` and
            `remove_pattern`; `training/configs/title_rules.yaml` explains them.

    Returns:
        The rules, in the order of the file; none where the file holds `[]`.

    Raises:
        ValueError: the file holds something else; the message names the entry and how to correct it.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no YAML in UTF-8 ({error}); repair it there.") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds {type(entries).__name__}; give a list of rules, each `- name: ...`.")
    rules = tuple(_read_rule(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, start=1))
    names = [rule.name for rule in rules]
    for number, name in enumerate(names, start=1):
        first = names.index(name) + 1
        if first < number:
            raise ValueError(f"{path}, entry {number}: entry {first} is called {name!r}, too; give it another name.")
    return rules


def _read_rule(entry: Any, place: str) -> TitleRule:
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is {entry!r}; give `- name: ...`, and what the rule does in a line below it.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place} has the name {name!r}; give `name: a_word`, as the report shall call the rule.")
    place = f"{place} ({name!r})"
    kinds = [key for key in entry if key != "name"]
    for kind in kinds:
        if kind not in _KINDS:
            raise ValueError(f"{place} has the key {kind!r}{_nearest(kind, _KINDS)}; known are name, {_list(_KINDS)}.")
    if len(kinds) != 1:
        raise ValueError(f"{place} does {_list(kinds) or 'nothing'}; give exactly one of {_list(_KINDS)}.")
    (kind,) = kinds
    return TitleRule(name, _KINDS[kind](entry[kind], f"{place}: `{kind}`"))


def _repair(value: Any, place: str) -> Callable[[str], str]:
    if not isinstance(value, str) or value not in REPAIRS:
        raise ValueError(f"{place} is {value!r}{_nearest(value, REPAIRS)}; known are {_list(REPAIRS)}.")
    return REPAIRS[value]


def _removed_pattern(value: Any, place: str) -> Removal:
    if not isinstance(value, str):
        raise ValueError(f"{place} is {value!r}; give a regular expression between single quotes.")
    try:
        pattern = regex.compile(value, regex.IGNORECASE)
    except regex.error as error:
        raise ValueError(f"{place} is {value!r}, which is no regular expression ({error}); repair it.") from error
    if pattern.fullmatch(""):
        raise ValueError(f"{place} is {value!r}, which finds the empty text everywhere; let it find a sign at least.")
    return Removal(pattern)


def _removed_words(value: Any, place: str, marked_only: bool = False) -> WordsRemoval:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} is {value!r}; give a list of words and phrases, such as [best price, 특가].")
    for word in value:
        if not isinstance(word, str):
            raise ValueError(f"{place} holds {word!r}, which YAML takes for no text; write it as '{word}'.")
        if not title_key(word):
            raise ValueError(f"{place} holds {word!r}, which has no letter; use `remove_pattern` for signs.")
    return words_removal(value, marked_only)


def _removed_marked_words(value: Any, place: str) -> WordsRemoval:
    return _removed_words(value, place, marked_only=True)


_KINDS: dict[str, Callable[[Any, str], Callable[[str], str]]] = {
    "apply": _repair,
    "remove_words": _removed_words,
    "remove_marked_words": _removed_marked_words,
    "remove_pattern": _removed_pattern,
}


def _nearest(name: Any, known: dict[str, Any]) -> str:
    found = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
