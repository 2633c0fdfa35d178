"""What `export.py` refuses before anything is read or written."""

import sys

import pytest
import torch
from conftest import save_checkpoint

from training import export


def test_weights_that_are_not_finite_are_not_exported(tmp_path, monkeypatch):
    model, processor = save_checkpoint(tmp_path / "checkpoint")
    with torch.no_grad():
        model.text_projection.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "export")]
    monkeypatch.setattr(sys, "argv", ["export.py", *words])
    monkeypatch.setattr(export, "read_batches", None)  # calling it would be another error
    with pytest.raises(FloatingPointError, match="text_projection.weight.*it is not exported"):
        export.main()
    assert not (tmp_path / "export").exists()
