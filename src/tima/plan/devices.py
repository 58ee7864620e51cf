"""Published figures of accelerators, and what is assumed of them where nothing was measured.

Peaks are dense (no sparsity), matrix products in bf16 with fp32 accumulation, from the makers' data sheets named in each
row; several sheets print only the figure with sparsity, twice as large. Links: one direction, between devices of one machine.
"""

import re
from dataclasses import dataclass

from tima.errors import RecipeError

NODE = 8  # devices in one machine, when more are asked for
NETWORK = 50.0  # GB/s a machine, one direction: an assumption (400 Gbit/s)


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        bf16, fp32: dense peak, TFLOP/s (fp32 without TF32).
        memory: GB (10^9 bytes).
        bandwidth: of its memory, GB/s.
        link: to its neighbours, GB/s in one direction.
        source: of the figures.
    """

    name: str
    bf16: float
    fp32: float
    memory: float
    bandwidth: float
    link: float
    source: str


_LISTED = (
    Device("B200", 2250, 75, 180, 7700, 900, "NVIDIA HGX B200 data sheet, per GPU"),
    Device("H200", 989, 67, 141, 4800, 450, "NVIDIA H200 data sheet, SXM"),
    Device("H100", 989, 67, 80, 3350, 450, "NVIDIA H100 data sheet, SXM"),
    Device("A100", 312, 19.5, 80, 2039, 300, "NVIDIA A100 data sheet, 80 GB SXM"),
    Device("A100-40GB", 312, 19.5, 40, 1555, 300, "NVIDIA A100 data sheet, 40 GB SXM"),
    Device("L40S", 362, 91.6, 48, 864, 32, "NVIDIA L40S data sheet; link: PCIe 4.0 x16"),
    Device("RTX4090", 165, 82.6, 24, 1008, 32, "NVIDIA Ada GPU architecture white paper; link: PCIe 4.0 x16"),
    Device("RTX3090", 71, 35.6, 24, 936, 32, "NVIDIA GA102 GPU architecture white paper; link: PCIe 4.0 x16"),
    Device("L4", 121, 30.3, 24, 300, 32, "NVIDIA L4 data sheet; link: PCIe 4.0 x16"),
)
DEVICES = {device.name.lower(): device for device in _LISTED}


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a device that nobody measured: low, likely and high.

    Attributes:
        matmul, attention: share of the peak that products with weights, and of tokens with tokens, reach.
        bandwidth: share of the memory's that everything else reaches.
        launch: seconds from one kernel to the next where kernels are short.
        overlap: share of the communication that hides behind the backward pass.
    """

    matmul: tuple[float, float, float] = (0.35, 0.50, 0.65)
    attention: tuple[float, float, float] = (0.10, 0.20, 0.40)
    bandwidth: tuple[float, float, float] = (0.50, 0.70, 0.85)
    launch: tuple[float, float, float] = (12e-6, 6e-6, 3e-6)
    overlap: tuple[float, float, float] = (0.0, 0.5, 0.9)


ASSUMED = Assumed()


def find_device(text: str) -> tuple[int, Device]:
    """`8xH100`, or `H100` for one.

    Raises:
        RecipeError: an unknown device, or no number of them.
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x*])?\s*([A-Za-z][\w-]*)\s*", text)
    known = ", ".join(d.name for d in _LISTED)
    if match is None:
        raise RecipeError(f"--gpus '{text}' cannot be read. Write a number and a device: 8xH100. Known are {known}.")
    count, device = int(match[1] or 1), DEVICES.get(match[2].lower())
    if device is None:
        raise RecipeError(
            f"There are no figures of a '{match[2]}'. Known are {known}. Of another device run tima bench on it, and plan with "
            "--calibration bench.json."
        )
    if not 1 <= count <= 100_000:
        raise RecipeError(f"--gpus '{text}': {count} devices cannot be meant.")
    return count, device
