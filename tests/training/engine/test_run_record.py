"""A checkpoint that is not as it was written, other data, or another run at work: refused, and no code is run."""

import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import DATA, MODEL, train_arguments
from safetensors import SafetensorError

from training.data.files import one_run_in
from training.engine.contrastive_training import train
from training.engine.run_record import RECORD_FILE, RunRecord, read_record


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    train(MODEL, DATA, train_arguments(folder, max_samples=32))
    return folder / "checkpoint-16"


@pytest.fixture
def checkpoint(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run" / stopped.name))


def resume(checkpoint, data=DATA, **fields):
    return train(MODEL, data, train_arguments(checkpoint.parent, resume_from_checkpoint="latest", **fields))


def names_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != RECORD_FILE)


def test_whatever_is_changed_in_a_checkpoint_is_named(checkpoint):
    names = names_of(checkpoint)
    assert {"model.safetensors", "progress.json", "random_state_0.pt", "training_state.pt"} <= set(names)
    read_record(checkpoint)
    for name in names:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' is not as the run wrote it.*earlier checkpoint"):
            read_record(checkpoint)
        (checkpoint / name).unlink()
        with pytest.raises(ValueError, match=f"{name}' is missing"):
            read_record(checkpoint)
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)
    read_record(checkpoint)
    (checkpoint / RECORD_FILE).write_bytes(pickle.dumps(Evil(checkpoint.parent / "mark")))
    with pytest.raises(ValueError, match="run.json' can't be read"):
        read_record(checkpoint)
    assert not (checkpoint.parent / "mark").exists()


def test_a_flipped_bit_in_the_weights_stops_a_resumed_run(checkpoint):
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors' is not as the run wrote it"):
        resume(checkpoint)


def test_no_file_of_a_checkpoint_runs_code(checkpoint):
    """Made by someone who can write the digests, too."""
    mark, record = checkpoint.parent / "mark", read_record(checkpoint)
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "this is what a pickle does"
    mark.unlink()
    for name in names_of(checkpoint):
        if name.endswith(".py") or name in ("config_sentence_transformers.json", "modules.json"):
            continue  # never read when a run resumes: the classes are those of this package
        path, as_it_was = checkpoint / name, (checkpoint / name).read_bytes()
        evil = {"optimizer": Evil(mark)} if name == "training_state.pt" else Evil(mark)
        for is_zip in (True, False) if path.suffix == ".pt" else (False,):
            torch.save(evil, path) if is_zip else path.write_bytes(pickle.dumps(evil))
            record.write(checkpoint)
            refusal = r"holds more than numbers and text.*could run code" if path.suffix == ".pt" else "."
            with pytest.raises((ValueError, OSError, SafetensorError), match=refusal):
                resume(checkpoint)
            assert not mark.exists(), name
        path.write_bytes(as_it_was)
    record.write(checkpoint)
    assert resume(checkpoint).samples == 64


def test_other_data_stop_a_resumed_run(checkpoint):
    with pytest.raises(ValueError, match=r"training offers are not those.*digest.*start a new run"):
        resume(checkpoint, replace(DATA, toy_seed=1))


def test_what_differs_is_told_apart(checkpoint, caplog):
    caplog.set_level(logging.INFO, "training")
    resume(checkpoint, replace(DATA, prefetch_factor=3), learning_rate=1e-4)
    told = [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()]
    assert [line for line in told if "learning_rate" in line] == [
        "resumed with `learning_rate` 0.0001; the run was started with 0.001"
    ]
    assert "resumed with `prefetch_factor` 3, before 2: it changes no result" in told
    assert not any("toy_offers" in line for line in told)
    assert "another run from here on" in caplog.text


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    with one_run_in(tmp_path, "output_dir"), pytest.raises(ValueError, match="another run is at work"):
        train(MODEL, DATA, train_arguments(tmp_path))
    assert train(MODEL, DATA, train_arguments(tmp_path, max_samples=16)).samples == 16


def test_files_that_were_written_again_are_told(caplog):
    then = RunRecord({}, 1, {"offers": {"rows": 2, "content": "a", "files": "b"}})
    now = RunRecord({}, 2, {"offers": {"rows": 2, "content": "a", "files": "c"}})
    now.check_data(then)
    now.tell_changes(then)
    assert "files of the offers were written again" in caplog.text and "on 2 ranks, before 1" in caplog.text
    with pytest.raises(ValueError, match="now 3 of a"):
        RunRecord({}, 1, {"offers": {"rows": 3, "content": "a", "files": "b"}}).check_data(then)
