"""Importing the package takes no time, and its classes are there when transformers is asked for them."""

import subprocess
import sys

import pytest
from conftest import ROOT

from modeling_eclip.registration import DoneWhenImported

# torch is there before the fork, so that each order of imports costs what transformers does.
ORDERS = """
import os, sys, traceback
import torch
failed = []
for order in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            exec(order)
            from transformers import AutoConfig, AutoModel, AutoProcessor, CONFIG_MAPPING, MODEL_MAPPING
            assert CONFIG_MAPPING["eclip"].__name__ == "EClipConfig"
            model = MODEL_MAPPING[CONFIG_MAPPING["eclip"]]
            assert model is sys.modules["modeling_eclip.modeling_eclip"].EClipModel
            assert model._auto_class == "AutoModel"
            from transformers.pipelines import PIPELINE_REGISTRY
            assert "eclip-product-matching" in PIPELINE_REGISTRY.supported_tasks
            assert not any(type(finder).__name__ == "DoneWhenImported" for finder in sys.meta_path)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(order)
sys.exit(f"not registered after: {failed}" if failed else 0)
"""


def python(*words):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_brings_neither_torch_nor_the_auto_classes():
    loaded = python("-c", "import modeling_eclip, sys; dir(modeling_eclip); print(*sorted(sys.modules))").split()
    assert "modeling_eclip" in loaded
    assert not {"torch", "transformers", "modeling_eclip.modeling_eclip"} & set(loaded)


def test_classes_are_registered_whatever_is_imported_first():
    names = ("AutoConfig", "AutoProcessor", "pipeline", "CLIPModel")
    orders = [f"import modeling_eclip; from transformers import {name}" for name in names]
    orders += ["from transformers import AutoModel; import modeling_eclip"]
    orders += [f"import modeling_eclip.{module}_eclip" for module in ("towers", "hub", "pipelines")]
    python("-c", ORDERS, *orders)


def test_every_public_name_is_there():
    import modeling_eclip

    assert all(getattr(modeling_eclip, name) is not None for name in modeling_eclip.__all__)
    assert set(modeling_eclip.__all__) <= set(dir(modeling_eclip))
    with pytest.raises(AttributeError, match="EClipModle"):
        _ = modeling_eclip.EClipModle


def test_what_waits_is_done_after_the_outermost_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "__init__": "",
        "inner": "",
        "outer": "from watched_package import inner\nwhole = True",
        "never": "",
    }.items():
        (tmp_path / "watched_package").mkdir(exist_ok=True)
        (tmp_path / "watched_package" / f"{name}.py").write_text(text)
    seen = []

    def inner_is_there():
        seen.append(getattr(sys.modules["watched_package.outer"], "whole", False))
        import watched_package.never  # noqa: F401  # what is done may import, too

    waiting = {
        "watched_package.inner": inner_is_there,
        "watched_package.never": lambda: seen.append("never"),
    }
    finder = DoneWhenImported(["watched_package"], waiting)
    finder.start()
    assert not seen
    import watched_package.outer

    assert seen == [True, "never"]
    assert finder not in sys.meta_path
    assert "exec_module" not in vars(watched_package.outer.__loader__)


def test_an_import_that_fails_leaves_nothing_undone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing_package.py").write_text("import json\nraise RuntimeError('broken')")
    (tmp_path / "wanted_module.py").write_text("")
    seen = []
    finder = DoneWhenImported(["failing_package", "wanted_module"], {"wanted_module": lambda: seen.append("done")})
    finder.start()
    with pytest.raises(RuntimeError, match="broken"):
        __import__("failing_package")
    assert not seen
    __import__("wanted_module")
    assert seen == ["done"]
    assert finder not in sys.meta_path
