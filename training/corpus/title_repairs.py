"""Repairs of a title's characters and words, which the rules of a file name in `apply`.

Contract: each repair takes text and returns text, in time linear in its length. It returns the same object where
nothing changes, and leaves one space for removed text, so that words do not run together. [`REPAIRS`] lists them.

Two choices of this package: an entity needs its semicolon, so that `RTX&GTX` stays; and joiners (U+200C, U+200D) stay
where they change what is seen: between letters of scripts that join, after an Indic virama, inside an emoji.
"""

import html.entities
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import regex

__all__ = ["REPAIRS", "Removal", "limit_marks"]

_V1 = regex.VERSION1  # sets may be nested and subtracted: [a--b]

# Reads `&amp;amp;lt;` in one step: titles are escaped again by every shop that passes them on.
_ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")

# Elements by their names: `<S>` is a size and `<brand>` a brand. No `<` inside, so that time is linear.
_ELEMENTS = (
    "a abbr b big blockquote body br center code dd del div dl dt em font h[1-6] hr html i img ins li mark ol p pre "
    "script small span strike strong style sub sup table tbody td th thead title tr tt u ul"
)
_TAG = regex.compile(
    rf"<!--[^<>]*-->|<!\[CDATA\[|\]\]>|</?(?:{'|'.join(_ELEMENTS.split())})(?:\s[^<>]*)?/?>", regex.IGNORECASE
)

# Normalisation needs time quadratic in the number of a letter's marks; Unicode's Stream-Safe Text Format allows 30.
# U+FF9E and U+FF9F become marks.
_TOO_MANY_MARKS = regex.compile(r"(?<=[\p{M}\uFF9E\uFF9F]{30})[\p{M}\uFF9E\uFF9F]+")

_FRACTION = re.compile(r"(?<=\d)(?=[\u00BC-\u00BE\u2150-\u215F\u2189])")

# Characters without a shape, joiners and selectors included.
_SHAPELESS = r"\p{DI}\p{Cc}\p{Cs}\p{Co}\p{NChar}\uFFF9-\uFFFD"
_ANY_SHAPELESS = regex.compile(rf"[{_SHAPELESS}\u2028\u2029\u2800]")
# Characters that look like a space: control characters, fillers of Hangul, the empty pattern of Braille.
_BLANK = regex.compile(r"[\t-\r\x1C-\x1F\x85\u2028\u2029\u115F\u1160\u3164\uFFA0\u2800]")
_JOINING_SCRIPTS = (
    "Arabic Bengali Devanagari Gujarati Gurmukhi Kannada Khmer Malayalam Mongolian Myanmar Oriya Sinhala Syriac Tamil "
    "Telugu"
)
_JOINING = "".join(rf"\p{{{script}}}" for script in _JOINING_SCRIPTS.split())
_INVISIBLE = regex.compile(
    rf"""
    [{_SHAPELESS} -- [\u200C\u200D\uFE0E\uFE0F\U000E0020-\U000E007F]]
    | (?! (?<=\p{{ccc=9}}).                                          # after a virama
        | (?<=[{_JOINING}]).(?=[{_JOINING}])                         # between letters of scripts that join
        | (?<=[\p{{Extended_Pictographic}}\p{{EMod}}\uFE0F])\u200D(?=\p{{Extended_Pictographic}}) )
      [\u200C\u200D]
    | (?! (?<=\p{{Extended_Pictographic}}). | (?<=[0-9\#*]).(?=\u20E3) ) [\uFE0E\uFE0F]
    | (?<!\U0001F3F4[\U000E0020-\U000E007F]{{0,6}}) [\U000E0020-\U000E007F]   # flags of regions are spelt in these
    """,
    _V1 | regex.VERBOSE,
)

_EMOJI = regex.compile(
    r"""
    \p{RI}{1,2}
    | [0-9\#*]\uFE0F?\u20E3
    | \p{Extended_Pictographic}[\uFE0E\uFE0F\p{EMod}]*+
      (?:\u200D\p{Extended_Pictographic}[\uFE0E\uFE0F\p{EMod}]*+)*+ [\U000E0020-\U000E007F]*+
    | [\p{EMod}\u20E3]
    """,
    _V1 | regex.VERBOSE,
)
# Emoji, and signs that a selector or a joiner makes part of an emoji, are left to the emoji rule.
_SYMBOL = regex.compile(
    r"(?<!\u200D)(?!\p{Emoji_Presentation}|.[\uFE0F\u200D])[\p{So}\u2190-\u21FF\u25A0-\u25FF•‣◦※¶§†‡--[°¦]]", _V1
)

# `C++` and `A+++` are names, `15.6''` is a measure.
_PUNCTUATION_RUN = regex.compile(r"([,;|/·-])(?:\s*\1)+|([\p{P}\p{S}--[_+'′″]])\2+", _V1)
_TWO_SIGNS = re.compile(r"[^\w\s]\s*[^\w\s]")  # a quick test, true for every title with a run
_INNER_SPACES = {f"{bracket} ": bracket for bracket in "([{"} | {f" {bracket}": bracket for bracket in ")]}"}
_EDGES = " ,;:|/~_=–—·-"

_LONGEST_PHRASE = 6  # words of a repeated phrase


@dataclass(frozen=True)
class Removal:
    """Removes the matches of a pattern.

    Args:
        pattern: Each match is replaced by a space.
    """

    pattern: "regex.Pattern[str]"

    def __call__(self, title: str) -> str:
        """Return the title without the matches; if there were any, without double spaces too."""
        if self.pattern.search(title) is None:
            return title
        return collapse_spaces(self.pattern.sub(" ", title))


def unescape_html(title: str) -> str:
    """Read entities such as `&amp;`, `&#39;` and `&amp;quot;`."""
    return _ENTITY.sub(_entity, title) if "&" in title else title


def _entity(match: re.Match[str]) -> str:
    name = match[1]
    return html.unescape(f"&{name};") if name[0] == "#" else html.entities.html5.get(f"{name};", match[0])


def remove_tags(title: str) -> str:
    """Remove tags of HTML, known by their names."""
    return _remove_tags(title) if "<" in title or "]]>" in title else title


_remove_tags = Removal(_TAG)


def limit_marks(title: str) -> str:
    """Keep at most 30 combining marks in a row."""
    return title if title.isascii() else _TOO_MANY_MARKS.sub("", title)


def normalize_unicode(title: str) -> str:
    """Bring full-width, composed and compatible forms to one form (NFKC), except two that it would break.

    NFKC would turn the accent in `Men´s` into a space and a mark, and the size `7½` into `71⁄2`.
    """
    if title.isascii():
        return title
    title = _FRACTION.sub(" ", limit_marks(title).replace("´", "'"))
    return unicodedata.normalize("NFKC", title).replace("\u2044", "/")


def remove_invisible(title: str) -> str:
    """Remove characters without a shape: control, zero-width, direction and private characters, broken surrogates."""
    if (title.isascii() and title.isprintable()) or _ANY_SHAPELESS.search(title) is None:
        return title
    return _INVISIBLE.sub("", _BLANK.sub(" ", title))


def remove_emoji(title: str) -> str:
    """Remove emoji, each as a whole: flags, families, skin tones, keycaps."""
    return title if title.isascii() else _remove_emoji(title)


_remove_emoji = Removal(_EMOJI)


def remove_symbols(title: str) -> str:
    """Remove stars, hearts, boxes, arrows, bullets and similar symbols, but not emoji and degree signs."""
    return title if title.isascii() else _remove_symbols(title)


_remove_symbols = Removal(_SYMBOL)


def collapse_punctuation(title: str) -> str:
    """Keep one of a run of the same sign; commas, dashes and slashes also form a run with spaces between them."""
    return title if _TWO_SIGNS.search(title) is None else _PUNCTUATION_RUN.sub(r"\1\2", title)


def collapse_repeats(title: str) -> str:
    """Keep the first of words and phrases that are repeated directly, in any case.

    Repeated numbers may have a meaning (`32 32`, `10 cm x 10 cm`). So a phrase with digits is a repeat only if at
    least two of its words have three letters or more.
    """
    folded = title.casefold().split()
    if len(set(folded)) == len(folded):
        return title
    words = title.split()
    kept: list[str] = []
    keys: list[str] = []
    for word, key in zip(words, folded, strict=True):
        kept.append(word)
        keys.append(key)
        for length in range(1, min(_LONGEST_PHRASE, len(keys) // 2) + 1):
            phrase = keys[-length:]
            if phrase == keys[-2 * length : -length] and _is_repeat(phrase):
                # The remaining words were checked before, so they contain no shorter repeat.
                del kept[-length:], keys[-length:]
                break
    return " ".join(kept) if len(kept) < len(words) else title


def _is_repeat(phrase: list[str]) -> bool:
    numbers = sum(any(character.isdigit() for character in word) for word in phrase)
    return not numbers or sum(word.isalpha() and len(word) > 2 for word in phrase) > 1


def collapse_spaces(title: str) -> str:
    """Keep one space between words, and none at the ends or inside brackets."""
    title = " ".join(title.split())
    for loose, tight in _INNER_SPACES.items():
        title = title.replace(loose, tight)
    return title


def trim_edges(title: str) -> str:
    """Remove separators that begin or end a title."""
    return title.strip(_EDGES)


REPAIRS: dict[str, Callable[[str], str]] = {
    repair.__name__: repair
    for repair in (
        unescape_html,
        remove_tags,
        normalize_unicode,
        remove_invisible,
        remove_emoji,
        remove_symbols,
        collapse_punctuation,
        collapse_repeats,
        collapse_spaces,
        trim_edges,
    )
}
"""The repairs that `apply` of a rule may name."""
