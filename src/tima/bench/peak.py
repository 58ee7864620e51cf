"""What the machine reaches in large matrix products and in copying memory: the limits that everything else is set against."""

import time
from typing import Any

import torch

SIZES = {"cpu": (1024, 2048, 4096), "other": (4096, 8192, 16384)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_peak(
    precision: str, device: torch.device | str = "cpu", sizes: tuple[int, ...] | None = None, tries: int = 4
) -> dict[str, Any]:
    """GFLOP/s of square products, the best of `tries` for each size, and the best of all.

    Args:
        precision: `fp32` (as the process has it: TF32 on a GPU only where it is switched on) or `bf16`.
    """
    device = torch.device(device)
    by_size: dict[str, float] = {}
    for size in sizes or SIZES["cpu" if device.type == "cpu" else "other"]:
        a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
        torch.mm(a, b)  # the first call sets up
        best = min(_seconds(lambda a=a, b=b: torch.mm(a, b), device) for _ in range(tries))  # type: ignore[misc]
        by_size[str(size)] = 2 * size**3 / best / 1e9
    return {"best": max(by_size.values()), "by_size": by_size}


def copy_speed(device: torch.device | str = "cpu", megabytes: int = 256, tries: int = 4) -> float:
    """GB/s of reading and writing in a copy that no cache holds."""
    device = torch.device(device)
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(_seconds(lambda: target.copy_(source), device) for _ in range(tries))
    return 2 * source.numel() * 4 / best / 1e9


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked: clocks around asynchronous work are wrong without."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Any, device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began
