"""In which precision the towers' float32 matrix products are computed."""

import torch


def allow_tf32(allowed: bool) -> None:
    """Let NVIDIA GPUs compute float32 products and convolutions in TensorFloat-32, or forbid it, in this process.

    A factor is then rounded to 10 bits of mantissa: an error of some 1e-3 in a product. That matters to towers only,
    and only where they are in float32: the contrastive loss computes its own products exactly
    (`modeling_eclip.losses.exact_products`), and products in bfloat16 or float16 are not concerned.

    Args:
        allowed: Whether TF32 may be used.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")


__all__ = ["allow_tf32"]
