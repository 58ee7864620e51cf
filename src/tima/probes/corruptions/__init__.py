"""The 15 common corruptions at 5 severities, from the formulas of Hendrycks & Dietterich 2019, arXiv 1903.12261.

Made with NumPy, SciPy and Pillow, deterministic for each image. `frost` uses a drawn texture (see `weather.py`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tima.errors import DataError, RecipeError
from tima.probes.corruptions import blur, digital, noise, weather
from tima.probes.corruptions.tables import TABLES

CORRUPTIONS: dict[str, Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
SMALL = 64  # up to so many pixels a side the parameters of CIFAR-C are used: those of ImageNet-C would leave nothing


def table_for(side: int) -> str:
    """Which parameters a picture of this many pixels a side gets."""
    return "cifar-c" if side <= SMALL else "imagenet-c"


def corrupt(
    image_HWC: np.ndarray, name: str, severity: int, *, seed: int = 0, index: int = 0, table: str | None = None
) -> np.ndarray:
    """One corrupted picture.

    Args:
        image_HWC: uint8, `HxWx3`, 16 pixels a side at least.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5. All severities of an image share their random draws.
        seed, index: together with the name, what the random numbers depend on.
        table: `imagenet-c` or `cifar-c`; by default by size.

    Returns:
        uint8 of the same shape, rounded down as the published sets are.

    Raises:
        DataError: another shape or type.
        RecipeError: no such corruption, severity or table.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or min(image_HWC.shape[:2]) < 16:
        raise DataError(f"corrupt takes uint8 pictures H x W x 3 from 16 pixels on, not {image_HWC.dtype} {image_HWC.shape}.")
    if name not in CORRUPTIONS:
        raise RecipeError(f"There is no corruption '{name}'. Known are: {', '.join(CORRUPTIONS)}.")
    table = table or table_for(min(image_HWC.shape[:2]))
    if severity not in (1, 2, 3, 4, 5) or table not in TABLES:
        raise RecipeError(f"Severity {severity}, table '{table}': take 1 to 5, and one of {', '.join(TABLES)}.")
    rng = np.random.default_rng([seed, index, list(CORRUPTIONS).index(name)])
    out = CORRUPTIONS[name](image_HWC / 255.0, TABLES[table][name][severity - 1], rng)
    # 1e-6: a value that was a whole level before must not fall to the one below through rounding errors
    return (np.clip(out, 0, 1) * 255 + 1e-6).astype(np.uint8)


__all__ = ["CORRUPTIONS", "SMALL", "TABLES", "corrupt", "table_for"]
