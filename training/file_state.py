"""What tells whether local files have changed, without reading them: their sizes and times."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

__all__ = ["file_state", "files_digest"]


def file_state(path: str) -> list[int] | None:
    """Return a local file's bytes and the time of its last change; none for what is elsewhere."""
    file = Path(path.removeprefix("file://"))
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None


def files_digest(paths: Sequence[str]) -> str:
    """Return a name for files as they are now: how many, and a digest of their paths and states."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path} {file_state(path)}\0".encode())
    return f"{len(paths)} files, {digest.hexdigest()[:20]}"
