"""The package's classes join transformers' Auto classes once those are there, so that its import takes no time.

transformers brings torch and its Auto classes when a first name is asked for; taking them for the sake of registration
would make everybody wait who imports the package. So imports of transformers and of this package are watched, and what
waits for a module is done at the end of the outermost import that brings it: no module is half there at that point.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]


class DoneWhenImported(MetaPathFinder):
    """Does what waits for a module when that has been imported.

    Args:
        packages: Packages whose imports are watched: those of the modules, and of what imports them.
        waiting: Per module what is done; called without arguments.
    """

    def __init__(self, packages: Sequence[str], waiting: dict[str, Callable[[], None]]) -> None:
        """Watch nothing yet."""
        self.packages = packages
        self.waiting = waiting
        self._depth = threading.local()  # of watched imports within each other

    def start(self) -> None:
        """Do what waits for modules that are there already, and watch for the others."""
        sys.meta_path.insert(0, self)
        self._run_ready()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module as others would, and notice when it has been executed."""
        if fullname.partition(".")[0] not in self.packages:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module  # the loader stays as it was found
                self._enter(1)
                try:
                    execute(module)
                finally:
                    self._enter(-1)
                self._run_ready()

            loader.exec_module = exec_module
        return spec

    def _enter(self, step: int) -> int:
        self._depth.value = getattr(self._depth, "value", 0) + step
        return self._depth.value

    def _run_ready(self) -> None:
        if self._enter(0):
            return
        self._enter(1)  # what is imported now is for those that wait
        try:
            while ready := [module for module in self.waiting if module in sys.modules]:
                self.waiting.pop(ready[0])()
        finally:
            self._enter(-1)
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def register_when_imported() -> None:
    """Register the package's classes and pipelines with transformers as soon as it can be asked for them."""

    def register_classes() -> None:
        importlib.import_module(f"{_PACKAGE}.hub_eclip").register_auto_classes(_PACKAGE)

    def register_pipelines() -> None:
        importlib.import_module(f"{_PACKAGE}.pipelines_eclip").register_pipelines()

    DoneWhenImported(
        ("transformers", _PACKAGE),
        {
            "transformers.models.auto.configuration_auto": register_classes,
            "transformers.pipelines": register_pipelines,
        },
    ).start()


__all__ = ["DoneWhenImported", "register_when_imported"]
