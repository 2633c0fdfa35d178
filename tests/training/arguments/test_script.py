"""What a script tells of a mistake: one line and exit code 2, before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.arguments.options import check_encoding
from training.arguments.script import script

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted(path.stem for path in (ROOT / "training").glob("*.py") if path.stem not in ("__init__", "quickstart"))

# Runs every script with an argument that it does not have, and then with --help.
WITHOUT_TORCH = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    for words, status in ((["--nonsense_argument", "1"], 2), (["--help"], 0)):
        sys.argv = [f"training/{name}.py", *words]
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as left:
            assert left.code == status, (name, left.code, told.getvalue())
        if status:
            assert len(told.getvalue().splitlines()) == 1 and "did you mean" in told.getvalue(), told.getvalue()
        assert "torch" not in sys.modules, name
print("fine")
"""


def test_arguments_are_parsed_before_torch_is_imported():
    assert len(SCRIPTS) == 11
    command = [sys.executable, "-c", WITHOUT_TORCH, *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


def raise_own():
    check_encoding("klingon")


def raise_missing(module):
    raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def raise_foreign():
    import json

    json.loads("{")


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (raise_own, "`encoding` is 'klingon'; give one that Python knows, such as utf-8 or latin-1."),
        (lambda: Path("/nowhere/at.all").read_text(), "[Errno 2] No such file or directory: '/nowhere/at.all'"),
        (lambda: __import__("no_such_package"), "No module named 'no_such_package'"),
        (
            lambda: raise_missing("daft"),
            "No module named 'daft': pip install 'modeling-eclip[prepare]', or `make install` in a clone",
        ),
        (
            lambda: raise_missing("sklearn.svm"),
            "No module named 'sklearn.svm': pip install 'modeling-eclip[train]', or `make install` in a clone",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training/train.py"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit) as left, script():
        mistake()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"train.py: {line}\n"


def test_one_rank_of_several_says_which(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), script():
        raise_own()
    assert capsys.readouterr().err.startswith("train.py: rank 1: `encoding`")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    with pytest.raises(ValueError, match="Expecting property name"), script():
        raise_foreign()
    with pytest.raises(TypeError), script():
        raise TypeError
    monkeypatch.setenv("ECLIP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="klingon"), script():
        raise_own()


def test_an_interrupt_ends_quietly(capsys):
    with pytest.raises(SystemExit) as left, script():
        raise KeyboardInterrupt
    assert left.value.code == 130 and "Traceback" not in capsys.readouterr().err
