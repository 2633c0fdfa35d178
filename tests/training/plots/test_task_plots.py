"""Plots of tasks: they show their data, and odd names and empty data do not break them."""

import numpy as np
import pytest
from PIL import Image

from training.plots.tasks import (
    ShownMistake,
    draw_bars,
    draw_confusions,
    draw_group_sizes,
    draw_mistakes,
    draw_precision_recall,
    draw_reliability,
)

NAN = float("nan")
# What a formula, a long word and other scripts would do to a plot.
ODD_NAME = "under $5 > $10_" + "a" * 60 + " Ärmel платье"


def test_bars(drawn):
    bars = {"a": {"level_1": (0.9, 0.85, 0.95), ODD_NAME: (0.5, NAN, NAN)}, "b": {"level_1": (NAN, NAN, NAN)}}
    colours, texts = drawn(draw_bars, bars, "accuracy")
    assert {"0.900", "0.500", "level 1", "a", "b"} <= set(texts) and "nan" not in texts
    assert (31, 119, 180) in colours
    with pytest.raises(ValueError, match="no metrics"):
        drawn(draw_bars, {}, "accuracy")


def test_confusions_are_counted(drawn):
    labels = ["boots"] * 5 + ["bags"] * 3 + ["hats"] * 2
    predictions = ["boots", "boots", "bags", "bags", "hats", *["bags"] * 3, *["hats"] * 2]
    _, texts = drawn(draw_confusions, labels, predictions, "kinds")
    assert "kinds: 3 of 10 wrong" in texts
    # boots: two right, two bags, one hat; bags: three right; hats: two.
    assert sorted(text for text in texts if text.isdigit()) == ["1", "2", "2", "2", "3"]
    _, texts = drawn(draw_confusions, labels, predictions, "kinds", max_classes=2)
    # Hats are left to the column of the others.
    assert "hats" not in texts and "another" in texts
    assert sorted(text for text in texts if text.isdigit()) == ["1", "2", "2", "3"]


def test_confusions_without_a_mistake_or_a_row(drawn):
    _, texts = drawn(draw_confusions, [ODD_NAME], [ODD_NAME], "kinds")
    assert "kinds: 0 of 1 wrong" in texts
    with pytest.raises(ValueError, match="is empty"):
        drawn(draw_confusions, [], [], "kinds")


def test_precision_recall(drawn):
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    curves = {
        "one": (np.array([True, False, True, False]), scores, 0.5),
        "two": (np.array([False] * 4), scores, None),
        "three": (np.array([True] * 4), scores, 2.0),
    }
    _, texts = drawn(draw_precision_recall, curves, ODD_NAME)
    assert {"one (0.833)", "two: nothing to find", "three (1.000)"} <= set(texts)


def test_group_sizes(drawn):
    sizes = {"products": np.array([1, 1, 2, 5]), "model": np.array([1, 1, 1, 40])}
    colours, texts = drawn(draw_group_sizes, sizes, "groups")
    assert {"products: 4 groups", "model: 4 groups", "5", "20 to 39", "40"} <= set(texts)
    assert {(31, 119, 180), (255, 127, 14)} <= colours
    drawn(draw_group_sizes, {"products": np.array([1])}, "groups")


def test_mistakes(drawn):
    image = Image.new("RGB", (8, 8), (10, 200, 30))
    mistakes = [
        ShownMistake([("red shoes, $5 or $6", image)], "boots (0.98)", "sandals"),
        ShownMistake([(ODD_NAME, image), ("no image here", None)], "one product", "two products"),
        ShownMistake([("offer", image)] * 9, "one group", "nine products"),
    ]
    colours, texts = drawn(draw_mistakes, mistakes, "worst mistakes", columns=3)
    assert (10, 200, 30) in colours
    assert {"boots (0.98)", "sandals", "two products", "no image", r"red shoes, \$5 or \$6"} <= set(texts)
    _, texts = drawn(draw_mistakes, [], "worst mistakes")
    assert "worst mistakes: none" in texts


def test_reliability_shows_what_there_is(drawn):
    kinds = {
        ODD_NAME: (np.array([0.9, 0.6, 1.0, 0.0]), np.array([True, False, True, False])),
        "yes": (np.empty(0), np.empty(0, dtype=bool)),
    }
    colours, texts = drawn(draw_reliability, kinds, "colours $5")
    assert (31, 119, 180) in colours
    assert any("4 answers, 50% right" in text for text in texts) and "yes: no answers" in texts
