"""Compiling the towers with `torch.compile`, in place: no parameter changes its name, in a checkpoint or elsewhere."""

import torch

from modeling_eclip import EClipModel

# Both towers enter through one function of transformers, whose compiled forms torch counts: for training, for encoding
# without gradients and for evaluation, each for one batch size and for any. Beyond its default of 8 it would give up.
_MOST_COMPILED_FORMS = 64


def compile_towers(model: EClipModel, backend: str = "inductor") -> None:
    """Have both towers compiled when they first run; call it after hooks and adapters, before `accelerator.prepare`.

    Titles differ in length, so that their tower is compiled once for any length; the image tower is compiled for the
    batch size that it sees, and once more for any where that changes.

    Args:
        model: The model.
        backend: Backend of torch.compile. `"inductor"` wants a C++ compiler on a CPU.

    Raises:
        ValueError: torch knows no such backend.
    """
    check_backend(backend)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILED_FORMS)
    model.vision_model.compile(backend=backend)
    model.text_model.compile(backend=backend, dynamic=True)


def check_backend(backend: str) -> None:
    """Refuse a backend that torch does not know.

    Raises:
        ValueError: it does not.
    """
    known = torch.compiler.list_backends(exclude_tags=("experimental",))
    if backend not in known:
        raise ValueError(f"`compile_backend` is {backend!r}; torch has {known}.")


__all__ = ["check_backend", "compile_towers"]
