"""The rooms of `training`: which way their imports point, and that scripts stay scripts."""

import ast
from pathlib import Path

import training

FOLDER = Path(training.__file__).parent
SCRIPTS = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
# As CONTRIBUTING.md lists them: a room imports from those further down alone.
FLOORS = [
    SCRIPTS,
    {"benchmark", "embedding", "corpus"},
    {"evaluation"},
    {"tasks"},
    {"engine"},
    {"retrieval"},
    {"hub"},
    {"arguments"},
    {"data", "plots", "metrics"},
]
PREPARATION = {"arguments", "corpus", "data", "plots"}  # what preparation may use; none of it trains a model


def imported_rooms(path):
    """Every room or script of `training` that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively, which this test does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            # A script puts its own folder first on the import path: `import train` would be a script, too.
            first, *further = name.split(".")
            if first == "training" and further:
                yield further[0]
            elif first in SCRIPTS:
                yield first


def rooms_of(folder):
    return sorted({room for path in folder.rglob("*.py") for room in imported_rooms(path)})


def test_every_room_is_on_a_floor_and_imports_from_those_below_alone():
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    rooms = {path.parent.name for path in FOLDER.glob("*/__init__.py")} | {"metrics"}  # which `evaluate` copies
    assert rooms == floor_of.keys() - SCRIPTS
    for room in rooms:
        wrong = [name for name in rooms_of(FOLDER / room) if name != room and floor_of[name] <= floor_of[room]]
        assert not wrong, f"{room} imports {wrong}"


def test_no_script_is_imported():
    files = list(FOLDER.rglob("*.py"))
    assert len(files) > 100
    for path in files:
        assert not SCRIPTS & set(imported_rooms(path)), f"{path.name} imports {SCRIPTS & set(imported_rooms(path))}"


def test_preparation_imports_no_training():
    assert set(rooms_of(FOLDER / "corpus")) <= PREPARATION
