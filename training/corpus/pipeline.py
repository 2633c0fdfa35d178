"""From raw offers to a corpus, step by step. A step whose files are already written is not repeated."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
from daft import col
from tqdm.auto import tqdm

from training.arguments.prepare import PrepareArguments
from training.corpus.assign_splits import decide_part
from training.corpus.derive_catalogs import Catalogs, Likeness, derive_catalogs
from training.corpus.drop_duplicates import drop_near_duplicates, drop_placeholders, drop_repeats
from training.corpus.drop_mismatches import FirstModelTrainer
from training.corpus.drops import Drops
from training.corpus.plan_parts import Part, plan_parts
from training.corpus.read_offers import prepare_part, read_rows, read_unreadable
from training.corpus.report_counts import Funnel, describe_corpus, dropped_examples
from training.corpus.report_page import write_corpus_report
from training.corpus.sandbox import stop_processes
from training.corpus.similar_pairs import similar_pairs
from training.corpus.title_rules import load_title_rules
from training.corpus.write_shards import plan_shards, rows_schema, write_shards
from training.data.catalogs import CatalogSizes
from training.data.files import as_written, file_state, one_run_in, secrets_left_out, write_json
from training.data.parallel import use_engine

__all__ = ["prepare"]

logger = logging.getLogger("training")

_FACTS = ("row", "id", "content", "title_key", "pixel_hash", "image_hash", "mirrored_hash", "colours",
          "catalog_id", "category")  # fmt: skip
# Offers of one catalog may score this much less than the score that joins two offers.
_NEARLY = 0.2
# Arguments that a resumed run may change.
_FREE = (
    "output",
    "engine",
    "num_examples",
    "download_timeout",
    "allow_private_addresses",
    "max_catalog_share",
)


@secrets_left_out()
def prepare(arguments: PrepareArguments, train_first_model: FirstModelTrainer | None = None) -> dict[str, Any]:
    """Prepare a corpus from raw offers.

    Args:
        arguments: The offers, and the limits below which they are dropped.
        train_first_model: Trains a first model; needed where `first_model` is given, and called only there.

    Returns:
        The content of `report.json`.

    Raises:
        FileNotFoundError: the input does not exist.
        ValueError: a column is missing, the folder holds a run with other arguments or one that is still running, or
            `first_model` is given and `train_first_model` is not.
    """
    if arguments.first_model and train_first_model is None:
        raise ValueError(f"`first_model` is {arguments.first_model!r}; give `train_first_model`, which trains it.")
    use_engine(arguments.engine)
    work = Path(arguments.output_dir) / "work"
    with one_run_in(work, "output_dir"):
        return _prepare(arguments, work, train_first_model if arguments.first_model else None)


def _prepare(arguments: PrepareArguments, work: Path, train_first_model: FirstModelTrainer | None) -> dict[str, Any]:
    rules = load_title_rules(arguments.title_rules)
    folder = work.parent
    skipped: dict[str, str] = {}
    parts = plan_parts(arguments.input, arguments.bytes_at_once, skipped, arguments.encoding)
    for path, why in skipped.items():
        logger.warning("%s is skipped: %s", path, why)
    settings = _check_settings(arguments, parts, folder)
    clock = _Clock(work / "seconds.json")

    with clock.step("read, clean and examine"):
        for number, part in enumerate(tqdm(parts, desc="reading offers", unit="part")):
            prepare_part(number, part, work / "rows", arguments, rules)
            write_json(settings, work / "settings.json")  # after the first part: its columns are checked by now
        stop_processes()
    skipped |= read_unreadable(work / "rows")
    if not any((work / "rows").glob("part-*/*.parquet")):
        raise ValueError(f"`input` names {arguments.input}, which hold no offers; name files with rows.")
    schema = rows_schema(work / "rows")  # checked now: later steps would read nulls for columns of another type

    funnel, drops = Funnel.of_first_step(work / "rows"), Drops()
    facts = read_rows(work / "rows").where(col("reason").is_null()).select(*_FACTS)
    given = read_rows(work / "rows").select("catalog_id").to_arrow()["catalog_id"].to_numpy()
    catalogs_given = CatalogSizes.of(given)
    logger.info("given catalogs: %s", catalogs_given)
    catalogs_given.check("`input`", arguments.max_catalog_share)
    with clock.step("duplicates"):
        if arguments.id_column:
            drop_repeats(facts, ["id"], "repeated_id", drops)
        drop_placeholders(_left(facts, drops), arguments.placeholder_titles, drops)
        drop_repeats(_left(facts, drops), ["title_key", "pixel_hash"], "duplicate", drops)
        distance = max(arguments.near_image_distance, arguments.catalog_image_distance)
        similarity = min(arguments.near_title_similarity, arguments.catalog_title_similarity)
        pairs = similar_pairs(_left(facts, drops), distance, similarity)
        near = (arguments.near_image_distance, arguments.near_title_similarity)
        drop_near_duplicates(facts, pairs, *near, drops)
    funnel.add_step("duplicates", drops)

    mismatches: dict[str, Any] = {}
    embeddings: dict[str, np.ndarray] | None = None
    if arguments.checkpoint or arguments.first_model:
        from training.corpus.drop_mismatches import drop_mismatches  # the only step that needs torch

        with clock.step("mismatches"):
            mismatches, embeddings = drop_mismatches(facts, drops, len(parts), arguments, work, train_first_model)
        funnel.add_step("mismatches", drops)

    with clock.step("catalogs"):
        catalogs = _derive(_left(facts, drops), pairs, embeddings, arguments, drops)
    with clock.step("write"):
        decisions = work / "decisions"
        shutil.rmtree(decisions, ignore_errors=True)  # written again in seconds, with the same content
        shares = (arguments.validation_share, arguments.test_share)
        for number in range(len(parts)):
            decide_part(number, work / "rows", decisions, drops, catalogs.of_row, catalogs.split_keys, shares)
        shards = plan_shards(decisions, len(parts), arguments.rows_per_shard)
        write_shards(shards, folder, work / "rows", decisions, schema, arguments.id_column or "offer_id")
    report = describe_corpus(funnel, catalogs, decisions, work / "rows", len(parts))
    report |= {"mismatches": mismatches} if mismatches else {}
    report |= {"skipped_files": skipped} if skipped else {}
    report |= {"seconds": clock.seconds, "settings": as_written(asdict(arguments))}
    examples = dropped_examples(decisions, work / "rows", drops, len(parts), arguments.num_examples)
    write_corpus_report(folder, report, examples)
    return report


def _left(facts: daft.DataFrame, drops: Drops) -> daft.DataFrame:
    """Return the offers that no step has dropped so far."""
    if not drops.reasons:
        return facts
    dropped = daft.from_pydict({"row": pa.array(sorted(drops.reasons), pa.uint64())})
    return facts.join(dropped, on="row", how="anti")


def _derive(
    facts: daft.DataFrame,
    pairs: pa.Table,
    embeddings: dict[str, np.ndarray] | None,
    arguments: PrepareArguments,
    drops: Drops,
) -> Catalogs:
    """Derive catalogs from pairs of similar hashes, and with a model from the pairs that it finds."""
    join_from = arguments.catalog_similarity if embeddings is not None else 0.0
    alike = [
        Likeness(pair["left"], pair["right"], join_from + pair["similarity"])
        for pair in pairs.to_pylist()
        if pair["distance"] <= arguments.catalog_image_distance
        and pair["similarity"] >= arguments.catalog_title_similarity
        and not {pair["left"], pair["right"]} & drops.reasons.keys()
    ]
    if embeddings is not None:
        from training.corpus.model_pairs import model_pairs

        offers = facts.select("row", "title_key", "colours").sort("row").to_pydict()
        places = np.searchsorted(embeddings["row"], np.array(offers["row"], dtype=np.uint64))
        colours = np.array([np.frombuffer(of, np.uint8) for of in offers["colours"]])
        found, scores = model_pairs(
            embeddings["image_embeds"][places], embeddings["text_embeds"][places], offers["title_key"], colours
        )
        enough = scores >= join_from - _NEARLY
        alike += [
            Likeness(offers["row"][left], offers["row"][right], score)
            for (left, right), score in zip(found[enough].tolist(), scores[enough].tolist(), strict=True)
        ]
    in_pairs = sorted({row for pair in alike for row in (pair.left, pair.right)})
    wanted = daft.from_pydict({"row": pa.array(in_pairs, pa.uint64())})
    columns = facts.select("row", "id", "content", "catalog_id").join(wanted, on="row").to_pydict()
    contents = zip(columns["id"], columns["content"], strict=True)
    ids = dict(zip(columns["row"], (content if own is None else own for own, content in contents), strict=True))
    given = dict(zip(columns["row"], columns["catalog_id"], strict=True)) | drops.given
    return derive_catalogs(alike, ids, given, arguments.max_catalog_size, join_from=join_from)


def _check_settings(arguments: PrepareArguments, parts: list[Part], folder: Path) -> dict[str, Any]:
    """Return the settings of this run; refuse a folder that was begun with other arguments or other input."""
    content = {name: value for name, value in asdict(arguments).items() if name not in _FREE}
    content["input"] = [asdict(part) | {"files": [file_state(path) for path in part.paths]} for part in parts]
    for name in ("title_rules", "first_model"):
        if path := getattr(arguments, name):
            content[name] = Path(path).read_text(encoding="utf-8")
    content = as_written(content)
    settings = folder / "work" / "settings.json"
    if settings.is_file():
        before = json.loads(settings.read_text(encoding="utf-8"))
        if changed := [name for name, value in content.items() if before.get(name) != value]:
            raise ValueError(
                f"`{changed[0]}` is not what it was when {arguments.output_dir} was begun; give another `output_dir`, "
                "or remove that folder."
            )
    elif any((folder / kind).is_dir() and any((folder / kind).iterdir()) for kind in ("kept", "dropped")):
        raise ValueError(
            f"`output_dir` is {arguments.output_dir}, which holds a corpus and nothing to go on from; give "
            "another `output_dir`, or remove that folder."
        )
    return content


class _Clock:
    """Counts the seconds of each step, over all runs in a folder.

    Args:
        path: JSON file of the counts.
    """

    def __init__(self, path: Path) -> None:
        """Read the counts of earlier runs."""
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a step."""
        started = time.perf_counter()
        logger.info("%s", name)
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            write_json(self.seconds, self.path)
