"""TF32 is what the arguments say, in the towers of a run."""

import pytest
import torch
from conftest import DATA, MODEL, train_arguments

from modeling_eclip import EClipModel
from training.engine.contrastive_training import train
from training.engine.tower_products import allow_tf32


@pytest.fixture(autouse=True)
def as_before():
    yield
    allow_tf32(False)


@pytest.mark.parametrize("allowed", [True, False])
def test_towers_are_in_tf32_if_asked(allowed, tmp_path, monkeypatch):
    allow_tf32(not allowed)  # what something else in the process has left
    found = set()
    forward = EClipModel.forward

    def recording_forward(self, *args, **kwargs):
        found.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(EClipModel, "forward", recording_forward)
    train(MODEL, DATA, train_arguments(tmp_path, max_samples=32, save_every_samples=None, tf32=allowed))
    assert found == {("high" if allowed else "highest", allowed)}
    assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")  # the loss has put it back
