"""JSON files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["write_json"]


def write_json(content: Any, path: Path, *, allow_nan: bool = True) -> None:
    """Write a file in one piece, so that a process that is killed meanwhile leaves the one that was there.

    Args:
        content: What it holds.
        path: The file.
        allow_nan: Whether it may hold not-a-number and infinity, for which JSON has no word.

    Raises:
        ValueError: it holds one, and may not.
    """
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, allow_nan=allow_nan) + "\n", encoding="utf-8")
    os.replace(partial, path)
