"""A pen for generated products: colours, patterns, and areas, lines and curves on a square of 100 by 100 units.

Contract: everything here is a function of its arguments; x runs to the right, y downwards, and a unit is a hundredth
of the image's side, so that one drawing can be rendered at any size.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

__all__ = ["COLOURS", "DARK", "GLASS", "LEAF", "METAL", "PAPER", "PATTERNS", "WOOD", "Pen", "both_sides", "oval"]

Rgb = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Rgb] = {
    "black": (44, 44, 50),
    "white": (246, 246, 243),
    "red": (206, 38, 46),
    "orange": (243, 128, 34),
    "yellow": (249, 211, 60),
    "green": (46, 142, 78),
    "blue": (38, 92, 196),
    "purple": (124, 66, 164),
    "pink": (245, 150, 186),
    "brown": (120, 78, 48),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "floral")

METAL, DARK, WOOD, PAPER, GLASS, LEAF = (
    (172, 178, 188), (52, 54, 62), (178, 128, 82), (250, 250, 248), (176, 212, 232), (88, 142, 84),
)  # fmt: skip
_LIGHT_COLOURS = frozenset({"white", "yellow", "pink", "orange"})


def _mix(colour: Rgb, other: Rgb, share: float) -> Rgb:
    """Mix `share` of `other` into `colour`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


@functools.lru_cache(maxsize=128)
def _texture(colour: str, pattern: str, size: int) -> Image.Image:
    """Fill a square of `size` pixels with a pattern, the named colour covering most of it."""
    base = COLOURS[colour]
    ink = (40, 46, 84) if colour in _LIGHT_COLOURS else (250, 247, 238)
    texture = Image.new("RGBA", (size, size), (*base, 255))
    draw, unit = ImageDraw.Draw(texture), size / 100
    if pattern == "striped":
        for y in range(2, 100, 9):
            draw.rectangle((0, y * unit, size, (y + 3) * unit), fill=ink)
    elif pattern == "dotted":
        for row, y in enumerate(range(2, 104, 7)):
            for x in range(0 if row % 2 else 5, 104, 10):
                draw.ellipse(((x - 2) * unit, (y - 2) * unit, (x + 2) * unit, (y + 2) * unit), fill=ink)
    elif pattern == "checked":
        half = _mix(base, ink, 0.5)
        for at in range(0, 100, 12):
            draw.rectangle((at * unit, 0, (at + 5) * unit, size), fill=half)
            draw.rectangle((0, at * unit, size, (at + 5) * unit), fill=half)
        for x in range(0, 100, 12):
            for y in range(0, 100, 12):
                draw.rectangle((x * unit, y * unit, (x + 5) * unit, (y + 5) * unit), fill=ink)
    elif pattern == "zigzag":
        for y in range(-6, 106, 11):
            points = [(x * unit, (y + (6 if step % 2 else 0)) * unit) for step, x in enumerate(range(0, 108, 7))]
            draw.line(points, fill=ink, width=round(2.6 * unit))
    elif pattern == "floral":
        for row, y in enumerate(range(5, 108, 14)):
            for x in range(5 if row % 2 else 14, 108, 18):
                for dx, dy in ((0, -3.4), (3.2, -1.1), (2.0, 2.8), (-2.0, 2.8), (-3.2, -1.1)):
                    left, top = x + dx - 2.2, y + dy - 2.2
                    draw.ellipse((left * unit, top * unit, (left + 4.4) * unit, (top + 4.4) * unit), fill=ink)
                centre = (250, 196, 40) if ink[0] > 200 else (226, 60, 70)
                draw.ellipse(((x - 1.5) * unit, (y - 1.5) * unit, (x + 1.5) * unit, (y + 1.5) * unit), fill=centre)
    return texture


@functools.lru_cache(maxsize=512)
def _smooth(points: tuple[Point, ...], closed: bool) -> tuple[Point, ...]:
    """Pass a Catmull-Rom spline through `points`."""
    count, steps = len(points), 8
    curve = []
    for index in range(count if closed else count - 1):
        if closed:
            a, b, c, d = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        else:
            a, b, c, d = (points[min(max(index + offset, 0), count - 1)] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            x, y = (
                0.5 * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t * t + (3 * q - p - 3 * r + s) * t**3)
                for p, q, r, s in zip(a, b, c, d, strict=True)
            )
            curve.append((x, y))
    return tuple(curve) if closed else (*curve, points[-1])


def both_sides(left: Sequence[Point]) -> tuple[Point, ...]:
    """Close a left half, listed from top to bottom, with its mirror image."""
    return (*left, *((100 - x, y) for x, y in reversed(left)))


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> tuple[Point, ...]:
    """Points of an ellipse from `start` to `end` degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 32) for step in range(33)]
    return tuple((x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles)


class Pen:
    """Draws one product on a transparent square, in units of a hundredth of its side.

    A fill is an RGB colour, `"body"` for the product's own colour and pattern, or `"shade"` for a darker tone of it.

    Args:
        colour: A key of `COLOURS`.
        pattern: One of `PATTERNS`.
        size: Side of the image in pixels.
    """

    def __init__(self, colour: str, pattern: str, size: int):
        """Start an empty image."""
        self.image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self.draw, self.unit = ImageDraw.Draw(self.image), size / 100
        self.texture = _texture(colour, pattern, size)
        base = COLOURS[colour]
        # A white product must keep an edge on a white page, a black one its seams.
        self.edge = _mix(base, (255, 255, 255), 0.3) if colour == "black" else _mix(base, (30, 30, 40), 0.4)
        self.shade = _mix(base, (255, 255, 255), 0.16) if colour == "black" else _mix(base, (30, 30, 40), 0.22)

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.unit, y * self.unit) for x, y in points]

    def area(self, points: Sequence[Point], fill: str | Rgb = "body", smooth: bool = False) -> None:
        """Fill a polygon, or the closed curve through its points."""
        pixels = self._scaled(_smooth(tuple(points), True) if smooth else points)
        if fill == "body":
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(pixels, fill=255)
            self.image.paste(self.texture, mask=mask)
        else:
            self.draw.polygon(pixels, fill=self._ink(fill))
        edge = self.edge if isinstance(fill, str) else _mix(fill, (30, 30, 40), 0.3)
        self.draw.line([*pixels, pixels[0]], fill=edge, width=max(1, round(0.9 * self.unit)), joint="curve")

    def oval(self, x: float, y: float, rx: float, ry: float, fill: str | Rgb = "body") -> None:
        """Fill an ellipse of the given centre and radii."""
        self.area(oval(x, y, rx, ry), fill)

    def box(
        self, x: float, y: float, right: float, bottom: float, fill: str | Rgb = "body", round_: float = 0
    ) -> None:
        """Fill a rectangle with corners of radius `round_`."""
        r = min(round_, (right - x) / 2, (bottom - y) / 2)
        if r <= 0:
            self.area([(x, y), (right, y), (right, bottom), (x, bottom)], fill)
            return
        corners = ((right - r, bottom - r, 0), (x + r, bottom - r, 90), (x + r, y + r, 180), (right - r, y + r, 270))
        self.area([point for cx, cy, at in corners for point in oval(cx, cy, r, r, at, at + 90)[::4]], fill)

    def line(self, points: Sequence[Point], ink: str | Rgb = "edge", width: float = 1, smooth: bool = False) -> None:
        """Draw a line with round ends, or the open curve through its points."""
        pixels = self._scaled(_smooth(tuple(points), False) if smooth else points)
        colour, thick = self._ink(ink), max(1, round(width * self.unit))
        self.draw.line(pixels, fill=colour, width=thick, joint="curve")
        if thick > 2:
            for x, y in (pixels[0], pixels[-1]):
                self.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def clear(self, points: Sequence[Point]) -> None:
        """Cut a hole."""
        self.draw.polygon(self._scaled(points), fill=(0, 0, 0, 0))

    def lace(self, points: Sequence[Point]) -> None:
        """Hang scallops along a line."""
        for (x, y), (right, bottom) in itertools.pairwise(points):
            count = round(math.hypot(right - x, bottom - y) / 3.6)
            for step in range(count + 1):
                t = step / count
                self.oval(x + (right - x) * t, y + (bottom - y) * t, 2, 2, "shade")

    def _ink(self, name: str | Rgb) -> Rgb:
        return {"edge": self.edge, "shade": self.shade}[name] if isinstance(name, str) else name
