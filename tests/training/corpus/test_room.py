"""The corpus room: what its modules may import."""

import ast
from pathlib import Path

import training.corpus

BELOW = ("arguments", "corpus", "data", "plots")  # rooms of `training` that preparation may use; none trains a model


def imported(path):
    """Every module that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively, which this test does not follow"
            yield node.module
            if node.module == "training":
                yield from (f"training.{alias.name}" for alias in node.names)


def test_preparation_imports_no_training():
    files = sorted(Path(training.corpus.__file__).parent.glob("*.py"))
    assert len(files) > 20
    for path in files:
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("training.")}
        assert rooms <= set(BELOW), f"{path.name} imports {sorted(rooms - set(BELOW))}"
