"""The package on a stand-in for a GPU: the tests of `cases_*.py`, in a process of their own."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from guard import build_guard

HERE = Path(__file__).resolve().parent


def test_cases(tmp_path, subtests):
    if sys.platform != "linux":
        pytest.skip("the stand-in for a GPU is loaded by Linux's rules for shared libraries")
    try:
        library = build_guard(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(f"the stand-in for a GPU wants to be compiled: {error}")
    report = tmp_path / "report.xml"
    command = [sys.executable, str(HERE / "run_cases.py"), str(library), "-q", "--tb=short", f"--junitxml={report}"]
    run = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert report.is_file(), run.stdout[-4000:] + run.stderr[-4000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert {Path(case.get("classname").replace(".", "/")).name for case in cases} == {
        path.stem for path in HERE.glob("cases_*.py")
    }
    for case in cases:
        with subtests.test(f"{case.get('classname').rpartition('.')[2]}::{case.get('name')}"):
            problems = [child for child in case if child.tag in ("failure", "error", "skipped")]
            assert not problems, problems[0].text or problems[0].get("message")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
