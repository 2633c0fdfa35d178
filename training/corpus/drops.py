"""Which offers are dropped after they were read, why, and which of several equal offers stays."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Drops", "id_order", "in_order"]


@dataclass
class Drops:
    """Rows that are dropped after the first step.

    Attributes:
        reasons: By row number, why.
        kept: By row number, the id of the offer that stays instead, where there is one.
        kept_rows: The same, its row number.
        notes: By row number, what else is to be said.
        given: By row number, the given catalog of an offer that has it from one that was dropped for it.
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
    """Return what offers are ordered by: the first of several that are one stays.

    Rows without an id come last. Rows that are the same in all of this are the same offer.
    """
    return (id_order(row["id"]), row["content"], row["row"])


def id_order(value: Any) -> tuple[int, float, str]:
    """Return what ids are ordered by: numbers by size, also where they are written as text; other text; none."""
    if value is None or value != value:
        return 2, 0, ""
    if isinstance(value, int | float):
        return 0, value, ""
    text = str(value)
    return (0, int(text), text) if text.isdecimal() and len(text) < 40 else (1, 0, text)
