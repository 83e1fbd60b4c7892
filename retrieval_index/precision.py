"""What a device computes fast in."""

from __future__ import annotations

from pathlib import Path

_CPU = Path("/proc/cpuinfo")


def multiplies_in_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are fast on "cpu" or "cuda"; a processor without
    instructions for it emulates them, slower by far."""
    import torch

    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = _CPU.read_text() if _CPU.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
