"""Checkpoints: written whole or not at all, and a model folder like any other besides.

`checkpoint-<samples seen>/` holds what `from_pretrained` reads (weights, configuration, code, processor) and, beside
it, what resuming needs (optimizer, random states of every rank, progress).
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor

_NAME = re.compile(r"checkpoint-(\d+)")
_PARTIAL = ".partial"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        output_dir: The run's folder.
        accelerator: The process's accelerator, after everything is prepared.
        model: The model, not wrapped.
        processor: Saved with every checkpoint.
        progress: Object with `state_dict` and `load_state_dict`, saved with every checkpoint.
        limit: How many checkpoints are kept.
    """

    def __init__(
        self,
        output_dir: Path,
        accelerator: Accelerator,
        model: EClipModel,
        processor: EClipProcessor,
        progress: Any,
        limit: int,
    ) -> None:
        """Tell accelerate to leave the model's weights to `save_pretrained`."""
        self.output_dir = output_dir
        self.accelerator = accelerator
        self.model = model
        self.processor = processor
        self.limit = limit
        accelerator.register_for_checkpointing(progress)
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def save(self, samples_seen: int) -> Path:
        """Write a checkpoint; all ranks call this together.

        Args:
            samples_seen: Samples that the model has been trained on.

        Returns:
            The folder.
        """
        final = self.output_dir / f"checkpoint-{samples_seen}"
        partial = self.output_dir / f"checkpoint-{samples_seen}{_PARTIAL}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        if self.accelerator.is_main_process:
            self.model.save_pretrained(partial)
            self.processor.save_pretrained(partial)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _flush(partial)
            shutil.rmtree(final, ignore_errors=True)
            # A folder is renamed in one piece: it is there whole or it is not.
            os.replace(partial, final)
            for old in find_checkpoints(self.output_dir)[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return final

    def load(self, folder: Path) -> None:
        """Restore optimizer, random states and progress; the model is built from the folder by the caller."""
        self.accelerator.load_state(str(folder))


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
        if existing and not overwrite:
            raise ValueError(
                f"`output_dir` {str(output_dir)!r} holds {existing[-1].name} of an earlier run; continue it with "
                "`--resume_from_checkpoint latest`, start anew with `--overwrite_output_dir true`, or choose another."
            )
        return None
    if resume_from == "latest":
        if not existing:
            raise ValueError(f"`resume_from_checkpoint` is 'latest', but {str(output_dir)!r} holds no checkpoint.")
        return existing[-1]
    folder = Path(resume_from)
    if not (folder / "config.json").is_file():
        raise ValueError(f"`resume_from_checkpoint` is {resume_from!r}, which is no checkpoint folder.")
    return folder


def remove_checkpoints(output_dir: Path) -> None:
    """Remove every checkpoint of an earlier run, whole or not."""
    for path in output_dir.glob("checkpoint-*"):
        shutil.rmtree(path)


def _flush(folder: Path) -> None:
    """Have the disk hold the files before the name says that they are whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


class Progress:
    """How far a run is: what a resumed run must know beside weights and optimizer.

    Args:
        samples_seen: Samples that the model has been trained on, unusable ones included.
        history: One record per report, for the picture at the end.
        skips: Counts of unusable rows.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.samples_seen = 0
        self.history: list[dict[str, float]] = []
        self.skips: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values and tensors."""
        return {"samples_seen": torch.tensor(self.samples_seen), "history": self.history, "skips": self.skips}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take everything from a checkpoint."""
        self.samples_seen = int(state["samples_seen"])
        self.history = list(state["history"])
        self.skips = dict(state["skips"])


__all__ = ["Checkpoints", "Progress", "choose_checkpoint", "find_checkpoints", "remove_checkpoints"]
