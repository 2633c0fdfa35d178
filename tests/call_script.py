"""A script's main function, called with words of a command line."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from unittest import mock


def call_script(main: Callable[[], None], words: Sequence[str]) -> None:
    """Call it.

    Raises:
        SystemExit: The script told a mistake; its line is the message.
    """
    told = io.StringIO()
    try:
        with mock.patch.object(sys, "argv", ["script.py", *words]), contextlib.redirect_stderr(told):
            main()
    except SystemExit as left:
        raise SystemExit(told.getvalue().rstrip("\n")) from left
