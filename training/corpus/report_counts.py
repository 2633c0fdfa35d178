"""The counts of the report: offers before and after each step, dropped offers by reason, and examples of these."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import daft
import pyarrow as pa
import pyarrow.compute as pc
from daft import col

from training.corpus.assign_splits import read_decisions
from training.corpus.derive_catalogs import Catalogs
from training.corpus.drops import Drops
from training.corpus.read_offers import part_name, part_of, read_rows
from training.corpus.report_page import DroppedExample
from training.corpus.write_shards import iterate_rows
from training.data.catalog_ids import NO_CATALOG

__all__ = ["Funnel", "describe_corpus", "dropped_examples"]

_EXAMPLES_PER_RULE = 5


@dataclass
class Funnel:
    """Offers before and after each step.

    Attributes:
        input: Number of offers in the input.
        steps: For each step its name (`step`), `before`, `dropped` by reason, and `after`.
    """

    input: int
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_first_step(cls, rows: Path) -> "Funnel":
        """Count the offers that were read, and those dropped for their titles and images."""
        counted = read_rows(rows).groupby("reason").agg(col("row").count().alias("rows")).to_pydict()
        counts = dict(zip(counted["reason"], counted["rows"], strict=True))
        funnel = cls(sum(counts.values()))
        for step in ("title", "image"):
            funnel._add(f"{step}s", {why: n for why, n in sorted(counts.items(), key=str) if why and step in why})
        return funnel

    def add_step(self, name: str, drops: Drops) -> None:
        """Count the offers that a step dropped, without those that earlier steps dropped."""
        known = {reason for step in self.steps for reason in step["dropped"]}
        counts = Counter(reason for reason in drops.reasons.values() if reason not in known)
        self._add(name, dict(sorted(counts.items())))

    def _add(self, name: str, dropped: dict[str, int]) -> None:
        before = self.steps[-1]["after"] if self.steps else self.input
        after = before - sum(dropped.values())
        self.steps.append({"step": name, "before": before, "dropped": dropped, "after": after})


def describe_corpus(funnel: Funnel, catalogs: Catalogs, decisions: Path, rows: Path, num_parts: int) -> dict[str, Any]:
    """Return the counts of the report.

    Args:
        funnel: Counts of the steps.
        catalogs: The derived catalogs.
        decisions: Folder of the decisions.
        rows: Folder of the offers' parts.
        num_parts: Number of parts.

    Returns:
        The content of `report.json`, without the entries that the caller adds.
    """
    decided = pa.concat_tables([read_decisions(decisions, part) for part in range(num_parts)])
    kept = decided.filter(pc.is_null(decided["reason"]))
    dropped = _counts(decided["reason"])
    splits = _counts(kept["split"])
    of_catalog = Counter(_counts(kept["catalog_id"]).values())
    alone = kept["catalog_id"].null_count
    sizes = of_catalog + Counter({1: alone})
    given = read_rows(rows).where(f"catalog_id != {NO_CATALOG} and reason is null").count_rows()
    return {
        "input": funnel.input,
        "kept": len(kept),
        "dropped": dropped,
        "funnel": funnel.steps,
        "titles": _titles(rows),
        "catalogs": {
            "given": given,
            "derived": len(set(catalogs.of_row.values())),
            "alone": alone,
            "held_back": catalogs.held_back,
            "in_conflict": catalogs.in_conflict,
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
        },
        "splits": splits,
    }


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    entries = pc.value_counts(column.drop_null()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(entries, key=lambda entry: str(entry["values"]))}


def _titles(rows: Path) -> dict[str, Any]:
    """Count the titles that each rule changed, and the words of titles before and after cleaning."""
    offers = read_rows(rows).select("id", "title", "title_original", "title_rules")
    changed = offers.with_column("changes", col("title_rules").list_count()).where("changes > 0")
    by_rule = changed.explode("title_rules").groupby("title_rules").agg(col("title").count().alias("rows")).to_pydict()
    rules: dict[str, dict[str, Any]] = {}
    for name, count in sorted(zip(by_rule["title_rules"], by_rule["rows"], strict=True)):
        of_rule = changed.where(col("title_rules").list_contains(name)).sort("id").limit(_EXAMPLES_PER_RULE)
        shown = of_rule.select("title_original", "title").to_pydict()
        rules[name] = {"rows": count, "examples": [list(pair) for pair in zip(*shown.values(), strict=True)]}
    return {
        "changed": changed.count_rows(),
        "rules": rules,
        "words_before": _word_counts(offers, "title_original"),
        "words_after": _word_counts(offers, "title"),
    }


def _word_counts(offers: daft.DataFrame, name: str) -> dict[str, int]:
    words = col(name).fill_null("").regexp_count(r"\S+").alias("words")
    found = offers.select(words).groupby("words").agg(col("words").count().alias("rows")).to_pydict()
    return {str(number): rows for number, rows in sorted(zip(found["words"], found["rows"], strict=True))}


def dropped_examples(
    decisions: Path, rows: Path, drops: Drops, num_parts: int, num_examples: int
) -> dict[str, list[DroppedExample]]:
    """Return the first dropped offers of each reason, with the offers that were kept instead.

    Args:
        decisions: Folder of the decisions.
        rows: Folder of the offers' parts.
        drops: Rows that were dropped after they were read.
        num_parts: Number of parts.
        num_examples: Largest number of offers for each reason.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    for part in range(num_parts):
        decided = read_decisions(decisions, part)
        for row in decided.filter(pc.is_valid(decided["reason"])).to_pylist():
            of_reason = chosen.setdefault(row["reason"], [])
            if len(of_reason) < num_examples:
                of_reason.append(row)
    numbers = {row["row"] for of_reason in chosen.values() for row in of_reason}
    offers = _look_up(rows, numbers | {drops.kept_rows[row] for row in numbers if row in drops.kept_rows})
    return {
        reason: [_example(row, offers, drops) for row in of_reason] for reason, of_reason in sorted(chosen.items())
    }


def _look_up(rows: Path, numbers: set[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    wanted = pa.array(sorted(numbers), pa.uint64())
    parts = part_of(wanted.to_numpy())
    for part in sorted(set(parts)):
        of_part = wanted.filter(pa.array(parts == part))
        columns = ("id", "title_original", "image", "width", "height")
        for table in iterate_rows(rows / part_name(part), of_part, 100, columns=columns):
            found |= {offer["row"]: offer for offer in table.to_pylist()}
    return found


def _example(row: dict[str, Any], offers: Mapping[int, dict[str, Any]], drops: Drops) -> DroppedExample:
    offer = offers[row["row"]]
    other = offers.get(drops.kept_rows.get(row["row"], -1))
    why = row["note"] or ("" if other is None else f"like {row['kept_instead']}")
    if not why and offer["width"] is not None and row["reason"].startswith("image"):
        why = f"{offer['width']} x {offer['height']} pixels"
    return DroppedExample(
        id=str(offer["id"]),
        title=offer["title_original"] or "",
        image=offer["image"],
        why=why,
        other_title="" if other is None else other["title_original"] or "",
        other_image=None if other is None else other["image"],
    )
