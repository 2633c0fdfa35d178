"""Which mixed precision is fastest on this machine."""

import torch


def fastest_precision() -> str:
    """Tell which mixed precision to train in.

    Returns:
        `"bf16"` where the device computes in it, `"no"` where it would be emulated, which is slower than float32.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"


__all__ = ["fastest_precision"]
