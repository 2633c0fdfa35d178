"""Which offers are dropped after they were read, why, and which of several equal offers stays."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Drops", "id_order", "in_order"]


@dataclass
class Drops:
    """Rows that are dropped after they were read.

    Attributes:
        reasons: By row number, the reason.
        kept: By row number, the id of the offer that stays instead, if one does.
        kept_rows: By row number, the row number of that offer.
        notes: By row number, a note for the report.
        given: By row number of an offer that stays, the catalog id that it takes from an offer dropped for it.
    """

    reasons: dict[int, str] = field(default_factory=dict)
    kept: dict[int, Any] = field(default_factory=dict)
    kept_rows: dict[int, int] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)

    def add(self, row: int, reason: str, *, kept: tuple[Any, int] | None = None, note: str = "") -> None:
        """Drop a row, unless it is dropped already."""
        if row in self.reasons:
            return
        self.reasons[row] = reason
        if kept is not None:
            self.kept[row], self.kept_rows[row] = kept
        if note:
            self.notes[row] = note


def in_order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the sort key of an offer; of several equal offers the first one stays.

    Rows without an id come last.
    """
    return (id_order(row["id"]), row["content"], row["row"])


def id_order(value: Any) -> tuple[int, float, str]:
    """Return the sort key of an id: numbers by size, also numbers written as text; then other text; then no id."""
    if value is None or value != value:
        return 2, 0, ""
    if isinstance(value, int | float):
        return 0, value, ""
    text = str(value)
    return (0, int(text), text) if text.isdecimal() and len(text) < 40 else (1, 0, text)
