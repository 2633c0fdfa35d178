"""Offers whose title and image do not belong together are dropped: those with the worst scores of a model.

The model is a given one, or a first model that is trained on the unfiltered offers. With several rounds the next first
model is trained on the offers that the round before left, and scores all offers anew.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import daft
import numpy as np

from training.arguments.prepare import PrepareArguments
from training.corpus.assign_splits import decide_part
from training.corpus.drops import Drops
from training.corpus.mismatch_scores import embed_parts, read_embeddings, relative_scores
from training.corpus.read_offers import part_of
from training.corpus.write_shards import plan_shards, rows_schema, write_shards

__all__ = ["FirstModelTrainer", "drop_mismatches"]

FirstModelTrainer = Callable[[Sequence[str], Sequence[str], Path], Path]
"""Trains a model on parquet files of offers: `(train_files, validation_files, output_dir) -> folder of the model`.

It is called again when a run is resumed. It then returns a model that `output_dir` holds, or resumes its training.
"""

_REASON = "mismatched"
_BINS = 60
_LEAST_VALIDATION_SHARE = 0.02  # of the offers that a first model is trained on


def drop_mismatches(
    facts: daft.DataFrame,
    drops: Drops,
    num_parts: int,
    arguments: PrepareArguments,
    work: Path,
    train_first_model: FirstModelTrainer | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Drop the offers with the worst scores.

    Args:
        facts: Offers that the first step left, with `row`, `id` and `category`.
        drops: Rows that are dropped so far; the mismatched rows are added.
        num_parts: Number of parts that the offers are in.
        arguments: The checkpoint, the rounds and the share.
        work: Folder of intermediate files.
        train_first_model: Trains the model of each round; needed where no checkpoint is given.

    Returns:
        The report's entry on the scores; and the vectors of all scored offers, in the order of `row`.

    Raises:
        ValueError: there is no offer to score.
    """
    columns = facts.select("row", "category").sort("row").to_pydict()
    left = np.array([row not in drops.reasons for row in columns["row"]], dtype=bool)
    rows = np.array(columns["row"], dtype=np.uint64)[left]
    names = np.array([category or "" for category in columns["category"]], dtype=object)[left]
    categories = np.unique(names.astype(str), return_inverse=True)[1]
    if not len(rows):
        raise ValueError("No offer is left that a model could score; the report of a run without a model tells why.")
    parts = part_of(rows)
    wanted = {int(part): rows[parts == part] for part in np.unique(parts)}
    num_dropped = int(round(arguments.mismatch_share * len(rows)))
    worst = np.empty(0, dtype=np.int64)
    for number in range(1 if train_first_model is None else arguments.mismatch_rounds):
        folder = work / f"round-{number + 1}"
        checkpoint = arguments.checkpoint
        if train_first_model is not None:
            filtered = copy.deepcopy(drops)
            for row in rows[worst].tolist():
                filtered.add(row, _REASON)
            train_files, validation_files = _write_round(filtered, num_parts, arguments, work, folder)
            checkpoint = str(train_first_model(train_files, validation_files, folder / "model"))
        embed_parts(checkpoint, wanted, work / "rows", folder / "embeddings")
        embeddings = read_embeddings(folder / "embeddings")
        scores = relative_scores(embeddings["image_embeds"], embeddings["text_embeds"], categories)
        worst = np.argsort(scores, kind="stable")[:num_dropped]
    for place in worst.tolist():
        drops.add(int(rows[place]), _REASON, note=f"score {scores[place]:.2f}")
    counts, edges = np.histogram(np.clip(scores, -10, 10), bins=_BINS)
    report = {
        "scored": len(rows),
        "share": arguments.mismatch_share,
        "threshold": float(scores[worst].max()) if len(worst) else None,
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }
    np.savez(work / "mismatch_scores.npz", row=rows, score=scores)
    return report, embeddings


def _write_round(
    drops: Drops, num_parts: int, arguments: PrepareArguments, work: Path, folder: Path
) -> tuple[list[str], list[str]]:
    """Write the offers that are not dropped, and return the training and the validation files."""
    rows, decisions = work / "rows", folder / "decisions"
    shares = (max(arguments.validation_share, _LEAST_VALIDATION_SHARE), 0.0)
    for part in range(num_parts):
        decide_part(part, rows, decisions, drops, {}, {}, shares)
    shards = [shard for shard in plan_shards(decisions, num_parts, arguments.rows_per_shard) if shard.in_corpus]
    write_shards(shards, folder, rows, decisions, rows_schema(rows), arguments.id_column or "offer_id")
    train_files, validation_files = (
        [str(folder / shard.path) for shard in shards if shard.split == split] for split in ("train", "validation")
    )
    return train_files, validation_files
