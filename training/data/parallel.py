"""Run Daft's plans, and functions, on the cores of this machine or on a Ray cluster. The results are the same."""

from collections.abc import Callable, Sequence
from typing import Any

import daft
from daft import DataType, Series, col

__all__ = ["for_each", "use_engine"]


def use_engine(engine: str) -> None:
    """Choose the engine of this process.

    Args:
        engine: `"native"` or `"ray"`.

    Raises:
        RuntimeError: the process already uses the other engine, which can't be changed.
    """
    if engine == "ray":
        daft.set_runner_ray(noop_if_initialized=True)
    if (found := daft.get_or_infer_runner_type()) != engine:
        raise RuntimeError(f"`engine` is {engine!r}, but this process runs Daft on {found!r}; start another process.")


def for_each(function: Callable[[int], Any], numbers: Sequence[int]) -> None:
    """Call a function with each of some numbers, on all cores or machines. It writes its results to files.

    Args:
        function: The function.
        numbers: Its arguments, one a call.
    """
    if not numbers:
        return

    @daft.func.batch(return_dtype=DataType.int64(), batch_size=1)
    def call(column: Series) -> list[int]:
        given = column.to_pylist()
        for number in given:
            function(number)
        return given

    table = daft.from_pydict({"number": list(numbers)})
    if daft.get_or_infer_runner_type() == "ray":
        table = table.into_partitions(len(numbers))
    table.select(call(col("number"))).collect()
