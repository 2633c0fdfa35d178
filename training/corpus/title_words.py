"""Remove promotional words, which do not name the product, from titles.

Contract: words are found whole, in any case, also with hyphens for spaces (`free-shipping`). Exclamation marks behind
them are removed too, and so are brackets or marks around them that hold nothing else: `[HOT]`, `【送料無料/あす楽】`,
`*Original*`, `★특가★`. Parts of longer words and codes stay: `Hotel`, `SALE-2000`.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from training.corpus.title_repairs import collapse_spaces

__all__ = ["WordsRemoval", "words_removal"]

# In scripts that are written without spaces, a word ends where its script ends.
_CLOSED_UP = tuple(
    regex.compile(f"[{script}]") for script in (r"\p{Han}", r"\p{Hangul}", r"\p{Hiragana}\p{Katakana}ー")
)
# Letters, digits and marks of all other scripts.
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}--[\p{Han}\p{Hangul}\p{Hiragana}\p{Katakana}ー]]", regex.VERSION1)
_JOINTS = "-'’&"  # join two words into one word or code

_PLACE = "\ufdd0"  # stands for a found word; Unicode reserves it as no character, so no text contains it
_WORDS = rf"{_PLACE}(?:[\s/·・,|+&!-]{{1,3}}{_PLACE})*+"
_MARK = r"[*~!=_|\p{So}\uFE0F]"
_FOUND = regex.compile(
    rf"[\p{{Ps}}<«≪]\s?{_MARK}{{0,4}}{_WORDS}{_MARK}{{0,4}}\s?[\p{{Pe}}>»≫]"  # in brackets
    rf"|{_MARK}{{1,4}}\s?{_WORDS}\s?{_MARK}{{1,4}}"  # between marks
    rf"|{_PLACE}(?:\s?!{{1,3}})?"
)


@dataclass(frozen=True)
class WordsRemoval:
    """Removes words, and the brackets and marks that present them as promotion.

    Args:
        candidates: Finds the words, and also parts of longer words.
        hints: Casefolded texts; every title with such a word contains one of them, so most titles need no search.
        marked_only: Whether a word stays that has no brackets or marks around it and no exclamation mark behind it:
            for words that may name a product, such as "original".
    """

    candidates: re.Pattern[str]
    hints: tuple[str, ...]
    marked_only: bool

    def __call__(self, title: str) -> str:
        """Return the title without the words; if there were any, without double spaces too."""
        folded = title.casefold()
        for hint in self.hints:
            if hint in folded:
                return self._remove(title.replace(_PLACE, ""))
        return title

    def _remove(self, title: str) -> str:
        found: list[str] = []

        def hide(match: re.Match[str]) -> str:
            start, end = match.span()
            if _goes_on(title[start], title[max(0, start - 2) : start][::-1]):
                return match[0]
            if _goes_on(title[end - 1], title[end : end + 2]):
                return match[0]
            found.append(match[0])
            return _PLACE

        hidden = self.candidates.sub(hide, title)
        if not found:
            return title
        words = iter(found)

        def show(match: "regex.Match[str]") -> str:
            taken = [next(words) for _ in range(match[0].count(_PLACE))]
            return taken[0] if self.marked_only and match[0] == _PLACE else " "

        kept = _FOUND.sub(show, hidden)
        return title if kept == title else collapse_spaces(kept)


def words_removal(words: Sequence[str], marked_only: bool = False) -> WordsRemoval:
    """Return the function that removes words from titles.

    Args:
        words: Words and phrases, each with a letter or a digit.
        marked_only: As in [`WordsRemoval`].

    Returns:
        The removal.
    """
    folded = {" ".join(unicodedata.normalize("NFKC", word).casefold().split()) for word in words}
    hints = {max(word.split(), key=len) for word in folded}
    # The longest first, because the first match is taken.
    ordered = sorted(folded, key=lambda word: (-len(word), word))
    spelled = {word: r"[\s_-]{1,2}".join(re.escape(part) for part in word.split()) for word in ordered}
    # Most positions in most titles are inside a Latin word, where no word needs to be tried.
    quick = [spelled[word] for word in ordered if re.match("[a-z0-9]", word)]
    others = [spelled[word] for word in ordered if not re.match("[a-z0-9]", word)]
    branches = [f"(?<![a-z0-9])(?:{'|'.join(quick)})"] if quick else []
    branches += [f"(?:{'|'.join(others)})"] if others else []
    return WordsRemoval(re.compile("|".join(branches), re.IGNORECASE), tuple(sorted(hints)), marked_only)


def _goes_on(last: str, following: str) -> bool:
    """Tell whether a word continues after its last letter; `following` holds up to two characters outside it."""
    if not last.isascii():
        for script in _CLOSED_UP:
            if script.match(last):
                return script.match(following) is not None
    return _LETTER.match(following[1:] if following[:1] in _JOINTS else following) is not None
