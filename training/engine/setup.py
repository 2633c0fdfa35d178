"""The start of every training script: where to start from, accelerate, logging, and a file of the arguments."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import transformers
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from training.arguments.groups import TrainArguments
from training.data.files import write_json
from training.engine.checkpoint import choose_checkpoint, remove_checkpoints
from training.engine.precision import training_precision

logger = logging.getLogger("training")


def start_run(arguments: TrainArguments, groups: tuple[Any, ...]) -> tuple[Accelerator, Path | None]:
    """Set up a run; all ranks call this together.

    Args:
        arguments: Where the run writes to and what it goes on from.
        groups: All arguments of the run, which are written beside its results.

    Returns:
        The process's accelerator, and the checkpoint to resume from or nothing.

    Raises:
        ValueError: there is nothing to resume from, or something that would be overwritten.
    """
    output_dir = Path(arguments.output_dir)
    resume_from = choose_checkpoint(
        output_dir, arguments.resume_from_checkpoint, overwrite=arguments.overwrite_output_dir
    )
    accelerator = Accelerator(
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


__all__ = ["keep_arguments", "start_run"]
