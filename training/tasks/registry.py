"""All tasks by name: every module of this folder is imported, and each task registers itself there.

A further task is one further file here: a subclass of `Task` under `@register_task`.
"""

import importlib
import pkgutil
from pathlib import Path

from training.tasks.task import REGISTERED, Task

__all__ = ["TASKS", "find_task", "task_of_head"]

TASKS = REGISTERED
"""The tasks by name."""


def find_task(name: str) -> type[Task]:
    """Return a task by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"`task` is {name!r}; choose one of {', '.join(sorted(TASKS))}.")
    return TASKS[name]


def task_of_head(architectures: list[str] | None) -> type[Task] | None:
    """Return the task of a checkpoint by the `architectures` of its configuration; nothing where it has no head."""
    by_head = {task.head_class.__name__: task for task in reversed(TASKS.values())}  # of two tasks, the first
    return next((by_head[name] for name in architectures or () if name in by_head), None)


for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    importlib.import_module(f"training.tasks.{_module.name}")
