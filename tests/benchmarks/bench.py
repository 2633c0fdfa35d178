"""This package against its peers, on the same work: `make bench PEER_PYTHON=...`.

The two sides take turns, each in a process of its own, for several rounds, so that both see the same noise and neither
uses the other's memory. A ratio says how many times better this package is: the median over the rounds, with the
lowest and the highest. Both sides must have the same loss, the same vectors (cosine above 0.999) or the same
neighbours (recall of .99), or the benchmark stops.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contests import CONTESTS, Contest, Row
from curves import draw_curves
from sides import ROOT, missing_module, run_side

# A round is repeated if other processes use more of the cores than this.
BUSY_SHARE = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contests that are asked for, print their table and write it to a file; draw the curves with all of them.

    Returns:
        0, whether the goals are reached or not.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="interpreter that has open_clip; its rows are empty without it")
    parser.add_argument(
        "--only", nargs="+", choices=[contest.name for contest in CONTESTS], help="some of the work, and no curves"
    )
    parser.add_argument("--rounds", type=int, help="rounds, in place of each work's own number")
    parser.add_argument("--number", type=int, help="products, in place of each work's own number, to try it out")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "bench.json")
    arguments = parser.parse_args(argv)
    own = ("PyTorch", "faiss, exact", "sentence-transformers", "transformers")
    interpreters = {"open_clip": arguments.peer_python, **dict.fromkeys(own, sys.executable)}
    rows: list[dict[str, Any]] = []
    for contest in CONTESTS:
        if arguments.only is None or contest.name in arguments.only:
            if contest.needs_shared and not (ROOT.parent / "shared").is_dir():
                print(f"\n{contest.name} was left out: it needs the data and towers in ../shared.", flush=True)
                continue
            absent = [name for name in contest.needs_modules if importlib.util.find_spec(name) is None]
            if absent:
                print(f"\n{contest.name} was left out: {', '.join(absent)} is not installed.", flush=True)
                continue
            contest = contest.of_size(arguments.number)
            results = run_rounds(contest, interpreters, arguments.rounds or contest.rounds)
            added = [make_row(row, contest, *results) for row in contest.rows]
            rows += added
            print(as_table(added), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"\n{as_table(rows)}\n\nwritten to {arguments.output}")
    if arguments.only is None:
        draw_curves(arguments.output.parent, arguments.peer_python)
    return 0


def run_rounds(
    contest: Contest, interpreters: dict[str, str | None], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run both sides in turns; repeat rounds during which other processes used the cores, up to twice the number.

    Args:
        contest: The work.
        interpreters: Interpreter that has each peer, or nothing.
        rounds: How often each side works.

    Returns:
        Measurements of each round, of our side and of the peer's; the latter are empty where the peer is absent.

    Raises:
        RuntimeError: a side fails, or the two did not do the same work.
    """
    print(f"\n{contest.name}: {contest.work}", flush=True)
    interpreter = interpreters.get(contest.peer)
    missing = missing_module(contest.peer, interpreter) if contest.theirs is not None else None
    if missing is not None:
        print(f"  {contest.peer} was not measured: {missing}.", flush=True)
    quiet: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
    busy: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
    while len(quiet) < rounds and len(quiet) + len(busy) < 2 * rounds:
        ours = run_side(sys.executable, contest.our_side, contest.function, contest.ours, contest.threads)
        theirs = None
        if contest.theirs is not None and missing is None:
            assert interpreter is not None
            theirs = run_side(interpreter, contest.side, contest.function, contest.theirs, contest.threads)
            check_same_work(contest, ours, theirs)
        is_busy = max(side["busy"] for side in (ours, theirs) if side) > BUSY_SHARE
        (busy if is_busy else quiet).append((ours, theirs))
        shown = " | ".join(
            f"{name} {side['seconds']:.2f} s, {side['peak_bytes'] / 2**30:.2f} GiB, others at {side['busy']:.0%}"
            for name, side in (("ours", ours), ("theirs", theirs))
            if side
        )
        print(f"  {'busy ' if is_busy else ''}round: {shown}", flush=True)
    if len(quiet) < rounds:
        print(f"  other processes kept the cores busy: {rounds - len(quiet)} of the {rounds} rounds are from then")
    kept = (quiet + busy)[:rounds]
    return [ours for ours, _ in kept], [theirs for _, theirs in kept if theirs is not None]


def check_same_work(contest: Contest, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare the sides' results: a loss, vectors or neighbours."""
    if "vectors" in ours:
        found = [np.load(side["vectors"]) for side in (ours, theirs)]
        for side in (ours, theirs):
            os.unlink(side["vectors"])
        lengths = np.linalg.norm(found, axis=2)
        cosine = ((found[0] * found[1]).sum(axis=1) / lengths.prod(axis=0)).min()
        print(f"  cosine of the two at least {cosine:.5f}", flush=True)
        if not cosine > 0.999:
            raise RuntimeError(f"{contest.name}: vectors differ from {contest.peer}'s, with a cosine of {cosine}.")
    elif "neighbors" in ours:
        pairs = zip(ours["neighbors"], theirs["neighbors"], strict=True)
        recall = statistics.mean(len(set(one) & set(other)) / len(other) for one, other in pairs)
        memory = f"{ours['bytes_in_memory']} and {theirs['bytes_in_memory']} bytes of a vector in memory"
        print(f"  recall {recall:.4f}; {memory}", flush=True)
        if recall < 0.99:
            raise RuntimeError(f"{contest.name}: {recall:.4f} of the neighbours are found; take more candidates.")
    elif abs(ours["value"] - theirs["value"]) > 1e-4 * abs(theirs["value"]):
        raise RuntimeError(
            f"{contest.name}: the loss is {ours['value']} here and {theirs['value']} with {contest.peer}; the sides "
            "do not do the same work, so no ratio means anything."
        )


def make_row(row: Row, contest: Contest, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one row of the result.

    Args:
        row: What is compared.
        contest: The work.
        ours: Measurements of our side, one per round.
        theirs: The same of the peer; empty where it is absent.

    Returns:
        `work`, `peer`, `ours` and `theirs` (medians, in `unit`), `ratio` (median of the rounds, how many times better
        ours is) with `low` and `high`, and `goal`. `theirs`, `ratio`, `low` and `high` are null where there is no
        peer.
    """
    our_values = [row.value(measured) for measured in ours]
    their_values = [row.value(measured) for measured in theirs] if row.limit is None else [row.limit] * len(ours)
    ratios = [row.ratio(our, their) for our, their in zip(our_values, their_values, strict=False)]
    return {
        "work": row.work,
        "peer": row.limit_name if row.limit is not None else contest.peer,
        "ours": _rounded(statistics.median(our_values)),
        "theirs": _rounded(statistics.median(their_values)) if their_values else None,
        "unit": row.unit,
        "ratio": _rounded(statistics.median(ratios)) if ratios else None,
        "low": _rounded(min(ratios)) if ratios else None,
        "high": _rounded(max(ratios)) if ratios else None,
        "goal": row.goal,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    lines = [
        "| work | against | ours | theirs | times better (lowest to highest) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "not measured"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
        theirs = "-" if row["theirs"] is None else f"{row['theirs']:.3g} {row['unit']}"
        ours = f"{row['ours']:.3g} {row['unit']}"
        lines.append(f"| {row['work']} | {row['peer']} | {ours} | {theirs} | {ratio} | {row['goal']:g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
