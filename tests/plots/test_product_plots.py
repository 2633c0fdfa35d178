"""Pictures: written, and not blank."""

import numpy as np
from PIL import Image

from modeling_eclip.plots.products import draw_history, draw_neighbours


def num_colours(path):
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_history(tmp_path):
    recalls = {f"text_to_image_recall@{k}": 0.1 * k for k in (1, 5, 10)}
    chances = {f"chance@{k}": 0.05 * k for k in (1, 5, 10)}
    evaluation = {"samples": 0, **recalls, **chances}
    draw_history([evaluation, {"samples": 4, "loss": 1.0}, {**evaluation, "samples": 8}], tmp_path / "history.png")
    assert num_colours(tmp_path / "history.png") > 100


def test_neighbours_frame_right_green_and_wrong_red(tmp_path):
    picture = Image.new("RGB", (8, 8), (10, 20, 30))
    rows = [("cheap $5 shoes, only $3", picture, [(picture, True), (picture, False)]), ("more", picture, [])]
    draw_neighbours(rows, tmp_path / "neighbours.png")
    pixels = np.asarray(Image.open(tmp_path / "neighbours.png").convert("RGB")).reshape(-1, 3)
    assert (pixels == (44, 160, 44)).all(axis=1).any()  # tab:green
    assert (pixels == (214, 39, 40)).all(axis=1).any()  # tab:red
    assert (pixels == (10, 20, 30)).all(axis=1).any()
