"""What a run is, as each of its checkpoints says: its arguments, data and ranks, and a digest of each file beside it.

A run that resumes compares: a checkpoint that is not as it was written, or other data, are refused; other arguments
are said.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.arguments.card import CardArguments
from training.data.files import as_written, write_json

__all__ = ["RECORD_FILE", "RunRecord", "read_record"]

logger = logging.getLogger("training")

RECORD_FILE = "run.json"
"""Name of the file in a checkpoint; written last."""

# Arguments that change neither the weights of a run nor what is measured of them: where it writes, how often, who
# reads the data, and how many at a time. Data are compared themselves, wherever they lie.
_HARMLESS = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_every_samples", "save_total_limit"),
    *("report_to", "push_to_hub", "hub_model_id", "hub_private", *(field.name for field in fields(CardArguments))),
    *("num_workers", "prefetch_factor", "part_size", "batch_memory_gib"),
    *("max_bad_steps", "max_skipped_share", "max_catalog_share"),
    *("train_data", "train_split", "train_pairs", "validation_data", "validation_split", "validation_pairs"),
    *("test_data", "test_split", "pairs_data", "test_pairs", "toy_offers", "toy_seed"),
}


@dataclass
class RunRecord:
    """What a run is.

    Args:
        arguments: All arguments, as plain values.
        num_ranks: Ranks of the run.
        data: Fingerprints by the name of the data; see `training.data.fingerprint`.
    """

    arguments: dict[str, Any]
    num_ranks: int
    data: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Have the arguments as the file gives them back: a signature that was renewed is no change."""
        self.arguments = as_written(self.arguments)

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint whose other files are all written."""
        write_json({**asdict(self), "files": _digests(folder)}, folder / RECORD_FILE)

    def tell_changes(self, before: "RunRecord") -> None:
        """Say which arguments a resumed run has changed, and whether that makes it another run.

        Args:
            before: The record of the checkpoint.
        """
        changed = [
            name
            for name, value in self.arguments.items()
            if name != "resume_from_checkpoint" and name in before.arguments and before.arguments[name] != value
        ]
        for name in sorted(changed, key=lambda name: name in _HARMLESS):
            told = (name, self.arguments[name], before.arguments[name])
            if name in _HARMLESS:
                logger.info("resumed with `%s` %r, before %r: it changes no result", *told)
            else:
                logger.warning("resumed with `%s` %r; the run was started with %r", *told)
        if not _HARMLESS.issuperset(changed):
            logger.warning("so this is another run from here on: it won't end with the weights of the one before")
        if self.num_ranks != before.num_ranks:
            logger.warning(
                "resumed on %s ranks, before %s: the rows are the same, dropout and the last bits are not",
                self.num_ranks,
                before.num_ranks,
            )

    def check_data(self, before: "RunRecord") -> None:
        """Refuse to resume with other data.

        Args:
            before: The record of the checkpoint.

        Raises:
            ValueError: the rows are others.
        """
        for name, now in self.data.items():
            then = before.data.get(name, now)
            for part in ("rows", "content"):
                if now[part] != then[part]:
                    raise ValueError(
                        f"the {name} are not those that the run was started with ({then['rows']:,} rows of digest "
                        f"{then['content']}, now {now['rows']:,} of {now['content']}), so it can't go on; give those "
                        "again, or start a new run from the checkpoint's model, by `--checkpoint`."
                    )
            if now["files"] != then["files"]:
                logger.warning(
                    "files of the %s were written again since the run was started (%s; before %s), though with the "
                    "same ids and titles: where images are others, this is another run",
                    name,
                    now["files"],
                    then["files"],
                )


def read_record(folder: Path) -> RunRecord:
    """Read a checkpoint's record, and see that the checkpoint is as it was written.

    Args:
        folder: The checkpoint.

    Returns:
        The record.

    Raises:
        ValueError: a file is missing, or is not as it was written.
    """
    try:
        content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        expected = content.pop("files")
        record = RunRecord(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(folder / RECORD_FILE)!r} can't be read ({error}); {_REMEDY}") from error
    found = _digests(folder, expected)
    for name, digest in expected.items():
        if found[name] != digest:
            state = "is missing" if found[name] is None else "is not as the run wrote it: its digest is another"
            raise ValueError(f"{str(folder / name)!r} {state}; {_REMEDY}")
    return record


_REMEDY = (
    "resume from an earlier checkpoint, with `--overwrite_output_dir true` to drop this one, or start a new run from "
    "a model, by `--checkpoint`."
)


def _digests(folder: Path, names: Any = None) -> dict[str, str | None]:
    """Return the SHA-256 of files; of all but the record if none are named."""
    if names is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD_FILE)
        names = [path.relative_to(folder).as_posix() for path in paths]
    digests: dict[str, str | None] = {}
    for name in names:
        path = folder / name
        digests[name] = None
        if path.is_file():
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
