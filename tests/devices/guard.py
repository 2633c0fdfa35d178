"""The part of the device that only C++ can give: compiled once, and loaded before torch is imported."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path


def build_guard(folder: Path) -> Path:
    """Compile it, which takes some seconds.

    Args:
        folder: Where the library is written to.

    Returns:
        The library.

    Raises:
        FileNotFoundError: there is no C++ compiler.
        subprocess.CalledProcessError: it could not compile.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (c++, g++ or clang++; the variable CXX names another)")
    torch, library = _torch_folder(), folder / "libcuda_guard.so"
    libraries = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"]
    command = [compiler, "-shared", "-fPIC", "-std=c++20", "-w", f"-I{torch / 'include'}"]
    command += [str(Path(__file__).with_name("cuda_guard.cpp")), *libraries, "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def load_guard(library: Path) -> None:
    """Load it: torch looks once, when it is imported, whether there is CUDA."""
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


__all__ = ["build_guard", "load_guard"]
