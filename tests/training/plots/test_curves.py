"""Curves of a run: written, and not blank."""

import numpy as np
from PIL import Image

from training.plots.curves import draw_history


def test_history(tmp_path):
    recalls = {f"text_to_image_recall@{k}": 0.1 * k for k in (1, 5, 10)}
    chances = {f"chance@{k}": 0.05 * k for k in (1, 5, 10)}
    evaluation = {"samples": 0, **recalls, **chances}
    draw_history([evaluation, {"samples": 4, "loss": 1.0}, {**evaluation, "samples": 8}], tmp_path / "history.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "history.png").convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_a_smaller_last_batch_is_no_cliff(drawn):
    steps = [{"samples": 64.0 * number, "loss": 40.0 - number} for number in range(1, 6)]
    for last, is_left_out in ((384.0, False), (330.0, True)):
        history = [*steps, {"samples": last, "loss": 10.0}]
        _, texts = drawn(lambda history, path: draw_history(history, path), history)
        assert ("Training loss, without the smaller last batch" in texts) == is_left_out
        assert ("10" in texts) != is_left_out, "no axis down to a loss that is not comparable"
