"""Generated products: one silhouette per kind of product, filled with one of a few colours and patterns.

Contract: `draw_product(kind, colour, pattern, size)` returns a transparent `(size, size)` RGBA image that depends
on its arguments alone; the seller's background, light and framing come later.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from .pen import COLOURS, DARK, GLASS, LEAF, METAL, PAPER, PATTERNS, WOOD, Pen, both_sides, oval

__all__ = ["SILHOUETTES", "draw_product"]


# Fashion


def _t_shirt(pen: Pen) -> None:
    pen.area(both_sides([(38, 13), (25, 17), (4, 37), (15, 49), (27, 39), (26, 90)]))
    pen.line([(27, 40), (27, 54)])
    pen.line([(73, 40), (73, 54)])
    pen.area(oval(50, 12.5, 12, 4, 180, 360) + oval(50, 12.5, 12, 9, 0, 180), "shade")
    pen.clear(oval(50, 10.5, 10, 8, 0, 180))


def _hoodie(pen: Pen) -> None:
    pen.area(both_sides([(40, 18), (27, 23), (14, 38), (3, 82), (15, 86), (27, 54), (27, 88)]))
    pen.line([(27, 55), (28, 42)])
    pen.line([(73, 55), (72, 42)])
    pen.area([(31, 28), (31, 13), (42, 4), (58, 4), (69, 13), (69, 28), (50, 37)], "body", smooth=True)
    pen.area([(38, 25), (39, 15), (50, 10), (61, 15), (62, 25), (50, 32)], "shade", smooth=True)
    pen.line([(45, 32), (44, 48)], PAPER, 1.6)
    pen.line([(55, 32), (56, 48)], PAPER, 1.6)
    pen.area([(38, 62), (62, 62), (68, 78), (32, 78)], "shade")
    pen.box(27, 84, 73, 90, "shade")


def _trousers(pen: Pen) -> None:
    pen.area(both_sides([(32, 6), (27, 40), (22, 95), (43, 95), (50, 42)]))
    pen.box(31, 5, 69, 11, "shade")
    pen.line([(50, 11), (50, 42)])
    pen.line([(33, 14), (39, 22), (32, 26)])
    pen.line([(67, 14), (61, 22), (68, 26)])


def _skirt(pen: Pen) -> None:
    pen.area([(35, 18), (65, 18), (90, 78), (76, 85), (50, 88), (24, 85), (10, 78)])
    for top, bottom in ((41, 27), (50, 50), (59, 73)):
        pen.line([(top, 24), (bottom, 85)], "edge", 1.4)
    pen.box(34, 13, 66, 21, "shade")


def _dress(pen: Pen) -> None:
    pen.area(both_sides([(36, 6), (31, 7), (31, 20), (35, 30), (37, 44), (12, 88), (30, 93)]))
    pen.clear(oval(50, 5, 14, 13, 0, 180))
    pen.area([(37, 41), (63, 41), (64, 47), (36, 47)], "shade")
    for top, bottom in ((44, 33), (56, 67)):
        pen.line([(top, 48), (bottom, 90)])


def _bikini(pen: Pen) -> None:
    for points in ([(46, 40), (33, 14), (42, 2)], [(54, 40), (67, 14), (58, 2)], [(8, 40), (92, 40)]):
        pen.line(points, "shade", 1.8)
    pen.area([(47, 43), (18, 43), (34, 14)])
    pen.area([(53, 43), (82, 43), (66, 14)])
    pen.area(both_sides([(18, 62), (21, 69), (44, 92)]))
    for x, side in ((16, -1), (84, 1)):
        pen.line([(x, 64), (x + 7 * side, 60)], "shade", 1.8)
        pen.line([(x, 64), (x + 5 * side, 72)], "shade", 1.8)


def _lingerie_set(pen: Pen) -> None:
    for x in (30, 70):
        pen.line([(x, 28), (x + (4 if x < 50 else -4), 3)], "shade", 1.8)
    pen.area([(6, 36), (24, 31), (76, 31), (94, 36), (94, 44), (6, 44)], "shade")
    for x in (33, 67):
        pen.area([(x - 18, 25), (x, 18), (x + 16, 33), (x + 10, 47), (x - 10, 48)], "body", smooth=True)
        pen.lace([(x - 17, 24), (x, 18), (x + 14, 29)] if x < 50 else [(x + 17, 24), (x, 18), (x - 14, 29)])
    pen.area([(12, 61), (50, 65), (88, 61), (86, 71), (66, 78), (56, 92), (44, 92), (34, 78), (14, 71)])
    pen.lace([(13, 63), (50, 67), (90, 62)])
    for y in (40, 69):
        pen.area([(50, y), (44, y - 4), (44, y + 4)], DARK)
        pen.area([(50, y), (56, y - 4), (56, y + 4)], DARK)


def _chemise(pen: Pen) -> None:
    for x, top in ((33, 42), (67, 58)):
        pen.line([(x, 28), (top, 4)], "shade", 1.8)
    pen.area(both_sides([(50, 36), (34, 20), (27, 36), (33, 52), (22, 82)]))
    pen.lace([(28, 34), (34, 21), (50, 36), (66, 21), (75, 36)])
    pen.lace([(22, 84), (50, 86), (80, 84)])
    pen.area([(50, 40), (44, 36), (44, 44)], DARK)
    pen.area([(50, 40), (56, 36), (56, 44)], DARK)


# Footwear


def _sneaker(pen: Pen) -> None:
    pen.area([(26, 36), (34, 26), (46, 30), (52, 44), (38, 46)], "shade", smooth=True)
    pen.area(
        [(6, 72), (6, 54), (8, 36), (14, 30), (22, 36), (34, 40), (44, 34), (58, 48), (78, 55), (93, 62), (95, 72),
         (50, 74)],
        smooth=True,
    )  # fmt: skip
    pen.area([(76, 54), (90, 59), (96, 67), (95, 74), (72, 74), (72, 62)], PAPER, smooth=True)
    pen.area([(7, 68), (50, 71), (93, 69), (94, 78), (86, 82), (14, 82), (6, 78)], PAPER, smooth=True)
    for x, y in ((43, 38), (49, 43), (55, 48), (62, 52)):
        pen.line([(x - 5, y + 7), (x + 2, y - 1)], PAPER, 2.4)
    pen.line([(18, 50), (26, 62), (46, 56)], "edge", 3, smooth=True)


def _high_heel(pen: Pen) -> None:
    pen.area([(7, 30), (19, 44), (17, 60), (13, 90), (8, 90), (8, 60)], "shade")
    pen.area(
        [(6, 14), (12, 22), (22, 40), (38, 57), (52, 64), (62, 58), (74, 64), (88, 76), (97, 86), (88, 89), (66, 88),
         (48, 82), (30, 66), (14, 50), (6, 34)],
        smooth=True,
    )  # fmt: skip
    pen.area([(10, 22), (22, 40), (38, 57), (52, 64), (62, 59), (50, 70), (30, 60), (14, 38)], "shade", smooth=True)
    pen.line([(8, 44), (30, 67), (48, 83), (66, 89), (95, 88)], "edge", 2.4, smooth=True)


def _rain_boot(pen: Pen) -> None:
    pen.area([(28, 8), (58, 8), (58, 54), (70, 62), (86, 68), (90, 84), (26, 84)])
    pen.box(25, 6, 61, 15, "shade", 2)
    pen.area([(24, 82), (92, 82), (92, 91), (50, 91), (48, 88), (42, 91), (24, 91)], DARK)
    pen.line([(34, 22), (34, 60)], PAPER, 2)


# Accessories


def _backpack(pen: Pen) -> None:
    pen.line([(40, 12), (42, 4), (58, 4), (60, 12)], "shade", 3, smooth=True)
    pen.box(10, 44, 24, 82, "shade", 6)
    pen.box(76, 44, 90, 82, "shade", 6)
    pen.area([(18, 93), (17, 34), (28, 12), (50, 8), (72, 12), (83, 34), (82, 93)])
    pen.line([(22, 42), (24, 28), (50, 19), (76, 28), (78, 42)], METAL, 2, smooth=True)
    pen.box(26, 54, 74, 87, "shade", 6)
    pen.line([(28, 63), (72, 63)], METAL, 2)
    pen.box(47, 62, 53, 71, METAL)


def _tote_bag(pen: Pen) -> None:
    pen.line([(34, 42), (35, 14), (50, 5), (65, 14), (66, 42)], "edge", 3.6, smooth=True)
    pen.area([(16, 36), (84, 36), (90, 93), (10, 93)])
    pen.line([(16, 41), (84, 41)])
    for x in (34, 66):
        pen.box(x - 3, 36, x + 3, 46, "shade")


def _cap(pen: Pen) -> None:
    pen.area((*oval(42, 62, 34, 40, 180, 360), (76, 66), (8, 66)))
    pen.area([(40, 62), (70, 59), (90, 63), (98, 71), (90, 73), (70, 68), (42, 69)], "shade", smooth=True)
    pen.line([(42, 23), (36, 44), (36, 66)], "edge", 1.2, smooth=True)
    pen.line([(42, 23), (60, 40), (63, 62)], "edge", 1.2, smooth=True)
    pen.oval(42, 22, 4, 2.4, "shade")


def _beanie(pen: Pen) -> None:
    pen.oval(50, 17, 11, 11, PAPER)
    pen.area((*oval(50, 66, 35, 46, 180, 360), (85, 72), (15, 72)))
    pen.box(11, 62, 89, 84, "shade", 6)
    for x in range(18, 88, 8):
        pen.line([(x, 64), (x, 82)])


def _umbrella(pen: Pen) -> None:
    pen.line([(50, 6), (50, 84)], METAL, 2.4)
    pen.line([(50, 82), (51, 91), (57, 94), (63, 91), (64, 85)], WOOD, 4, smooth=True)
    pen.area((*oval(50, 54, 46, 42, 180, 360), (88, 49), (80, 47), (72, 49), (65, 55), (58, 50), (50, 47), (42, 50),
              (35, 55), (28, 49), (20, 47), (12, 49)))  # fmt: skip
    for x in (35, 65):
        pen.line([(50, 12), (x + (3 if x > 50 else -3), 32), (x, 55)], "edge", 1.4, smooth=True)


def _socks(pen: Pen) -> None:
    for x, y in ((0, 0), (28, 5)):
        points = [(18, 6), (40, 6), (40, 54), (58, 68), (66, 78), (60, 88), (48, 89), (24, 72), (17, 58)]
        pen.area([(px + x, py + y) for px, py in points])
        pen.box(17 + x, 5 + y, 41 + x, 16 + y, "shade", 1)
        pen.area([(50 + x, 62 + y), (58 + x, 68 + y), (66 + x, 78 + y), (60 + x, 88 + y), (48 + x, 89 + y)], "shade")
        pen.area([(17 + x, 52 + y), (27 + x, 61 + y), (24 + x, 72 + y), (17 + x, 60 + y)], "shade")


# Home and furniture


def _mug(pen: Pen) -> None:
    pen.line(oval(72, 52, 18, 18, -90, 90), "edge", 8)
    pen.line(oval(72, 52, 18, 18, -90, 90), "shade", 6)
    pen.area([(14, 20), (74, 20), *oval(64, 79, 9, 10, 0, 90), *oval(24, 79, 9, 10, 90, 180)])
    pen.oval(44, 20, 30, 7, PAPER)
    pen.oval(44, 21, 26, 5, (108, 70, 44))


def _teapot(pen: Pen) -> None:
    pen.line([(26, 38), (8, 38), (6, 62), (26, 72)], "edge", 6.5, smooth=True)
    pen.line([(26, 38), (8, 38), (6, 62), (26, 72)], "shade", 4.5, smooth=True)
    pen.area([(70, 72), (84, 58), (86, 40), (97, 34), (95, 44), (92, 62), (76, 82)], "shade")
    pen.oval(50, 58, 31, 29)
    pen.area([(32, 87), (68, 87), (66, 81), (34, 81)], "shade")
    pen.area(oval(50, 33, 18, 11, 180, 360), "shade")
    pen.oval(50, 20, 5, 5, "shade")


def _cushion(pen: Pen) -> None:
    pen.area([(10, 10), (50, 17), (90, 10), (84, 50), (90, 90), (50, 83), (10, 90), (16, 50)], "body", smooth=True)
    pen.line([(14, 14), (22, 24)])
    pen.line([(86, 14), (78, 24)])
    pen.line([(14, 86), (22, 76)])
    pen.line([(86, 86), (78, 76)])


def _vase(pen: Pen) -> None:
    for points, x, y in (
        ([(47, 40), (42, 24), (30, 14)], 29, 12),
        ([(50, 40), (51, 22), (52, 10)], 52, 10),
        ([(53, 40), (62, 26), (72, 20)], 73, 18),
    ):
        pen.line(points, LEAF, 2, smooth=True)
        pen.oval(x, y, 7, 7, (236, 110, 120))
        pen.oval(x, y, 2.6, 2.6, (250, 210, 80))
    pen.area(both_sides([(39, 36), (43, 46), (30, 58), (26, 72), (33, 88), (40, 95)]), "body", smooth=True)
    pen.box(38, 34, 62, 39, "shade", 2)


def _armchair(pen: Pen) -> None:
    for x in (20, 76):
        pen.area([(x, 82), (x + 5, 82), (x + 4, 96), (x + 1, 96)], WOOD)
    pen.box(20, 10, 80, 70, "body", 14)
    pen.box(24, 54, 76, 70, "shade", 5)
    pen.box(14, 68, 86, 84, "body", 3)
    pen.box(6, 42, 25, 86, "body", 8)
    pen.box(75, 42, 94, 86, "body", 8)


def _table_lamp(pen: Pen) -> None:
    pen.line([(50, 50), (50, 86)], METAL, 4)
    pen.oval(50, 70, 7, 9, METAL)
    pen.box(32, 86, 68, 93, METAL, 3)
    pen.oval(50, 55, 7, 7, (255, 232, 150))
    pen.area([(33, 8), (67, 8), (86, 54), (14, 54)])
    pen.line([(14, 53), (86, 53)], "edge", 2)
    pen.line([(64, 54), (64, 66)], DARK, 1)


# Electronics


def _headphones(pen: Pen) -> None:
    pen.line(oval(50, 52, 36, 40, 180, 360), "edge", 9)
    pen.line(oval(50, 52, 36, 40, 180, 360), "shade", 7)
    for x in (16, 84):
        inner = x + (9 if x < 50 else -9)
        pen.box(inner - 6, 50, inner + 6, 88, DARK, 5)
        pen.box(x - 12, 46, x + 9 if x < 50 else x + 12, 92, "body", 9)


def _smartwatch(pen: Pen) -> None:
    pen.area([(32, 3), (68, 3), (71, 40), (29, 40)])
    pen.area([(29, 60), (71, 60), (68, 97), (32, 97)])
    pen.box(76, 45, 82, 55, METAL, 2)
    pen.box(24, 29, 76, 71, METAL, 13)
    pen.box(29, 34, 71, 66, (24, 28, 40), 9)
    pen.line([(50, 40), (50, 50), (59, 55)], PAPER, 2.6)
    for x, y in ((50, 37), (50, 63), (33, 50), (67, 50)):
        pen.oval(x, y, 1.2, 1.2, (120, 220, 190))


def _phone_case(pen: Pen) -> None:
    pen.box(24, 3, 76, 97, "body", 11)
    pen.line([(76, 28), (76, 44)], METAL, 2.4)
    pen.box(29, 8, 52, 31, DARK, 6)
    for x, y in ((35.5, 14.5), (45.5, 14.5), (35.5, 24.5)):
        pen.oval(x, y, 4.2, 4.2, (96, 112, 140))
    pen.oval(45.5, 24.5, 1.8, 1.8, (255, 240, 190))


# Toys


def _ball(pen: Pen) -> None:
    pen.oval(50, 50, 42, 42)
    for points in ([(50, 8), (26, 30), (22, 68), (36, 89)], [(50, 8), (76, 30), (80, 66), (66, 89)]):
        pen.line(points, "edge", 1.8, smooth=True)
    pen.oval(50, 11, 8, 4, PAPER)


def _kite(pen: Pen) -> None:
    pen.line([(54, 70), (42, 80), (56, 86), (44, 97)], DARK, 1.4, smooth=True)
    for x, y in ((46, 78), (51, 84), (47, 93)):
        pen.area([(x, y), (x - 6, y - 4), (x - 6, y + 3)], (226, 60, 70))
        pen.area([(x, y), (x + 6, y - 3), (x + 6, y + 4)], (226, 60, 70))
    pen.area([(50, 3), (86, 30), (54, 72), (16, 32)])
    pen.line([(50, 3), (54, 72)], WOOD, 1.8)
    pen.line([(16, 32), (86, 30)], WOOD, 1.8)


def _teddy_bear(pen: Pen) -> None:
    for side in (-1, 1):
        pen.oval(50 + 20 * side, 13, 9, 9)
        pen.oval(50 + 20 * side, 13, 4.5, 4.5, "shade")
        pen.area(oval(50 + 30 * side, 59, 11, 8))
        pen.oval(50 + 22 * side, 86, 13, 11)
        pen.oval(50 + 23 * side, 87, 7, 6, (240, 218, 188))
    pen.oval(50, 68, 25, 25)
    pen.oval(50, 29, 26, 23)
    pen.oval(50, 37, 12, 9, (240, 218, 188))
    pen.oval(50, 33, 4, 3, DARK)
    pen.line([(45, 39), (50, 42), (55, 39)], DARK, 1.4, smooth=True)
    for x in (39, 61):
        pen.oval(x, 25, 2.8, 2.8, DARK)
    for side in (-1, 1):
        pen.area([(50, 54), (50 + 11 * side, 49), (50 + 11 * side, 59)], (226, 60, 70))


def _toy_car(pen: Pen) -> None:
    pen.area([(4, 70), (6, 52), (22, 48), (34, 29), (66, 29), (80, 47), (94, 53), (96, 70)])
    pen.area([(28, 48), (37, 34), (49, 34), (49, 48)], GLASS)
    pen.area([(53, 48), (53, 34), (64, 34), (73, 48)], GLASS)
    pen.oval(92, 56, 3, 3, (255, 232, 150))
    pen.line([(51, 52), (51, 68)])
    for x in (24, 75):
        pen.oval(x, 70, 12, 12, DARK)
        pen.oval(x, 70, 5.5, 5.5, METAL)


SILHOUETTES: dict[str, Callable[[Pen], None]] = {
    "Armchair": _armchair,
    "Backpack": _backpack,
    "Ball": _ball,
    "Beanie": _beanie,
    "Bikini": _bikini,
    "Cap": _cap,
    "Chemise": _chemise,
    "Cushion": _cushion,
    "Dress": _dress,
    "Headphones": _headphones,
    "High Heels": _high_heel,
    "Hoodie": _hoodie,
    "Kite": _kite,
    "Lingerie Set": _lingerie_set,
    "Mug": _mug,
    "Phone Case": _phone_case,
    "Rain Boots": _rain_boot,
    "Skirt": _skirt,
    "Smartwatch": _smartwatch,
    "Sneakers": _sneaker,
    "Socks": _socks,
    "T-Shirt": _t_shirt,
    "Table Lamp": _table_lamp,
    "Teapot": _teapot,
    "Teddy Bear": _teddy_bear,
    "Tote Bag": _tote_bag,
    "Toy Car": _toy_car,
    "Trousers": _trousers,
    "Umbrella": _umbrella,
    "Vase": _vase,
}


def draw_product(kind: str, colour: str, pattern: str, size: int) -> Image.Image:
    """Draw one product on a transparent ground.

    Args:
        kind: A key of `SILHOUETTES`.
        colour: A key of `COLOURS`.
        pattern: One of `PATTERNS`.
        size: Side of the square image in pixels.

    Returns:
        An RGBA image of `(size, size)` pixels.

    Raises:
        ValueError: If `kind`, `colour` or `pattern` is not one of those that can be drawn.
    """
    for field, value, known in (
        ("kind", kind, SILHOUETTES),
        ("colour", colour, COLOURS),
        ("pattern", pattern, PATTERNS),
    ):
        if value not in known:
            raise ValueError(f"{field}={value!r} cannot be drawn; choose one of {', '.join(known)}.")
    pen = Pen(colour, pattern, size)
    SILHOUETTES[kind](pen)
    return pen.image
