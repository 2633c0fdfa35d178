"""What `export.py` refuses before anything is read or written."""

import pytest
import torch
from call_script import call_script
from conftest import save_checkpoint

from training import export
from training.embedding import export_checkpoint


def test_weights_that_are_not_finite_are_not_exported(tmp_path, monkeypatch):
    model, processor = save_checkpoint(tmp_path / "checkpoint")
    with torch.no_grad():
        model.text_projection.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "export")]
    monkeypatch.setattr(export_checkpoint, "read_batches", None)  # calling it would be another error
    with pytest.raises(SystemExit, match="text_projection.weight.*it is not exported"):
        call_script(export.main, words)
    assert not (tmp_path / "export").exists()
