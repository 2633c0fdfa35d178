"""The filter of mismatched pairs: scores by a given model, or by one that is trained on the unfiltered offers first.

With several rounds the next model is trained on what the one before left, and judges all offers anew.
"""

import copy
from pathlib import Path
from typing import Any

import daft
import numpy as np

from training.arguments.groups import DataArguments, ModelArguments, TrainArguments
from training.arguments.parser import parse_arguments
from training.corpus.duplicates import Drops
from training.corpus.mismatch import embed_parts, read_embeddings, relative_scores
from training.corpus.options import PrepareArguments
from training.corpus.read import part_of
from training.corpus.shards import plan_shards, rows_schema, write_shards
from training.corpus.splits import decide_part
from training.engine.checkpoint import find_checkpoints
from training.train import train

__all__ = ["drop_mismatches"]

_REASON = "mismatched"
_BINS = 60


def drop_mismatches(
    facts: daft.DataFrame, drops: Drops, num_parts: int, arguments: PrepareArguments, work: Path
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Drop the offers with the worst scores.

    Args:
        facts: Offers that the first step left, with `row`, `id` and `category`.
        drops: Rows that are dropped so far; the mismatched are added.
        num_parts: How many parts the offers are in.
        arguments: The model, the rounds and the share.
        work: Folder of intermediate files.

    Returns:
        What the report says about the scores; and the vectors of all offers that were scored, in the order of `row`.

    Raises:
        ValueError: there is no offer to score.
    """
    columns = facts.select("row", "category").sort("row").to_pydict()
    left = np.array([row not in drops.reasons for row in columns["row"]], dtype=bool)
    rows = np.array(columns["row"], dtype=np.uint64)[left]
    names = np.array([category or "" for category in columns["category"]], dtype=object)[left]
    categories = np.unique(names.astype(str), return_inverse=True)[1]
    if not len(rows):
        raise ValueError("No offer is left that a model could score; the report of a run without one says why.")
    parts = part_of(rows)
    wanted = {int(part): rows[parts == part] for part in np.unique(parts)}
    num_dropped = int(round(arguments.mismatch_share * len(rows)))
    worst = np.empty(0, dtype=np.int64)
    rounds = arguments.mismatch_rounds if arguments.first_model else 1
    for number in range(rounds):
        folder = work / f"round-{number + 1}"
        checkpoint = arguments.checkpoint
        if arguments.first_model:
            filtered = copy.deepcopy(drops)
            for row in rows[worst].tolist():
                filtered.add(row, _REASON)
            checkpoint = _train(filtered, num_parts, arguments, work, folder)
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


def _train(drops: Drops, num_parts: int, arguments: PrepareArguments, work: Path, folder: Path) -> str:
    """Train a model on the offers that are left, unless it is there, and return its folder."""
    output_dir = folder / "model"
    if (output_dir / "report.json").is_file():
        return str(output_dir)
    shares = (max(arguments.validation_share, 0.02), 0.0)
    for part in range(num_parts):
        decide_part(part, work / "rows", folder / "decisions", drops, {}, {}, shares)
    shards = [
        shard for shard in plan_shards(folder / "decisions", num_parts, arguments.rows_per_shard) if shard.in_corpus
    ]
    rows = work / "rows"
    write_shards(shards, folder, rows, folder / "decisions", rows_schema(rows), arguments.id_column or "offer_id")
    words = ["--config", arguments.first_model, "--output_dir", str(output_dir)]
    for split in ("train", "validation"):
        words += [f"--{split}_data", *(str(folder / shard.path) for shard in shards if shard.split == split)]
    if find_checkpoints(output_dir):
        words += ["--resume_from_checkpoint", "latest"]
    train(*parse_arguments((ModelArguments, DataArguments, TrainArguments), words))
    return str(output_dir)
