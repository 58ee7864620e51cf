"""Memory of this process, for the measurements."""

import ctypes
from pathlib import Path

MB = 2**20


def memory(key: str) -> float:
    """MB of `VmRSS` (now) or `VmHWM` (the peak) of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(key)) * 1024 / MB


def give_back_freed() -> None:
    """What the C library keeps of freed memory would otherwise count as held before the work."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)
