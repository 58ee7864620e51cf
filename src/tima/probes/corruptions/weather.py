"""Weather: snow, frost, fog, brightness. Pictures are float64 `HxWx3` in [0, 1].

Frost differs from the published one: that lays one of six photographs of frost over the picture, this a texture drawn from
ridged plasma noise, with the published weights. Its numbers compare between models here, not with published ones.
"""

import numpy as np

from tima.probes.corruptions.blur import clipped_zoom, motion

LUMA = np.array([0.299, 0.587, 0.114])


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A height map in [0, 1] by the diamond-square algorithm on a torus (Fournier et al. 1982, CACM 25:371).

    The noise of each halving is `decay ** 2` times smaller than the one before.
    """
    size = 1 << max(1, (side - 1).bit_length())
    height = np.zeros((size, size))
    step, noise = size, 1.0
    while step >= 2:
        half = step // 2
        corner = height[::step, ::step]
        row = corner + np.roll(corner, -1, 0)
        centre = (row + np.roll(row, -1, 1)) / 4 + noise * rng.uniform(-1, 1, corner.shape)
        height[half::step, half::step] = centre
        across = corner + np.roll(corner, -1, 1) + centre + np.roll(centre, 1, 0)
        height[::step, half::step] = across / 4 + noise * rng.uniform(-1, 1, corner.shape)
        down = corner + np.roll(corner, -1, 0) + centre + np.roll(centre, 1, 1)
        height[half::step, ::step] = down / 4 + noise * rng.uniform(-1, 1, corner.shape)
        step, noise = half, noise / decay**2
    height -= height.min()
    return height / height.max()


def fog(x_HWC: np.ndarray, c: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Plasma of decay `c[1]`, `c[0]` strong, added; then the brightest value is brought back to what it was."""
    top = x_HWC.max()
    layer = plasma(max(x_HWC.shape[:2]), c[1], rng)[: x_HWC.shape[0], : x_HWC.shape[1], None]
    return (x_HWC + c[0] * layer) * top / (top + c[0])


def frost(x_HWC: np.ndarray, c: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """`c[0]` of the picture plus `c[1]` of a bluish crystal texture."""
    height, width = x_HWC.shape[:2]
    coarse, fine = (plasma(max(height, width), decay, rng)[:height, :width] for decay in (1.6, 1.2))
    ridge = (1 - np.abs(2 * coarse - 1)) ** 2
    texture = np.clip(0.25 + 0.5 * ridge + 0.35 * fine, 0, 1)[..., None] * np.array([0.85, 0.93, 1.0])
    return c[0] * x_HWC + c[1] * texture


def snow(x_HWC: np.ndarray, c: tuple[float, float, float, float, int, float, float], rng: np.random.Generator) -> np.ndarray:
    """Flakes: Gaussian noise (mean `c[0]`, deviation `c[1]`), zoomed by `c[2]`, 0 below `c[3]`, blurred along a fall of radius
    `c[4]` and `c[5]`; the picture keeps `c[6]` of its colour and turns to light grey with the rest."""
    mean, deviation, zoom, low, radius, sigma, keep = c
    flakes = rng.normal(mean, deviation, x_HWC.shape[:2])[..., None]
    flakes = clipped_zoom(flakes, zoom)
    flakes = np.clip(np.where(flakes < low, 0, flakes), 0, 1)
    flakes = motion(flakes, radius, sigma, rng.uniform(-135, -45))
    grey = (x_HWC @ LUMA)[..., None] * 1.5 + 0.5
    whitened = keep * x_HWC + (1 - keep) * np.maximum(x_HWC, grey)
    return whitened + flakes + np.rot90(flakes, 2)


def brightness(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """`c` added to V of HSV. With hue and saturation kept, all three channels scale like their largest, which is V."""
    value = x_HWC.max(2, keepdims=True)
    raised = np.minimum(value + c, 1)
    return np.where(value > 0, x_HWC * raised / np.where(value > 0, value, 1), raised)
