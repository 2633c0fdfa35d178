"""Hosts that do not answer: rows that name one cost a timeout each, so a host that failed often is left alone."""

import time
from collections.abc import Callable

__all__ = ["FAILING_HOSTS", "FailingHosts"]


class FailingHosts:
    """Counts how often in a row each host could not be reached, and gives it up for a while.

    It is tried again once in each while, since a network may come back: a host that is down costs one timeout a while
    and not one a row.

    Args:
        most_failures: Failures in a row after which a host is given up.
        seconds: How long it is left alone.
        clock: Tells the time in seconds.
    """

    def __init__(
        self, most_failures: int = 20, seconds: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins without a failure."""
        self.most_failures, self.seconds, self.clock = most_failures, seconds, clock
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def is_given_up(self, host: str) -> bool:
        """Tells whether to leave a host alone now; where its while is over, to the first that asks it is not."""
        if self._failures.get(host, 0) < self.most_failures:
            return False
        if self.clock() < self._until[host]:
            return True
        self._until[host] = self.clock() + self.seconds
        return False

    def note(self, host: str, was_reached: bool) -> None:
        """Notes how an attempt ended."""
        if was_reached:
            self._failures.pop(host, None)
        else:
            self._until[host] = self.clock() + self.seconds  # before the count, which is read first
            self._failures[host] = self._failures.get(host, 0) + 1


FAILING_HOSTS = FailingHosts()
"""The hosts of this process, whichever part of the input names them."""
