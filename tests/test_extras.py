"""The base package needs none of the optional libraries; a sub-package that needs one names the extra in one line."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "modeling_eclip"

SCRIPT = """
import importlib, sys
for library in ("PIL", "datasets", "matplotlib", "sklearn"):
    sys.modules[library] = None
import modeling_eclip
print(sorted(name for name in ("export", "fitting", "plots", "toy") if f"modeling_eclip.{name}" in sys.modules))
for name in ("fitting", "plots", "toy"):
    try:
        importlib.import_module(f"modeling_eclip.{name}")
    except ImportError as error:
        print(error)
print(importlib.import_module("modeling_eclip.export").__name__)
"""


def test_a_missing_library_is_told_in_one_line_that_names_the_extra():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == [
        "[]",
        'modeling_eclip.fitting needs scikit-learn: pip install "modeling-eclip[fitting]", or ".[fitting]" in a clone',
        'modeling_eclip.plots needs matplotlib: pip install "modeling-eclip[plots]", or ".[plots]" in a clone',
        'modeling_eclip.toy needs datasets and Pillow: pip install "modeling-eclip[toy]", or ".[toy]" in a clone',
        "modeling_eclip.export",
    ], done.stderr[-2000:]


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_sub_package_imports_the_package_relatively_and_never_the_training(room):
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            assert not {name.split(".")[0] for name in modules} & {"modeling_eclip", "training"}, (path, modules)
