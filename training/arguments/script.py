"""Around the main function of a script: what its user can mend is told in one line, with exit code 2."""

import contextlib
import importlib.metadata
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from training.data.files import without_secrets

__all__ = ["quiet_libraries", "script"]

MISTAKE = 2
"""Exit code where the arguments, the data or the machine are to be mended, as of `argparse`."""
_INTERRUPTED = 130
_SHOW_TRACEBACK = "ECLIP_TRACEBACK"
_OURS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "modeling_eclip")
# Packages that are imported by another name than they are installed by.
_INSTALLED_AS = {"PIL": "pillow", "faiss": "faiss-cpu", "sklearn": "scikit-learn", "yaml": "pyyaml"}
_EXTRAS = ("train", "prepare", "export", "search", "demo")  # of scripts, the one that is enough first
_NETWORK = ("httpx", "httpx2", "requests", "urllib3")


@contextlib.contextmanager
def script() -> Iterator[None]:
    """Print the log as plain lines, and tell what the user can mend in one; a decorator of a script's main function.

    One line is what is said of errors that this project raises by itself, of files and of the network, and of missing
    packages. All else is a fault of the program, whose traceback shows where. `ECLIP_TRACEBACK=1` shows that of all.

    Raises:
        SystemExit: With exit code 2 after a mistake, with 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tracing").setLevel(logging.WARNING)  # Daft's: a line for each of its operators
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted", _INTERRUPTED)
    except Exception as error:
        if os.environ.get(_SHOW_TRACEBACK) or not _is_mistake(error):
            raise
        _leave(_in_one_line(error), MISTAKE)


def _leave(line: str, status: int) -> None:
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{Path(sys.argv[0]).name}: {rank}{line}", file=sys.stderr, flush=True)
    sys.exit(status)


def _is_mistake(error: Exception) -> bool:
    """Whether an error is about what the script was given, or about the machine."""
    if isinstance(error, OSError | ImportError) or _is_of_network(error):
        return True
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    is_own = any(folder in innermost.parents for folder in _OURS)
    return is_own and isinstance(error, ValueError | FloatingPointError | RuntimeError)


def _is_of_network(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _NETWORK


def _in_one_line(error: Exception) -> str:
    told = without_secrets(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_with((error.name or "").partition(".")[0])):
        return f"{told}: pip install 'modeling-eclip[{extra}]', or `make install` in a clone"
    return (
        f"the network can't be reached: {told}" if _is_of_network(error) and not isinstance(error, OSError) else told
    )


def _extra_with(module: str) -> str | None:
    """Return the extra of this package that installs a module."""
    package = _INSTALLED_AS.get(module, module).replace("_", "-")
    try:
        requirements = importlib.metadata.requires("modeling-eclip") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [re.fullmatch(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement) for requirement in requirements]
    extras = {one[2] for one in found if one and one[1].lower().replace("_", "-") == package.lower()}
    return next((extra for extra in _EXTRAS if extra in extras), None)


def quiet_libraries() -> None:
    """Switch off the progress bars of transformers and datasets, which would stand among the script's own."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
