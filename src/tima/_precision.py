"""Whether a device computes in bf16, or only imitates it.

A processor without bf16 instructions multiplies bf16 matrices several times slower than fp32 ones, so there bf16 would cost
accuracy and time both. `precision: auto` and the protocols that let an attack run in bf16 ask here.
"""

from functools import cache
from pathlib import Path

import torch

# as the kernel names them: of x86, then of ARM
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
CPUINFO = Path("/proc/cpuinfo")


def has_bf16(device: torch.device | str) -> bool:
    """True where bf16 matrix products run on arithmetic made for them."""
    device = torch.device(device)
    if device.type == "cpu":
        return bool(INSTRUCTIONS & _cpu_flags())
    if device.type == "cuda":  # AMD's, which go by the same name, count their capabilities otherwise
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "xpu"


def settle(precision: str, device: torch.device | str) -> str:
    """`auto` as `bf16` or `fp32`, whichever is the faster on `device`; what was said outright stays."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


@cache
def _cpu_flags() -> set[str]:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux: ask torch, where it can tell
        asked: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return {name for name, has in asked.items() if has is True}
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
