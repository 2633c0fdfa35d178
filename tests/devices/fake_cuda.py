"""A `cuda:0` for machines without a GPU: real numbers, a GPU's rules about devices, and a count of the host's waits.

A tensor on it holds its values in a tensor on the CPU, so that results can be compared. What a GPU refuses is refused:
an operation with tensors of both devices, but for scalars on the CPU beside tensors on the device. What makes the host
wait for a GPU is counted: a value that is read, a shape that depends on values, a copy that is waited for. Kernels,
streams and memory are not imitated, and nothing here tells how fast anything is.

It is for a process of its own (`run_cases.py`): torch looks once whether there is CUDA.
"""

import collections
import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map

aten = torch.ops.aten

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]
_ROOMS = tuple(f"{REPOSITORY / room}/" for room in ("modeling_eclip", "training"))

# Operations that a GPU does with tensors of both devices.
_COPIES = (aten.copy_.default, aten._to_copy.default)
_INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
)
# Operations whose result is a value for the host, or has a shape that depends on values.
_WAITS = {
    aten._local_scalar_dense.default: "value read",
    aten.equal.default: "value read",
    aten.is_nonzero.default: "value read",
    aten.nonzero.default: "shape from values",
    aten.masked_select.default: "shape from values",
    aten._unique2.default: "shape from values",
    aten.unique_dim.default: "shape from values",
    aten.unique_consecutive.default: "shape from values",
    aten.repeat_interleave.Tensor: "shape from values",
    aten.bincount.default: "shape from values",
}
# Of these even a scalar has to be on the device.
_NO_SCALARS = (aten.mm.default, aten.addmm.default, aten.cat.default, aten.stack.default, aten.gather.default)

_counters: list["collections.Counter[tuple[str, str]]"] = []


class MixedDevicesError(RuntimeError):
    """An operation had tensors of the CPU and of the device."""


class CudaTensor(torch.Tensor):
    """A tensor on the device.

    Args:
        values: What it holds, on the CPU.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "CudaTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=CUDA,
        )
        tensor.values_on_cpu = values
        return tensor

    def __repr__(self) -> str:
        return f"CudaTensor({self.values_on_cpu})"

    def tolist(self) -> Any:
        """Return the values as numbers, by a copy to the host."""
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the storage of the values, which tensors that share memory have in common."""
        return self.values_on_cpu.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class FakeCuda(TorchDispatchMode):
    """While it is active, tensors can be made on the device and moved to it."""

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # below the modes of whoever is tested

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def install() -> None:
    """Have torch believe that there is one such device; the process has to have loaded the guard (`guard.py`)."""
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` is a copy that can be seen
    torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter stays the object that it was
    replaced: dict[str, Any] = {
        "Stream": _Stream,
        "stream": contextlib.nullcontext,
        "current_stream": _Stream,
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": contextlib.nullcontext,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "get_device_capability": lambda device=None: (9, 0),
    }
    for name, function in replaced.items():
        setattr(torch.cuda, name, function)


class _Stream:
    """A queue of work, of which there is none: whatever is asked for is done at once."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, stream: "_Stream") -> None:
        """Have the device wait, which the host does not."""


@contextlib.contextmanager
def counted_waits() -> Iterator["collections.Counter[tuple[str, str]]"]:
    """Count what makes the host wait for the device inside.

    Yields:
        How often, by kind and by the line that asked for it.
    """
    counter: collections.Counter[tuple[str, str]] = collections.Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


def on_cpu(value: Any) -> Any:
    """Return tensors, alone or in containers, with their values on the CPU; no wait is counted."""
    return tree_map(lambda item: item.values_on_cpu if isinstance(item, CudaTensor) else item, value)


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and say on which device the result lies."""
    if function is aten._pin_memory.default:
        return args[0].clone()
    tensors = [item for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)]
    is_on_cuda = any(isinstance(tensor, CudaTensor) for tensor in tensors)
    if is_on_cuda:
        _refuse_mixed(function, tensors)
    _count(function, args, kwargs, is_on_cuda)
    kwargs_on_cpu = dict(kwargs)
    if (device := kwargs.get("device")) is not None:
        is_on_cuda = device.type == "cuda"
        kwargs_on_cpu["device"] = CPU
        kwargs_on_cpu.pop("pin_memory", None)
    result = function(*on_cpu(args), **on_cpu(kwargs_on_cpu))
    if not is_on_cuda:
        return result
    result = tree_map(lambda item: CudaTensor(item) if isinstance(item, torch.Tensor) else item, result)
    arguments = function._schema.arguments
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in arguments):
        return return_and_correct_aliasing(function, args, kwargs, result)
    return result


def _refuse_mixed(function: Any, tensors: list[torch.Tensor]) -> None:
    if function in _COPIES or function in _INDEXING:
        return
    others = [tensor for tensor in tensors if tensor.device.type == "cpu" and not isinstance(tensor, CudaTensor)]
    if any(tensor.ndim > 0 or function in _NO_SCALARS for tensor in others):
        shapes = {
            device: [tuple(tensor.shape) for tensor in tensors if tensor.device.type == device]
            for device in ("cuda", "cpu")
        }
        raise MixedDevicesError(f"{function}: tensors of both devices, of shapes {shapes}")


def _count(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_on_cuda: bool) -> None:
    if not _counters:
        return
    kind = None
    if function is aten._to_copy.default:
        source = args[0].device.type
        target = device.type if (device := kwargs.get("device")) is not None else source
        kind = _copy_kind(source, target, bool(kwargs.get("non_blocking")))
    elif function is aten.copy_.default:
        kind = _copy_kind(args[1].device.type, args[0].device.type, bool(args[2:] and args[2]))
    elif is_on_cuda and function in _WAITS:
        kind = _WAITS[function]
    elif is_on_cuda and function in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            kind = "shape from values"
        elif any(not isinstance(index, CudaTensor) for index in indices):
            kind = "copy of an index to the device"
    if kind is not None:
        for counter in _counters:
            counter[kind, _place()] += 1


def _copy_kind(source: str, target: str, non_blocking: bool) -> str | None:
    """Name a copy that is waited for; out of the host's memory one is not, where the caller says so."""
    if source == target or (target == "cuda" and non_blocking):
        return None
    return f"copy to the {'device' if target == 'cuda' else 'host'}"


def _place() -> str:
    """Return the innermost line of this repository below which an operation was asked for, and of a library below."""
    own = below = ""
    for frame in traceback.extract_stack():
        if frame.filename == __file__:
            break
        if frame.filename.startswith(_ROOMS):
            own, below = f"{Path(frame.filename).relative_to(REPOSITORY)}:{frame.lineno}", ""
        elif "/torch/" not in frame.filename:
            below = f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"
    return " ".join(filter(None, (own, below)))


__all__ = ["CUDA", "CudaTensor", "FakeCuda", "MixedDevicesError", "counted_waits", "install", "on_cpu"]
