"""What a number was made with: versions of the packages that can move it, and the machine."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# numpy, pillow and tokenizers decide what pixels and tokens the model sees
PACKAGES = ("tima", "torch", "transformers", "tokenizers", "numpy", "pillow", "safetensors")


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(device: str = "cpu", processes: int = 1) -> dict[str, str]:
    """The hardware: processor, threads and, on a GPU, its name and the CUDA version."""
    import torch

    found = {"cpu": _cpu_name(), "threads": str(torch.get_num_threads()), "processes": str(processes), "device": device}
    if device.startswith("cuda") and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
