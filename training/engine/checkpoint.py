"""Checkpoints: written whole or not at all; each is also a model folder that `from_pretrained` reads.

`checkpoint-<samples seen>/` holds what `from_pretrained` reads (weights, configuration, code, processor; with
`--merge false` adapters alone) and, beside it, what resuming needs: `progress.json`, `training_state.pt`
(optimizer, averages, ...), `random_state_<rank>.pt`, and `run.json`, which says what the run is and what the other
files are.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from modeling_eclip import EClipProcessor
from training.data.files import write_json
from training.engine.run_record import RECORD_FILE, RunRecord
from training.engine.state_files import random_state, read_tensors, set_random_state, write_tensors

logger = logging.getLogger("training")

_NAME = re.compile(r"checkpoint-(\d+)")
_PARTIAL = ".partial"
_PLAIN_FILE, _STATE_FILE = "progress.json", "training_state.pt"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        output_dir: The run's folder.
        accelerator: The process's accelerator.
        plain: Objects with `state_dict` and `load_state_dict` that every checkpoint holds, by name; of values that
            JSON has.
        kept: The same of tensors.
        record: What the run is.
        save_model: Writes the model into a folder, as `from_pretrained` reads it; called on the main process.
        processor: Saved with every checkpoint.
        limit: How many checkpoints are kept.
    """

    def __init__(
        self,
        output_dir: Path,
        accelerator: Accelerator,
        *,
        plain: Mapping[str, Any],
        kept: Mapping[str, Any],
        record: RunRecord,
        save_model: Callable[[Path], None],
        processor: EClipProcessor,
        limit: int,
    ) -> None:
        """Keep the arguments."""
        self.output_dir = output_dir
        self.accelerator = accelerator
        self.save_model = save_model
        self.processor = processor
        self.limit = limit
        self.plain, self.kept, self.record = dict(plain), dict(kept), record
        if accelerator.scaler is not None:
            self.kept["scaler"] = accelerator.scaler

    def save(self, samples_seen: int) -> Path:
        """Write a checkpoint; all ranks call this together.

        Args:
            samples_seen: Samples that the model has been trained on.

        Returns:
            The folder.
        """
        final = self.output_dir / f"checkpoint-{samples_seen}"
        if final.exists():  # of this very moment of the run
            return final
        partial = self.output_dir / f"checkpoint-{samples_seen}{_PARTIAL}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        write_tensors(random_state(self.accelerator.device), partial / self._random_file)
        if self.accelerator.is_main_process:
            self.save_model(partial)
            self.processor.save_pretrained(partial)
            write_json(_states(self.plain), partial / _PLAIN_FILE)
            write_tensors(_states(self.kept), partial / _STATE_FILE)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.record.write(partial)
            _flush(partial)
            shutil.rmtree(final, ignore_errors=True)
            # A folder is renamed in one piece: it is there whole or it is not.
            os.replace(partial, final)
            _flush_folder(self.output_dir)
            for old in find_checkpoints(self.output_dir)[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return final

    def load(self, folder: Path) -> None:
        """Restore optimizer, random states and progress; the model is built from the folder by the caller.

        Raises:
            ValueError: the checkpoint's optimizer is of other parameters, or a file is not what a run writes.
        """
        states = json.loads((folder / _PLAIN_FILE).read_text(encoding="utf-8")) | read_tensors(folder / _STATE_FILE)
        objects = self.plain | self.kept
        if differing := sorted(states.keys() ^ objects.keys()):
            raise ValueError(
                f"{str(folder)!r} {'lacks' if differing[0] in objects else 'holds'} `{differing[0]}`, unlike this "
                "run; resume with the same `ema_decay`, `lora_rank`, `merge`, `method` and `mixed_precision`."
            )
        for name, thing in objects.items():
            try:
                thing.load_state_dict(states[name])
            except ValueError as error:
                if name != "optimizer":
                    raise
                raise ValueError(
                    f"{str(folder)!r} was trained with other parameters, or others frozen ({error}); resume with the "
                    "same `freeze`, `loss` and `no_weight_decay`."
                ) from error
        path, device = folder / self._random_file, self.accelerator.device
        # A rank more than there were has none; a file that was there and is not is found by its digest before.
        if not path.is_file() or not set_random_state(read_tensors(path), device):
            logger.warning(
                "%r holds no random state of rank %s on a device like %s: dropout is not that of a run that was never "
                "stopped",
                str(folder),
                self.accelerator.process_index,
                device.type,
            )

    @property
    def _random_file(self) -> str:
        return f"random_state_{self.accelerator.process_index}.pt"


def _states(objects: Mapping[str, Any]) -> dict[str, Any]:
    return {name: thing.state_dict() for name, thing in objects.items()}


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Return the whole checkpoints of a run, the oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def choose_checkpoint(output_dir: Path, resume_from: str | None, *, overwrite: bool) -> Path | None:
    """Decide what a run starts from.

    Args:
        output_dir: The run's folder.
        resume_from: `"latest"`, a folder, or nothing.
        overwrite: Whether checkpoints of an earlier run may be removed.

    Returns:
        The checkpoint to resume from, or `None` to start anew.

    Raises:
        ValueError: there is nothing to resume from, or something that would be overwritten.
    """
    existing = find_checkpoints(output_dir)
    if resume_from is None:
        models = (output_dir / "model.safetensors", output_dir / "adapter_model.safetensors")
        left = [path.name for path in (*existing, *models) if path.exists()]
        if left and not overwrite:
            raise ValueError(
                f"`output_dir` {str(output_dir)!r} holds {left[-1]} of an earlier run; continue that with "
                "`--resume_from_checkpoint latest`, start anew with `--overwrite_output_dir true`, or choose another."
            )
        return None
    if resume_from == "latest":
        if not existing:
            raise ValueError(f"`resume_from_checkpoint` is 'latest', but {str(output_dir)!r} holds no checkpoint.")
        return existing[-1]
    folder = Path(resume_from)
    if not (folder / RECORD_FILE).is_file():
        raise ValueError(
            f"`resume_from_checkpoint` is {resume_from!r}, which is no checkpoint of a run; name a folder called "
            "checkpoint-<samples>. To start a new run from a model, give it as `checkpoint`."
        )
    later = _later_than(folder, existing)
    if later and not overwrite:
        raise ValueError(
            f"`output_dir` {str(output_dir)!r} holds {later[-1].name}, later than {folder.name}; resume from "
            "'latest', or drop the later ones with `--overwrite_output_dir true`."
        )
    return folder


def remove_checkpoints(output_dir: Path, resume_from: Path | None) -> None:
    """Remove what an earlier run wrote and this one will not go on from.

    Args:
        output_dir: The run's folder. Only names that a run writes are touched.
        resume_from: The checkpoint that is resumed from; it and earlier ones stay.
    """
    existing = find_checkpoints(output_dir)
    stale = existing if resume_from is None else _later_than(resume_from, existing)
    for path in (*stale, *output_dir.glob(f"checkpoint-*{_PARTIAL}")):
        shutil.rmtree(path)


def _later_than(folder: Path, existing: list[Path]) -> list[Path]:
    places = [place for place, path in enumerate(existing) if path.resolve() == folder.resolve()]
    return existing[places[0] + 1 :] if places else []


def _flush(folder: Path) -> None:
    """Have the disk hold the files before the name says that they are whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "r+b") as file:  # Windows flushes no file that is opened to be read
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Progress:
    """How far a run is: what a resumed run must know beside weights and optimizer.

    Args:
        samples_seen: Samples that the model has been trained on, unusable ones included.
        seconds: Time spent training, evaluation and checkpoints not counted.
        waiting_seconds: What of it was spent waiting for data.
        history: One record per report, for the plot at the end.
        skips: Counts of unusable rows.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.samples_seen = 0
        self.seconds = 0.0
        self.waiting_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.skips: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values and tensors."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take everything from a checkpoint."""
        vars(self).update(state)


__all__ = ["Checkpoints", "Progress", "choose_checkpoint", "find_checkpoints", "remove_checkpoints"]
