"""Counts the rows that could not be used, by reason; too many of them stop the run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from training.data.row_places import RowFiles, told_rows

__all__ = ["SkipCounter"]


class SkipCounter:
    """Counts the rows that were skipped, by reason, and stops a run that skips too many.

    Args:
        row_files: Files that the rows come from, to tell where they are.

    Attributes:
        passed_over: Images that cannot be used, by reason, of offers that have others: these rows are not skipped.
    """

    def __init__(self, row_files: Sequence[RowFiles] = ()) -> None:
        """Starts at zero."""
        self._row_files = list(row_files)
        self.num_rows = 0
        self.reasons: Counter[str] = Counter()
        self.first_row_ids: dict[str, list[str]] = {}
        self.passed_over: Counter[str] = Counter()

    @property
    def num_skipped(self) -> int:
        """Number of rows skipped so far."""
        return self.reasons.total()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Counts the rows of a batch.

        Args:
            batch: A batch with `num_rows`, `skipped` and, where offers have several images, `passed_over`.
        """
        self.num_rows += batch["num_rows"]
        for row_id, reason in batch.get("passed_over", ()):
            self.passed_over[reason] += 1
            self._remember(reason, row_id)
        for row_id, reason in batch["skipped"]:
            self.reasons[reason] += 1
            self._remember(reason, row_id)

    def check(self, max_share: float = 0.05, min_rows: int = 200) -> None:
        """Stops the run once too large a share of the rows was skipped.

        Args:
            max_share: Largest share that is allowed.
            min_rows: Rows that must have been seen before the share is judged; 1 at the end of a run.

        Raises:
            ValueError: If more than `max_share` of at least `min_rows` rows were skipped.
        """
        if self.num_rows >= min_rows and self.num_skipped > max_share * self.num_rows:
            raise ValueError(
                f"{self.report()}, which is more than the {max_share:.1%} allowed. First rows of each reason: "
                f"{self.examples()}. Mend or remove these rows, or raise `max_skipped_share`."
            )

    def told_rows(self) -> dict[str, list[str]]:
        """Tells for each reason where the first rows are, such as `"a.csv line 7"`; see `training.data.row_places`."""
        row_ids = [row_id for ids in self.first_row_ids.values() for row_id in ids]
        told = dict(zip(row_ids, told_rows(row_ids, self._row_files), strict=True))
        return {reason: [told[row_id] for row_id in ids] for reason, ids in self.first_row_ids.items()}

    def examples(self) -> str:
        """Lists the first rows of each reason, such as `"truncated: a.csv line 7; empty_title: a.csv line 9"`."""
        return "; ".join(f"{reason}: {', '.join(rows)}" for reason, rows in self.told_rows().items())

    def report(self) -> str:
        """Returns a line such as `"3 of 400 rows skipped (0.8%): truncated 2, empty_title 1"`."""
        others = f"; images in whose place others stand: {_counts(self.passed_over)}" if self.passed_over else ""
        if not self.reasons:
            return f"0 of {self.num_rows} rows skipped{others}"
        share = f"{self.num_skipped / self.num_rows:.1%}"
        return f"{self.num_skipped} of {self.num_rows} rows skipped ({share}): {_counts(self.reasons)}{others}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts as plain values, for a checkpoint or for another rank."""
        return {
            "num_rows": self.num_rows,
            "reasons": dict(self.reasons),
            "passed_over": dict(self.passed_over),
            "first_row_ids": {reason: list(row_ids) for reason, row_ids in self.first_row_ids.items()},
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Adds the counts of a checkpoint or of another rank.

        Args:
            state: What `state_dict` returned there.
        """
        self.num_rows += state["num_rows"]
        self.reasons.update(state["reasons"])
        self.passed_over.update(state["passed_over"])
        for reason, row_ids in state["first_row_ids"].items():
            for row_id in row_ids:
                self._remember(reason, row_id)

    def _remember(self, reason: str, row_id: str) -> None:
        row_ids = self.first_row_ids.setdefault(reason, [])
        if len(row_ids) < 3 and row_id not in row_ids:
            row_ids.append(row_id)


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
