"""The oldest versions that pyproject.toml allows, which `make test-oldest` installs."""

import re
import tomllib

import pytest
from conftest import ROOT
from lower_bounds import lower_bounds


def test_bounds_are_read_from_all_extras_by_hand():
    extras = {"a": ["c-d[e]>=2.0.1,<3", "me[b]"], "b": ["f==1.5", "x>=1"]}
    project = {"name": "me", "dependencies": ["x>=1", "y_z>=2.10"], "optional-dependencies": extras}
    assert lower_bounds(project) == {"x": "1", "y_z": "2.10", "c-d": "2.0.1", "f": "1.5"}


@pytest.mark.parametrize(("wrong", "message"), [("x<2", "no lower bound"), ("x>=1.1", "1 and 1.1"), ("x", "no lower")])
def test_a_bound_that_is_missing_or_doubled_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        lower_bounds({"name": "me", "dependencies": ["x>=1"], "optional-dependencies": {"a": [wrong]}})


def numbers(version):
    return [int(part) for part in version.split(".")]


def test_what_is_pinned_is_no_older_than_the_bound():
    """constraints.txt pins what CI tests with: each direct dependency once, at its bound or later."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for name, bound in lower_bounds(project).items():
        assert numbers(pinned[name.lower()]) >= numbers(bound), name


def test_every_python_that_is_allowed_is_classified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line) for line in project["classifiers"]]
    assert f">=3.{min(int(found[1]) for found in named if found)}" == project["requires-python"]
