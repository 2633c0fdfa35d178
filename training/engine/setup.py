"""The start of every training script: where to start from, accelerate, logging, and a file of the arguments.

What accelerate can be set to and this package cannot do is refused here, before any data is read.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, parse_flag_from_env

from training.arguments.train import TrainArguments
from training.data.files import one_run_in, write_json
from training.data.ranks import LONGEST_WAIT, from_main
from training.engine.checkpoint import choose_checkpoint, remove_checkpoints
from training.engine.precision import training_precision
from training.engine.run_record import RunRecord, read_record

logger = logging.getLogger("training")

_WHOLE_WEIGHTS = "shards the weights, and averages, evaluation and checkpoints of a run are of whole ones"
_NO_FLOAT64 = "it computes no float64, in which the loss adds up its exponentials"
# Variables by which `accelerate launch` asks for what does not work here, and why it does not.
_REFUSED_SETTINGS = {
    "ACCELERATE_USE_FSDP": (
        f"FSDP {_WHOLE_WEIGHTS}; in a loop of your own `fully_shard` goes with `MultiStreamAccumulation` "
        "(training/SCALING.md)"
    ),
    "ACCELERATE_USE_DEEPSPEED": (
        "DeepSpeed's engine runs the backward pass and the optimizer itself, and reduces gradients in each pass; a "
        "step here has a backward pass for each stream, one reduction, and is left out where it is not finite"
    ),
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM trains models that are written in its own layers, and towers are not",
    "ACCELERATE_USE_PARALLELISM_CONFIG": f"a parallel mesh {_WHOLE_WEIGHTS}",
}
_REFUSED_TYPES = {
    DistributedType.FSDP: _REFUSED_SETTINGS["ACCELERATE_USE_FSDP"],
    DistributedType.DEEPSPEED: _REFUSED_SETTINGS["ACCELERATE_USE_DEEPSPEED"],
    DistributedType.MEGATRON_LM: _REFUSED_SETTINGS["ACCELERATE_USE_MEGATRON_LM"],
    DistributedType.XLA: (
        "XLA compiles a program for every shape, and shapes here depend on the data: titles are trimmed, and "
        "catalogs counted"
    ),
    DistributedType.MULTI_HPU: _NO_FLOAT64,
}
_REFUSED_DEVICES = {"hpu": _NO_FLOAT64, "mps": _NO_FLOAT64}
_SUPPORTED_TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU")


def open_accelerator(*, longest_wait: timedelta = LONGEST_WAIT, **settings: Any) -> Accelerator:
    """Open accelerate as it was launched; all ranks call this together, before they read data or build models.

    Args:
        longest_wait: How long ranks wait for each other.
        **settings: Further arguments of `Accelerator`.

    Returns:
        The process's accelerator.

    Raises:
        NotImplementedError: it was launched in a way, or on a device, that cannot work.
        ValueError: it was told to accumulate gradients, or it does not see the processes that were started.
    """
    for name, reason in _REFUSED_SETTINGS.items():
        if parse_flag_from_env(name):
            raise _refusal(f"{name}={os.environ[name]}", reason)
    # accelerate divides each backward pass by this, whoever steps how often
    if (steps := os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) != "1":
        raise ValueError(
            f"`ACCELERATE_GRADIENT_ACCUMULATION_STEPS` is {steps!r}, by which gradients would be divided, though "
            "every batch is a step here; unset it. For a batch that does not fit, give `text_stream_size` and "
            "`image_stream_size`."
        )
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=longest_wait)], **settings)
    kind = accelerator.distributed_type
    if kind.value not in _SUPPORTED_TYPES:
        raise _refusal(kind.value, _REFUSED_TYPES.get(kind, "this package has not been tried on it"))
    if (device := accelerator.device.type) in _REFUSED_DEVICES:
        raise _refusal(f"the device {device!r}", _REFUSED_DEVICES[device])
    # Without a GPU, accelerate takes each process for a run of its own: all would write to one folder.
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were started (`WORLD_SIZE`), but accelerate sees {accelerator.num_processes}; on "
            "CPUs set `ACCELERATE_USE_CPU=true`, as in `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N`."
        )
    # `accelerate launch` sets a port where it is asked for several processes, and a rank where it starts them.
    was_asked = parse_flag_from_env("ACCELERATE_USE_CPU") and "MASTER_PORT" in os.environ
    if was_asked and accelerator.num_processes == 1 and not {"RANK", "LOCAL_RANK"} & os.environ.keys():
        logger.warning(
            "this run has one rank: `accelerate launch --cpu --num_processes N` starts a single process, unless it "
            "has a file of hosts for mpirun. Use `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N`."
        )
    return accelerator


def _refusal(setting: str, reason: str) -> NotImplementedError:
    return NotImplementedError(
        f"`accelerate` is set to {setting}, which cannot work here: {reason}. Use plain multi-GPU training "
        "(DistributedDataParallel), or the CPU by ACCELERATE_USE_CPU=true; where a tower does not fit, use smaller "
        "streams and `gradient_checkpointing`."
    )


def seed_rank(seed: int, rank: int) -> None:
    """Give a rank random numbers of its own, for dropout: no two ranks, and no initial weights, draw the same.

    Args:
        seed: The run's seed.
        rank: The rank.
    """
    transformers.set_seed(int(np.random.SeedSequence((seed, rank + 1)).generate_state(1)[0]))


@dataclass
class Run:
    """A run that has begun.

    Args:
        accelerator: The process's accelerator.
        resume_from: The checkpoint to resume from; nothing to start anew.
        record: What the run is, for its checkpoints.
        before: The record of the checkpoint that is resumed from.
    """

    accelerator: Accelerator
    resume_from: Path | None
    record: RunRecord
    before: RunRecord | None

    def add_data(self, fingerprints: Callable[[], dict[str, dict[str, Any]]]) -> None:
        """Note what the data are, and refuse to resume with others; all ranks call this together.

        Args:
            fingerprints: Returns those of `training.data.fingerprint`, by what the rows are called.

        Raises:
            ValueError: the run that is resumed had others.
        """

        def compare() -> dict[str, dict[str, Any]]:
            self.record.data = fingerprints()
            if self.before is not None:
                self.record.check_data(self.before)
            return self.record.data

        self.record.data = from_main(compare)


@contextmanager
def start_run(arguments: TrainArguments, groups: tuple[Any, ...]) -> Iterator[Run]:
    """Set up a run, and hold its folder as long as it lasts; all ranks call this together.

    Args:
        arguments: Where the run writes to and what it goes on from.
        groups: All arguments of the run, which are written beside its results.

    Yields:
        The run.

    Raises:
        ValueError: there is nothing to resume from, or something that would be overwritten; another run is at work in
            the folder; the checkpoint is not as it was written; or as for [`open_accelerator`].
        NotImplementedError: as for [`open_accelerator`].
    """
    output_dir = Path(arguments.output_dir)
    resume_from = choose_checkpoint(
        output_dir, arguments.resume_from_checkpoint, overwrite=arguments.overwrite_output_dir
    )
    accelerator = open_accelerator(
        mixed_precision=training_precision(arguments.mixed_precision),
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
    )
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    for library in ("accelerate", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    given = {name: value for group in groups for name, value in vars(group).items()}
    record = RunRecord(given, accelerator.num_processes)
    with only_run_in(output_dir, "output_dir"):
        before = from_main(lambda: None if resume_from is None else read_record(resume_from))
        if accelerator.is_main_process:
            remove_checkpoints(output_dir, resume_from)
            if before is not None:
                record.tell_changes(before)
            write_json(given, output_dir / "arguments.json")  # now: a run that is killed has it, too
        yield Run(accelerator, resume_from, record, before)


@contextmanager
def only_run_in(folder: Path, argument: str) -> Iterator[None]:
    """Hold the lock of a folder on the first rank; all ranks call this together.

    Args:
        folder: The folder.
        argument: Name of the argument that names it.

    Raises:
        ValueError: another run holds it; on every rank.
    """
    with ExitStack() as held:
        from_main(lambda: held.enter_context(one_run_in(folder, argument)))
        yield


__all__ = ["Run", "only_run_in", "open_accelerator", "seed_rank", "start_run"]
