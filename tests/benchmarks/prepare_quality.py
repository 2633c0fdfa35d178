"""How well preparation finds faulty offers and catalogs, measured against labels that it has not seen.

`python tests/benchmarks/prepare_quality.py ANSWERS CORPUS` scores a corpus that `prepare.py` wrote. ANSWERS is the
table of its offers with the label columns: `duplicate_of`, `mismatched` and `catalog_id`. `--hide ANSWERS FILE` writes
the table without these columns, as the input of `prepare.py`.
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
    metrics = score_relistings(answers, dropped, given.id_column)
    metrics |= score_mismatches(answers, dropped, given.corpus, given.id_column)
    metrics |= score_catalogs(answers, kept, given.id_column)
    (given.corpus / "quality.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name, value in metrics.items():
        print(f"{name:45} {value if isinstance(value, int) else round(value, 4)}")


def score_relistings(answers: dict[Any, Any], dropped: list[dict[str, Any]], id_column: str) -> dict[str, float]:
    predictions = {row[id_column]: row["kept_instead"] for row in dropped if "duplicate" in row["reason"]}
    labels = {key: row["duplicate_of"] for key, row in answers.items() if row["duplicate_of"] is not None}
    found = predictions.keys() & labels.keys()
    return {
        "relistings": len(labels),
        "relistings: recall": len(found) / max(len(labels), 1),
        "relistings: precision": len(found) / max(len(predictions), 1),
        "relistings: the original is named": sum(predictions[key] == str(labels[key]) for key in found),
    }


def score_mismatches(
    answers: dict[Any, Any], dropped: list[dict[str, Any]], corpus: Path, id_column: str
) -> dict[str, float]:
    """Offers that are dropped as relistings are in the recall of all mismatches, but have no score."""
    file = corpus / "work" / "mismatch_scores.npz"
    if not file.is_file():
        return {}
    predicted = {row[id_column] for row in dropped if row["reason"] == "mismatched"}
    mismatched = {key for key, row in answers.items() if row["mismatched"]}
    scores = np.load(file)
    rows = pads.dataset(sorted((corpus / "work" / "rows").glob("part-*/*.parquet"))).to_table(columns=["row", "id"])
    ids = dict(zip(rows["row"].to_pylist(), rows["id"].to_pylist(), strict=True))
    labels = np.array([ids[row] in mismatched for row in scores["row"].tolist()])
    decided_by = float(-scores["score"][np.argsort(scores["score"])[: len(predicted)]].max()) if predicted else None
    draw_precision_recall(
        {"score": (labels, -scores["score"], decided_by)},
        "Mismatched pairs",
        corpus / "pictures" / "mismatch_quality.png",
    )
    return {
        "mismatches": len(mismatched),
        "mismatches: dropped": len(predicted),
        "mismatches: recall": len(predicted & mismatched) / max(len(mismatched), 1),
        "mismatches: precision": len(predicted & mismatched) / max(len(predicted), 1),
        "mismatches: average precision": average_precision_score(labels, -scores["score"]),
    }


def score_catalogs(answers: dict[Any, Any], kept: list[dict[str, Any]], id_column: str) -> dict[str, float]:
    labels = np.unique([answers[row[id_column]]["catalog_id"] for row in kept], return_inverse=True)[1]
    alone = iter(range(-len(kept), 0))
    predictions = np.array([next(alone) if row["catalog_id"] is None else row["catalog_id"] for row in kept])
    # Ordered pairs: apart in both, together in the predictions alone, in the labels alone, in both.
    (_, wrong), (missed, found) = pair_confusion_matrix(labels, np.unique(predictions, return_inverse=True)[1])
    return {
        "catalogs: pairwise precision": float(found / max(found + wrong, 1)),
        "catalogs: pairwise recall": float(found / max(found + missed, 1)),
        "catalogs: largest": int(np.unique(predictions, return_counts=True)[1].max()),
    }


if __name__ == "__main__":
    main()
