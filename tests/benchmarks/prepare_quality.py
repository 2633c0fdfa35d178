"""How well preparation finds what is wrong with offers: against answers that it has not seen.

`python tests/benchmarks/prepare_quality.py ANSWERS CORPUS` scores a corpus that `prepare.py` made. ANSWERS is the
table that it was made of, with the columns that were kept from it: `duplicate_of`, `mismatched` and `catalog_id`. With
`--hide FILE` it writes that table without them, which is what is to be prepared.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score
from sklearn.metrics.cluster import pair_confusion_matrix

from training.plots.tasks import draw_precision_recall

HIDDEN = ["duplicate_of", "mismatched", "catalog_id"]


def read(folder: Path, *columns: str) -> list[dict[str, Any]]:
    return pads.dataset(sorted(folder.glob("*.parquet"))).to_table(columns=list(columns)).to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--id_column", default="offer_id")
    parser.add_argument("--hide", action="store_true", help="Write the table without its answers to CORPUS, and stop.")
    given = parser.parse_args()
    if given.hide:
        table = pq.read_table(given.answers)
        given.corpus.parent.mkdir(parents=True, exist_ok=True)
        hidden = [name for name in HIDDEN if name in table.column_names]
        pq.write_table(table.drop_columns(hidden), given.corpus)
        print(f"{given.corpus}: {len(table):,} rows without {', '.join(hidden)}")
        return
    answers = {
        row[given.id_column]: row
        for row in pq.read_table(given.answers, columns=[given.id_column, *HIDDEN]).to_pylist()
    }
    kept = read(given.corpus / "kept", given.id_column, "catalog_id")
    dropped = read(given.corpus / "dropped", given.id_column, "reason", "kept_instead")
    assert len(kept) + len(dropped) == len(answers), "offers were lost, or are there twice"
    figures = score_relistings(answers, dropped, given.id_column)
    figures |= score_mismatches(answers, dropped, given.corpus, given.id_column)
    figures |= score_catalogs(answers, kept, given.id_column)
    (given.corpus / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:45} {value if isinstance(value, int) else round(value, 4)}")


def score_relistings(answers: dict[Any, Any], dropped: list[dict[str, Any]], id_column: str) -> dict[str, float]:
    said = {row[id_column]: row["kept_instead"] for row in dropped if "duplicate" in row["reason"]}
    right = {key: row["duplicate_of"] for key, row in answers.items() if row["duplicate_of"] is not None}
    found = said.keys() & right.keys()
    return {
        "relistings": len(right),
        "relistings: recall": len(found) / max(len(right), 1),
        "relistings: precision": len(found) / max(len(said), 1),
        "relistings: the original is named": sum(said[key] == str(right[key]) for key in found),
    }


def score_mismatches(
    answers: dict[Any, Any], dropped: list[dict[str, Any]], corpus: Path, id_column: str
) -> dict[str, float]:
    """Offers that are dropped as relistings are in the recall of all mismatches, but have no score."""
    file = corpus / "work" / "mismatch_scores.npz"
    if not file.is_file():
        return {}
    said = {row[id_column] for row in dropped if row["reason"] == "mismatched"}
    right = {key for key, row in answers.items() if row["mismatched"]}
    scores = np.load(file)
    rows = pads.dataset(sorted((corpus / "work" / "rows").glob("part-*/*.parquet"))).to_table(columns=["row", "id"])
    ids = dict(zip(rows["row"].to_pylist(), rows["id"].to_pylist(), strict=True))
    labels = np.array([ids[row] in right for row in scores["row"].tolist()])
    decided_by = float(-scores["score"][np.argsort(scores["score"])[: len(said)]].max()) if said else None
    draw_precision_recall(
        {"score": (labels, -scores["score"], decided_by)},
        "Mismatched pairs",
        corpus / "pictures" / "mismatch_quality.png",
    )
    return {
        "mismatches": len(right),
        "mismatches: dropped": len(said),
        "mismatches: recall": len(said & right) / max(len(right), 1),
        "mismatches: precision": len(said & right) / max(len(said), 1),
        "mismatches: average precision": average_precision_score(labels, -scores["score"]),
    }


def score_catalogs(answers: dict[Any, Any], kept: list[dict[str, Any]], id_column: str) -> dict[str, float]:
    right = np.unique([answers[row[id_column]]["catalog_id"] for row in kept], return_inverse=True)[1]
    alone = iter(range(-len(kept), 0))
    said = np.array([next(alone) if row["catalog_id"] is None else row["catalog_id"] for row in kept])
    # Ordered pairs: apart in both, together in what was said alone, in the answers alone, in both.
    (_, wrong), (missed, found) = pair_confusion_matrix(right, np.unique(said, return_inverse=True)[1])
    return {
        "catalogs: pairwise precision": float(found / max(found + wrong, 1)),
        "catalogs: pairwise recall": float(found / max(found + missed, 1)),
        "catalogs: largest": int(np.unique(said, return_counts=True)[1].max()),
    }


if __name__ == "__main__":
    main()
