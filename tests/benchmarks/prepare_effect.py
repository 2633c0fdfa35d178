"""The effect of preparation: the same training on raw offers and on the prepared corpus, with equal samples seen.

    python tests/benchmarks/prepare_effect.py --raw raw.parquet --corpus outputs/corpus --validation validation.parquet

Trains both ways for each seed, by `training/train.py`, and compares the models by `training/report.py`, as heads on
frozen towers for the five tasks. Results are kept in `--output`; a second call only computes what is missing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TASKS = ("category:fashion", "attributes:fashion", "adult:fashion", "matching:offers", "clustering:offers")
KINDS = ("raw", "prepared")
SHOWN = {
    "category": ["accuracy"],
    "attributes": ["accuracy"],
    "adult": ["average_precision"],
    "matching": ["average_precision"],
    "clustering": ["adjusted_rand_index"],
}


def run(script: str, *words: str) -> None:
    subprocess.run([sys.executable, f"training/{script}.py", *words], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--config", default="training/configs/first_model.yaml")
    parser.add_argument("--output", type=Path, default=Path("outputs/prepare_effect"))
    parser.add_argument("--samples", type=int, default=9600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max_task_rows", type=int, default=3000)
    given = parser.parse_args()
    data = {"raw": given.raw.resolve(), "prepared": (given.corpus / "kept").resolve()}
    models = {(kind, seed): given.output.resolve() / f"{kind}{seed}" for seed in range(given.seeds) for kind in KINDS}
    for (kind, seed), folder in models.items():
        if not (folder / "report.json").is_file():
            run(
                *("train", "--config", given.config, "--id_column", "offer_id", "--seed", str(seed)),
                *("--train_data", str(data[kind]), "--validation_data", str(given.validation.resolve())),
                *("--max_samples", str(given.samples), "--output_dir", str(folder)),
            )
    run(
        *("report", "--output_dir", str(given.output.resolve() / "tasks"), "--methods", "--label_shares", "1.0"),
        *("--num_seeds", "1", "--max_task_rows", str(given.max_task_rows), "--num_resamples", "100", "--tasks"),
        *(f"{task}:training/configs/tasks/{of}.yaml" for task, of in (name.split(":") for name in TASKS)),
        *("--baseline", *(str(folder) for folder in models.values())),
    )
    metrics: dict[str, dict[str, list[float]]] = {}
    for (kind, _), folder in models.items():
        trained = json.loads((folder / "report.json").read_text())["trained"]
        for name in ("text_to_image_recall@1", "image_to_text_recall@1", "text_to_image_recall@10"):
            metrics.setdefault(name, {}).setdefault(kind, []).append(trained[name])
    measured = json.loads((given.output / "tasks" / "report.json").read_text())  # on the tasks' test splits
    for (kind, _), folder in models.items():
        for row in measured:
            if row["method"] == str(folder) and row["metric"] in SHOWN[row["task"]]:
                name = f"{row['task']}, {row['modality']}: {row['metric']}"
                metrics.setdefault(name, {}).setdefault(kind, []).append(row["value"])
    (given.output / "effect.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"| {given.samples:,} samples, {given.seeds} seeds | raw | prepared | difference, per seed |")
    print("|---|---|---|---|")
    for name, of in metrics.items():
        raw, prepared = (np.array(of[kind]) for kind in KINDS)
        each = " ".join(f"{difference:+.3f}" for difference in prepared - raw)
        print(f"| {name} | {raw.mean():.3f} | {prepared.mean():.3f} | {each} |")


if __name__ == "__main__":
    main()
