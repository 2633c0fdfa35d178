"""Does the method help? Train every setting of `compare_methods.yaml` on real products, and print one table.

    python tests/benchmarks/compare_methods.py --workers 2
    python tests/benchmarks/compare_methods.py --finished   # the table of the runs that are done by now

Each run sees as many samples as any other and is measured on the test splits. Runs that are done are not done again.
Writes `report.json` and `report.md` to the output folder.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from training.arguments.model import ModelArguments

ROOT = Path(__file__).parents[2]
# Metrics of `evaluate_tasks.py`, and their names in the table.
COLUMNS = {
    "text_to_image_recall@1": "recall@1",
    "text_to_image_recall@10": "recall@10",
    "matching_features_image": "image AP",
    "matching_features_text": "title AP",
    "matching_features_both": "both AP",
    "matching_embeds_image": "image AP, projected",
    "matching_embeds_text": "title AP, projected",
    "matching_embeds_both": "both AP, projected",
}


def is_done(folder: Path) -> bool:
    """Tell whether a run was trained and measured."""
    return (folder / "evaluation" / "report.json").exists()


def run(name: str, seed: int, plan: dict[str, Any], folder: Path, threads: int) -> dict[str, float]:
    """Train and measure one setting with one seed, unless that was done."""
    if not is_done(folder):
        folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_load((ROOT / plan["config"]).read_text()) | plan["common"] | plan["settings"][name]
        of_model = {field.name for field in dataclasses.fields(ModelArguments)}
        of_data = {key: value for key, value in settings.items() if key not in of_model}
        (folder / "train.yaml").write_text(yaml.safe_dump(settings))
        (folder / "evaluate.yaml").write_text(yaml.safe_dump(of_data))  # without the model there is no untrained one
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        model = folder / "model"
        train: list[Any] = ["train.py", "--config", folder / "train.yaml", "--seed", seed, "--output_dir", model]
        measure: list[Any] = ["evaluate_tasks.py", "--config", folder / "evaluate.yaml", "--checkpoint", model]
        commands = [
            [*train, "--overwrite_output_dir", "true"],
            [*measure, "--output_dir", folder / "evaluation"],
        ]
        with (folder / "log.txt").open("w") as log:
            for script, *extra in commands:
                command = [sys.executable, str(ROOT / "training" / script), *map(str, extra)]
                subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    metrics: dict[str, dict[str, float]] = json.loads((folder / "evaluation" / "report.json").read_text())
    training = json.loads((folder / "model" / "report.json").read_text())
    (measured,) = metrics.values()
    return measured | {"seconds": training["seconds"]}


def table(results: dict[str, list[dict[str, float]]], columns: dict[str, str]) -> str:
    """Return the results as a Markdown table: mean and standard deviation over the seeds."""
    columns = {metric: label for metric, label in columns.items() if metric in next(iter(results.values()))[0]}
    lines = ["| setting | seeds | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    for name, runs in results.items():
        cells = []
        for metric in columns:
            values = [metrics[metric] for metrics in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_suffix(".yaml"), help="what to run")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "compare_methods", help="where results go")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, which share the processors")
    parser.add_argument("--seeds", type=int, nargs="*", help="seeds in place of the plan's")
    parser.add_argument("--only", nargs="*", help="names of settings in place of all")
    parser.add_argument("--finished", action="store_true", help="run nothing; report what is done")
    arguments = parser.parse_args()
    plan = yaml.safe_load(arguments.plan.read_text())
    seeds = plan["seeds"] if arguments.seeds is None else arguments.seeds
    names = [name for name in plan["settings"] if arguments.only is None or name in arguments.only]
    threads = max(1, (os.cpu_count() or 1) // arguments.workers)
    with ThreadPoolExecutor(arguments.workers) as pool:
        futures = {
            (name, seed): pool.submit(run, name, seed, plan, folder, threads)
            for seed in seeds
            for name in names
            if is_done(folder := arguments.output / f"{name}, seed {seed}") or not arguments.finished
        }
        for (name, seed), future in futures.items():
            metrics = future.result()
            print(f"{name}, seed {seed}: recall@1 {metrics['text_to_image_recall@1']:.3f}", flush=True)
    results = {name: [futures[name, seed].result() for seed in seeds if (name, seed) in futures] for name in names}
    results = {name: runs for name, runs in results.items() if runs}
    (arguments.output / "report.json").write_text(json.dumps(results, indent=2) + "\n")
    seconds = [metrics["seconds"] for runs in results.values() for metrics in runs]
    text = f"{table(results, COLUMNS)}\n\n{statistics.mean(seconds):.0f} s of training a run\n"
    (arguments.output / "report.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
