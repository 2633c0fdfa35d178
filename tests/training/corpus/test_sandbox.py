"""Processes that examine offers: work is shared out, and a row that ends one costs nothing but itself."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from training.arguments.prepare import ImageLimits
from training.corpus.offer_facts import RawOffer, describe_offers
from training.corpus.sandbox import at_most, in_process, stop_processes

DEADLY, ENDLESS = "deadly", "endless"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    # The server that processes are forked from imports this module once, or else each process does.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def lengths(rows, extra=0):
    """Return the length of each row; one of them can not be looked at and lived."""
    if DEADLY in rows:
        os.kill(os.getpid(), signal.SIGSEGV)
    with at_most(0.05):
        if ENDLESS in rows:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in code that does not return to Python
    return pa.array([len(row) + extra for row in rows], pa.int64())


def process_ids(rows):
    time.sleep(0.2)
    return pa.array([os.getpid()] * len(rows), pa.int64())


def failing(rows):
    raise ValueError(f"no {rows[0]}")


def blank(row):
    return ""


def test_rows_are_answered_in_their_order_by_other_processes():
    assert in_process(lengths, ["a", "bbb", ""], 10, without=blank).to_pylist() == [11, 13, 10]
    assert os.getpid() not in in_process(process_ids, ["a"], without=blank).to_pylist()


def test_processes_are_started_anew_where_none_is_forked(monkeypatch):
    """As on Windows."""
    get_context = multiprocessing.get_context

    def no_forks(method=None):
        if method != "spawn":
            raise ValueError(f"cannot find context for {method!r}")
        return get_context(method)

    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(multiprocessing, "get_context", no_forks)
    stop_processes()
    assert in_process(lengths, ["a", "bbb"], without=blank).to_pylist() == [1, 3]
    stop_processes()


def test_threads_have_a_process_each():
    barrier = threading.Barrier(2)

    def ask(_):
        barrier.wait()
        return in_process(process_ids, ["a"], without=blank)[0].as_py()

    with ThreadPoolExecutor(2) as threads:
        found = [set(threads.map(ask, range(2))) for _ in range(5)]
    processes = len(set.union(*found))
    assert processes == 2 if len(os.sched_getaffinity(0)) > 1 else processes == 1


def test_what_the_function_raises_comes_back():
    with pytest.raises(ValueError, match="no title"):
        in_process(failing, ["title"], without=blank)


@pytest.mark.parametrize("bad", [DEADLY, ENDLESS])
def test_a_row_that_ends_its_process_is_taken_without_what_did(bad):
    rows = ["a", bad, "bbb"]
    assert in_process(lengths, rows, 5, without=blank).to_pylist() == [6, 5, 8]
    # Others that were under way at that moment lose nothing either, and later ones have processes again.
    with ThreadPoolExecutor(4) as threads:
        batches = [["a" * place, bad if place % 3 == 0 else "b"] for place in range(8)]
        answers = list(threads.map(lambda rows: in_process(lengths, rows, without=blank).to_pylist(), batches))
    assert answers == [[place, 0 if place % 3 == 0 else 1] for place in range(8)]


def test_an_offer_whose_image_ends_the_process_has_an_unreadable_image():
    offer = RawOffer("Red shoe", b"\xff\xd8\xff", None, {}, -1, "shoes").with_unreadable_image()
    (facts,) = describe_offers([offer], (), ImageLimits()).to_pylist()
    assert (facts["reason"], facts["title"], facts["category"]) == ("image_unreadable", "Red shoe", "shoes")


def test_processes_end_with_a_program_that_is_killed(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from test_sandbox import blank, process_ids\n"
        "from training.corpus.sandbox import in_process\n"
        "if __name__ == '__main__':\n"
        "    print(in_process(process_ids, ['a'], without=blank)[0].as_py(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_for_end([int(done.stdout)])


def test_processes_that_were_stopped_are_replaced():
    before = in_process(process_ids, ["a"], without=blank)[0].as_py()
    stop_processes()
    assert not Path(f"/proc/{before}").exists()
    assert in_process(process_ids, ["a"], without=blank)[0].as_py() != before


def wait_long(rows):
    time.sleep(300)


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, ""),
        ("raise ValueError('no offers')", 1, "ValueError: no offers"),
    ],
)
def test_a_script_that_fails_ends_at_once_with_its_threads_and_processes(end, status, said, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import multiprocessing, os, signal, sys, threading, time\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from test_sandbox import blank, wait_long\n"
        "from training.corpus.sandbox import in_process, run_script\n"
        "def main():\n"
        "    call = lambda: in_process(wait_long, ['a'], without=blank)\n"
        "    threading.Thread(target=call).start()\n"
        "    while not multiprocessing.active_children():\n"
        "        time.sleep(0.1)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        f"    {end}\n"
        "if __name__ == '__main__':\n"
        "    run_script(main)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    wait_for_end([int(process) for process in done.stdout.split()])


def wait_for_end(processes):
    assert processes
    for _ in range(100):
        if not any(Path(f"/proc/{process}").exists() for process in processes):
            return
        time.sleep(0.1)
    pytest.fail(f"of {processes} some are still there")
