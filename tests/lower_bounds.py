"""Print the lower bounds of pyproject.toml as constraints for pip; `make test-oldest` installs them."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?(?P<bound>[>=]=)(?P<version>[\w.]+)(?:,<[\w.]+)?")


def lower_bounds(project: Mapping[str, Any]) -> dict[str, str]:
    """Return the oldest version of every package that is asked for.

    Args:
        project: The table `project` of a pyproject.toml.

    Returns:
        Versions by name.

    Raises:
        ValueError: a requirement has no lower bound, or a package has two.
    """
    bounds: dict[str, str] = {}
    for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
        if requirement.startswith(f"{project['name']}["):
            continue  # another extra
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no lower bound; write it as 'name>=1.2,<2'.")
        name, version = found["name"], found["version"]
        if bounds.setdefault(name, version) != version:
            raise ValueError(f"{name!r} has the lower bounds {bounds[name]} and {version}; give it one.")
    return bounds


if __name__ == "__main__":
    for name, version in lower_bounds(tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]).items():
        print(f"{name}=={version}")
