"""Images: written, and not blank."""

import numpy as np
from PIL import Image

from modeling_eclip.plots import draw_neighbours


def num_colours(path):
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_neighbours_frame_right_green_and_wrong_red(tmp_path):
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    rows = [("cheap $5 shoes, only $3", image, [(image, True), (image, False)]), ("more", image, [])]
    draw_neighbours(rows, tmp_path / "neighbours.png")
    pixels = np.asarray(Image.open(tmp_path / "neighbours.png").convert("RGB")).reshape(-1, 3)
    assert (pixels == (44, 160, 44)).all(axis=1).any()  # tab:green
    assert (pixels == (214, 39, 40)).all(axis=1).any()  # tab:red
    assert (pixels == (10, 20, 30)).all(axis=1).any()
