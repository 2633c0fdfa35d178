"""Checkpoints are on the disk before their name says so, on every system."""

import os

import pytest

from training.engine.checkpoint import _flush

fcntl = pytest.importorskip("fcntl")


def test_files_are_flushed_where_a_system_opens_no_folder(tmp_path, monkeypatch):
    """As on Windows, which also flushes no file that is opened to be read."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights").write_bytes(b"1")
    flushed, open_file = [], os.open

    def open_no_folder(path, *arguments, **keywords):
        if os.path.isdir(path):
            raise PermissionError(path)
        return open_file(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", open_no_folder)
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    _flush(tmp_path)
    assert flushed == [os.O_RDWR]
    assert (tmp_path / "part" / "weights").read_bytes() == b"1"
