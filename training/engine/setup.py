"""The start of every training script: where to start from, accelerate, logging, and a file of the arguments.

What accelerate can be set to and this package cannot do is refused here, before any data is read.
"""

import json
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, parse_flag_from_env

from training.arguments.groups import TrainArguments
from training.data.files import write_json
from training.data.ranks import LONGEST_WAIT
from training.engine.checkpoint import choose_checkpoint, remove_checkpoints
from training.engine.precision import training_precision

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
        ValueError: it was told to accumulate gradients.
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


def start_run(arguments: TrainArguments, groups: tuple[Any, ...]) -> tuple[Accelerator, Path | None]:
    """Set up a run; all ranks call this together.

    Args:
        arguments: Where the run writes to and what it goes on from.
        groups: All arguments of the run, which are written beside its results.

    Returns:
        The process's accelerator, and the checkpoint to resume from or nothing.

    Raises:
        ValueError: there is nothing to resume from, or something that would be overwritten; or as for
            [`open_accelerator`].
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
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_checkpoints(output_dir, resume_from)
        keep_arguments(groups, output_dir / "arguments.json", resume_from is not None)
    return accelerator, resume_from


def keep_arguments(groups: tuple[Any, ...], path: Path, resumed: bool) -> None:
    """Write the run's arguments beside its results, and tell which ones a resumed run has changed."""
    content = {name: value for group in groups for name, value in vars(group).items()}
    if resumed and path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, value in content.items():
            changes_with_the_run = name in ("resume_from_checkpoint", "overwrite_output_dir", "output_dir")
            if name in before and before[name] != value and not changes_with_the_run:
                logger.warning("resumed with `%s` %r; the run was started with %r", name, value, before[name])
    write_json(content, path)  # a run that is killed here is resumed, too


__all__ = ["keep_arguments", "open_accelerator", "seed_rank", "start_run"]
