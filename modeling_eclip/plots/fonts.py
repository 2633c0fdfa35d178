"""Text of any script in images: a character that no installed font has is drawn as a box."""

import functools
import itertools
import unicodedata

from matplotlib import font_manager

__all__ = ["drawable", "fonts"]

# Fonts with the characters that matplotlib's own lacks, as the common systems bring them.
_FONT = "DejaVu Sans"
_OTHER_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans CJK JP"),
    *("Microsoft YaHei", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans", "Noto Emoji", "Symbola", "Unifont"),
)
_BOX = "□"


@functools.cache
def fonts() -> tuple[tuple[str, ...], frozenset[int]]:
    """Return the fonts at hand, matplotlib's own first, and the characters that they have."""
    at_hand = set(font_manager.get_font_names())
    families = (_FONT, *(family for family in _OTHER_FONTS if family in at_hand))
    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in families]
    return families, frozenset(itertools.chain.from_iterable(font.get_charmap() for font in fonts))


def drawable(text: str) -> str:
    """Return a text in characters that the fonts at hand have.

    A wide character is followed by a space of no width, so that lines are broken at as many columns as are drawn.
    """
    characters = fonts()[1]
    drawn = []
    for character in " ".join(text.split()):
        if ord(character) not in characters:
            if unicodedata.category(character) in ("Cf", "Mn"):  # joiners and variants: nothing of their own
                continue
            character = _BOX
        drawn.append(character + "\u200b" * (character == _BOX or unicodedata.east_asian_width(character) in "FW"))
    return "".join(drawn)
