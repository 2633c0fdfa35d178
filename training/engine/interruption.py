"""SIGTERM, which schedulers send before they take a machine back, and Ctrl-C: the run stops after the current step.

`TrainingLoop` asks `Interruption.number` before each step; if there is one, it writes a checkpoint and exits with 128
plus that number, as shells have it.
"""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# torchrun sends the signal that it gets to its processes, which have it already where it came to all of the group.
_SENT_TWICE_SECONDS = 2.0
_NOTED = b"\nstopping after this step, with a checkpoint; Ctrl-C again ends the run at once\n"


class Interruption:
    """Notes SIGTERM and Ctrl-C for as long as the context lasts; a second one, later, ends the process at once.

    Args:
        is_told: Whether to say on stderr that Ctrl-C was noted.

    Attributes:
        number: The signal that has come; 0 if none has.
    """

    def __init__(self, *, is_told: bool = True) -> None:
        """Nothing has come yet."""
        self.number = 0
        self._is_told = is_told
        self._came = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._came > _SENT_TWICE_SECONDS:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
        elif not self.number:
            self.number, self._came = number, time.monotonic()
            if number == signal.SIGINT and self._is_told:
                # Not by a logger or `print`: this may come in the middle of another line of theirs.
                os.write(2, _NOTED)


__all__ = ["Interruption"]
