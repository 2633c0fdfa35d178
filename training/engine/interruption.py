"""SIGTERM, which schedulers send before they take a machine back: the run stops after the current step.

`TrainingLoop` asks `Interruption.requested` before each step; if it is set, it writes a checkpoint and exits with
`EXIT_STATUS`.
"""

import signal
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM


class Interruption:
    """Notes a SIGTERM for as long as the context lasts; a second one ends the process at once.

    Attributes:
        requested: Whether the signal has come.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "Interruption":
        """Take the signal over."""
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give it back."""
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, self._before)


__all__ = ["EXIT_STATUS", "Interruption"]
