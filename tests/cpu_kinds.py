"""The numeric tests under several kinds of CPU: `python tests/cpu_kinds.py [--quick]` (`make test-machines`).

A CPU with fewer vector instructions is had by telling PyTorch, oneDNN and MKL to use no others: sums are then taken in
other orders, and round otherwise. One with bfloat16 instructions is had by saying so to whoever asks (this file is a
plugin of pytest, too): what would then be computed in bfloat16 of its own accord shows. What such instructions
themselves round can't be had on a CPU without them.

Prints a table of what passed and failed; fails if anything did.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]

# Where numbers are computed and compared.
TESTS = [
    "losses", "accumulation", "retrieval", "inference/test_embed.py", "training/embedding",
    "training/engine/test_precision.py", "training/engine/test_patch_dropout.py", "training/engine/test_ema.py",
    "training/engine/test_lora.py", "test_adult.py", "test_attributes.py", "test_category.py", "test_category_tree.py",
    "test_clustering.py", "test_fusion.py", "test_heads.py", "test_matching.py", "test_modeling.py",
    "test_representation.py", "test_towers.py",
]  # fmt: skip
# OpenVINO listens to what oneDNN is told, but has no kernels for CPUs so old.
TESTS_FROM_AVX2 = ["export"]
# Of them, those that take long because they start processes, compile or train, whose numbers the others compare, too.
SLOW = [
    "processes", "ray", "ranks", "killed", "stranger", "graph_breaks", "stock_trainer", "faiss", "real_offers",
    "sharded", "spawned", "memory_is",
]  # fmt: skip

CPUS = {
    "SSE 4.1": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "as it is": {},
}
PRECISIONS = {"float32": "", "bfloat16": "1"}  # that the CPU is said to compute in
THREADS = (1, 4)
# Every value but those of the suite itself, which runs on the CPU as it is with one thread.
QUICK = [("SSE 4.1", "bfloat16", 4), ("AVX2", "float32", 1)]
_CLAIM = "CPU_KINDS_CLAIM_BFLOAT16"


def pytest_configure() -> None:
    """Claim bfloat16 instructions, in a process of pytest that this script has started so."""
    if os.environ.get(_CLAIM):
        import torch

        claimed = {**torch.cpu.get_capabilities(), "avx512_bf16": True, "amx_bf16": True}
        torch.cpu.get_capabilities = lambda: claimed  # type: ignore[assignment]


def run_tests(cpu: str, precision: str, threads: int) -> tuple[int, list[str]]:
    """Run the tests on a kind of CPU; return how many passed, and the names of those that failed."""
    environment = os.environ | CPUS[cpu] | {
        _CLAIM: PRECISIONS[precision],
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait for each other at work would take the cores from those that work, where cores are fewer.
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    tests = TESTS if cpu == "SSE 4.1" else TESTS + TESTS_FROM_AVX2
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "cpu_kinds", "-k", f"not ({' or '.join(SLOW)})"]
        command += [f"--junitxml={results}", "-o", "junit_duration_report=call", *(f"tests/{test}" for test in tests)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not results.is_file():
            sys.exit(done.stdout + done.stderr)
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    failed = [name for case in cases if (name := _failure(case))]
    passed = sum(len(case) == 0 or all(child.tag not in _NOT_PASSED for child in case) for case in cases)
    if failed or done.returncode:
        print(done.stdout[-20_000:], file=sys.stderr)
    return passed, failed or ([f"pytest ended with {done.returncode}"] if done.returncode else [])


_NOT_PASSED = ("failure", "error", "skipped")


def _failure(case: Any) -> str | None:
    is_bad = any(child.tag in ("failure", "error") for child in case)
    return f"{case.get('classname')}::{case.get('name')}" if is_bad else None


def rows_of_table(kinds: list[tuple[str, str, int]]) -> Iterator[tuple[str, list[str]]]:
    """Run the tests on all kinds, two at a time; yield a row of the table for each, and what failed."""
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(run_tests, *zip(*kinds, strict=True))
        for (cpu, precision, threads), (passed, failed) in zip(kinds, results, strict=True):
            yield f"| {cpu} | {precision} | {threads} | {passed:,} | {len(failed)} |", failed


def main() -> None:
    """Run the tests, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two kinds that have every value between them")
    quick = parser.parse_args().quick
    kinds = QUICK if quick else list(itertools.product(CPUS, PRECISIONS, THREADS))
    print("| CPU | it is said to compute in | threads | passed | failed |\n|---|---|--:|--:|--:|", flush=True)
    all_failed = []
    for row, failed in rows_of_table(kinds):
        print(row, flush=True)
        all_failed += failed
    if all_failed:
        sys.exit("\n".join(["failed:", *sorted(set(all_failed))]))


if __name__ == "__main__":
    main()
