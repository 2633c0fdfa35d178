"""What does a checkpoint keep of what its towers knew? Measures it in and out of the domain of its training.

    python tests/benchmarks/out_of_domain.py start outputs/fashion --output outputs/out_of_domain.json

`start` is the pretrained towers as they came, with new projections. Every other model is compared with the first one,
row by row. Nothing is trained but linear probes, of unit vectors, on the rows of a test set itself (five folds; every
row is answered by a probe that has not seen it). The sets:

- `flipkart`: root categories of a general store, all 833 rows (mean of accuracy and macro F1);
- `amazon_apparel`: the image found for a title, one of the same catalog counting, and pairs of titles;
- `pricerunner`: hard pairs of titles of electronics (average precision of the cosine);
- `fashion`: the image found for a title, and the kinds of the second level;
- `offers`: pairs of offers of simulated sellers.

`embeds` are what `get_text_features` and `get_image_features` return, `towers` the vectors before the projection.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from real_offers import SHARED, build_pretrained
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.inference.embed import title_batches, tokenize_titles
from modeling_eclip.inference.pixels import PixelReader
from modeling_eclip.modeling_eclip import normalize
from training.evaluation.bootstrap import bootstrap_intervals

PROBE_STRENGTH = 0.03  # scikit-learn's C, the same for all: what is compared is the vectors
Vectors = dict[str, dict[str, np.ndarray]]  # kind, modality -> unit vectors, shape (N, width)


@dataclass
class Measured:
    """One metric of one model.

    Args:
        metric: Returns the metric of some of the rows.
        outcomes: What it is computed from, a row each.
        groups: Rows that depend on each other, as for `bootstrap_intervals`.
    """

    metric: Callable[[dict[str, np.ndarray]], float]
    outcomes: dict[str, np.ndarray]
    groups: np.ndarray | None = None


def load(name: str) -> tuple[EClipModel, EClipProcessor]:
    """Load a checkpoint, or the towers as they came."""
    if name == "start":
        return build_pretrained()
    return EClipModel.from_pretrained(name, dtype=torch.float32).eval(), EClipProcessor.from_pretrained(name)


@torch.no_grad()
def encode(model: EClipModel, processor: EClipProcessor, table: dict[str, list[Any]]) -> Vectors:
    """Encode the titles and, where the table has them, the images: unit vectors of the towers and projected ones."""
    tokens = tokenize_titles(processor, table["title"])
    rows, parts = [], []
    for places, inputs in title_batches(tokens, processor.tokenizer, 1024):
        rows.append(places)
        parts.append(model.encode_text(**inputs).pooler_output)
    pooled = {"text": torch.cat(parts)[torch.cat(rows).argsort()]}
    if "image" in table:
        reader, parts = PixelReader(processor), []
        for start in range(0, len(table["image"]), 32):
            images = [reader.read(image["bytes"]) for image in table["image"][start : start + 32]]
            parts.append(model.encode_image(**reader.batch(images)).pooler_output)
        pooled["image"] = torch.cat(parts)
    projections = {"text": model.text_projection, "image": model.visual_projection}
    vectors = {
        "towers": {modality: normalize(value).numpy() for modality, value in pooled.items()},
        "embeds": {modality: normalize(projections[modality](value)).numpy() for modality, value in pooled.items()},
    }
    for kind in vectors.values():
        if "image" in kind:  # whose cosine is the mean of the two
            kind["both"] = np.concatenate([kind["text"], kind["image"]], axis=1) / np.sqrt(2)
    return vectors


def read(name: str, columns: list[str]) -> dict[str, list[Any]]:
    """Read columns of a split of a set, `"fashion/test"`; of `"flipkart"` all splits."""
    splits = [name] if "/" in name else [f"{name}/{split}" for split in ("train", "validation", "test")]
    tables = [pq.read_table(SHARED / "data" / f"{split}.parquet", columns=columns) for split in splits]
    return {column: [value for table in tables for value in table[column].to_pylist()] for column in columns}


def probe_classes(vectors: Vectors, labels: list[str]) -> dict[str, Measured]:
    """Answer every row by a linear probe of the other folds; classes with fewer than ten rows are left out.

    From both, the log probabilities of the two probes are added up.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    usable = counts[classes] >= 10
    classes = np.unique(classes[usable], return_inverse=True)[1]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_STRENGTH, max_iter=300, tol=1e-3))
    measured = {}
    for kind, by_modality in vectors.items():
        scores = {
            modality: cross_val_predict(
                regression, by_modality[modality][usable], classes, cv=folds, method="predict_log_proba"
            )
            for modality in ("text", "image")
        }
        scores["both"] = scores["text"] + scores["image"]
        for modality, score in scores.items():
            outcomes = {"label": classes, "answer": score.argmax(axis=1)}
            measured[f"probe, {kind}, {modality}"] = Measured(_probe_score, outcomes)
    return measured


def _probe_score(outcomes: dict[str, np.ndarray]) -> float:
    label, answer = outcomes["label"], outcomes["answer"]
    return float((label == answer).mean() + f1_score(label, answer, average="macro", zero_division=0.0)) / 2


def retrieval(vectors: Vectors, catalogs: list[int | None]) -> dict[str, Measured]:
    """Find the image for a title; those of the same catalog count."""
    groups = np.array([-1 if catalog is None else catalog for catalog in catalogs])
    similarities = vectors["embeds"]["text"] @ vectors["embeds"]["image"].T
    relevant = (groups[:, None] == groups) & (groups >= 0) | np.eye(len(groups), dtype=bool)
    best = np.where(relevant, similarities, -2).max(axis=1, keepdims=True)
    ranks = ((similarities > best) & ~relevant).sum(axis=1)
    return {f"recall@{k}": Measured(lambda drawn, k=k: float((drawn["rank"] < k).mean()), {"rank": ranks}, groups)
            for k in (1, 10)}  # fmt: skip


def matching(vectors: Vectors, ids: list[Any], pairs: str) -> dict[str, Measured]:
    """Tell pairs of one product from others by the cosine."""
    table = pq.read_table(SHARED / "data" / f"{pairs}.parquet").to_pydict()
    place = {identity: row for row, identity in enumerate(ids)}
    left, right = ([place[identity] for identity in table[side]] for side in ("left", "right"))
    labels = np.array(table["label"])
    return {
        f"AP, {kind}, {modality}": Measured(
            lambda drawn: float(average_precision_score(drawn["label"], drawn["cosine"])),
            {"label": labels, "cosine": (unit[left] * unit[right]).sum(axis=1)},
        )
        for kind, by_modality in vectors.items()
        for modality, unit in by_modality.items()
    }


def measure(model: EClipModel, processor: EClipProcessor, sets: list[str]) -> dict[str, Measured]:
    """Measure a model on some of the sets.

    Returns:
        `{"<set>: <metric>": measured}`.
    """
    found = {}
    if "flipkart" in sets:
        table = read("flipkart", ["title", "image", "category"])
        found["flipkart"] = probe_classes(encode(model, processor, table), [path[0] for path in table["category"]])
    if "amazon_apparel" in sets:
        table = read("amazon_apparel/test", ["title", "image", "catalog_id", "offer_id"])
        vectors = encode(model, processor, table)
        titles = {kind: {"text": by_modality["text"]} for kind, by_modality in vectors.items()}
        pairs = matching(titles, table["offer_id"], "amazon_apparel/test_pairs")
        found["amazon_apparel"] = retrieval(vectors, table["catalog_id"]) | pairs
    if "pricerunner" in sets:
        table = read("pricerunner/test", ["title", "offer_id"])
        vectors = encode(model, processor, table)
        found["pricerunner"] = matching(vectors, table["offer_id"], "pricerunner/test_pairs")
    if "fashion" in sets:
        table = read("fashion/test", ["title", "image", "catalog_id", "category"])
        vectors = encode(model, processor, table)
        kinds = probe_classes(vectors, [path[1] for path in table["category"]])
        found["fashion"] = retrieval(vectors, table["catalog_id"]) | kinds
    if "offers" in sets:
        table = read("offers/test", ["title", "image", "offer_id"])
        found["offers"] = matching(encode(model, processor, table), table["offer_id"], "offers/test_pairs")
    return {f"{name}: {metric}": value for name, metrics in found.items() for metric, value in metrics.items()}


def compare(own: Measured, first: Measured | None, num_resamples: int) -> dict[str, Any]:
    """Return a metric, its 95 % interval, and that of its difference from the first model's."""
    outcomes = dict(own.outcomes)
    if first is not None:
        outcomes |= {f"first {name}": values for name, values in first.outcomes.items()}

    def metrics(drawn: dict[str, np.ndarray]) -> dict[str, float]:
        value = own.metric(drawn)
        if first is None:
            return {"value": value}
        return {"value": value, "difference": value - own.metric({n: drawn[f"first {n}"] for n in own.outcomes})}

    values, intervals = (
        metrics(outcomes),
        bootstrap_intervals(metrics, outcomes, own.groups, num_resamples=num_resamples),
    )
    return {name: {"value": value, "interval": intervals[name]} for name, value in values.items()}


def main() -> None:
    """Measure all models and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of checkpoints, or start")
    parser.add_argument(
        "--sets", nargs="+", default=["flipkart", "amazon_apparel", "pricerunner", "fashion", "offers"]
    )
    parser.add_argument("--num_resamples", type=int, default=200)
    parser.add_argument("--output", type=Path, help="JSON file of all values")
    arguments = parser.parse_args()
    measured = {}
    for name in arguments.models:
        model, processor = load(name)
        # A convolutional tower takes half the time in this format.
        measured[name] = measure(model.to(memory_format=torch.channels_last), processor, arguments.sets)
    first = arguments.models[0]
    report = {
        name: {
            metric: compare(own, None if name == first else measured[first][metric], arguments.num_resamples)
            for metric, own in metrics.items()
        }
        for name, metrics in measured.items()
    }
    print("| metric | " + " | ".join(arguments.models) + " |\n" + "|---" * (len(arguments.models) + 1) + "|")
    for metric in measured[first]:
        cells = []
        for name in arguments.models:
            found = report[name][metric]
            low, high = found["value"]["interval"]
            cell = f"{found['value']['value']:.3f} [{low:.3f}, {high:.3f}]"
            if "difference" in found:
                low, high = found["difference"]["interval"]
                cell += f", {found['difference']['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells.append(cell)
        print(f"| {metric} | " + " | ".join(cells) + " |")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
