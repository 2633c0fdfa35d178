"""Matrix products in true float32, whatever the process allows elsewhere.

A similarity that is off by 1e-3, as a product in TensorFloat-32 (TF32) is, times an inverse temperature of 100 is a
logit that is off by .1. Towers bear that, a softmax over a large batch does not.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

# Every backend has a switch of its own; reading the older, common one is an error once anything has used these.
_backends: Any = torch.backends
_EXACT = ("ieee", "ieee")

# The switches belong to the process, not to a thread: the first that enters turns them, the last that leaves puts
# them back. On a GPU a backward pass runs in a thread of its own.
_lock = threading.Lock()
_entered = 0
_outside = _EXACT


@contextlib.contextmanager
def exact_products(device_type: str) -> Iterator[None]:
    """Compute products inside in the dtype of their factors: no TF32, no bfloat16 in its place, no autocast.

    Args:
        device_type: Type of the device that they are computed on, such as `"cuda"`.

    Yields:
        Nothing.
    """
    global _entered, _outside
    with _lock:
        if _entered == 0:
            _outside = _product_precisions()
            _set_product_precisions(_EXACT)
        _entered += 1
    try:
        with torch.autocast(device_type=device_type, enabled=False):
            yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                _set_product_precisions(_outside)


def _product_precisions() -> tuple[str, str]:
    """Return the precision of float32 products: on GPUs and on CPUs."""
    return _backends.cuda.matmul.fp32_precision, _backends.mkldnn.matmul.fp32_precision


def _set_product_precisions(precisions: tuple[str, str]) -> None:
    """Set what [`_product_precisions`] returns."""
    _backends.cuda.matmul.fp32_precision, _backends.mkldnn.matmul.fp32_precision = precisions


__all__ = ["exact_products"]
