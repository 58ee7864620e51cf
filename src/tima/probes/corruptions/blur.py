"""Blur: defocus, frosted glass, motion, zoom. Pictures are float64 `HxWx3` in [0, 1]."""

import numpy as np
from scipy import ndimage

from tima.probes.corruptions.tables import zooms


def defocus_blur(x_HWC: np.ndarray, c: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A disk of radius `c[0]` whose rim is softened by a Gaussian of `c[1]` over 3 x 3 (5 x 5 above radius 8) pixels."""
    radius, soft = c
    reach = 8 if radius <= 8 else int(radius)
    at = np.arange(-reach, reach + 1)
    disk = (at[:, None] ** 2 + at[None] ** 2 <= radius**2).astype(np.float64)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weight = np.exp(-(taps**2) / (2 * soft**2))
    rim = np.outer(weight, weight) / weight.sum() ** 2
    kernel = ndimage.convolve(disk / disk.sum(), rim, mode="mirror")
    used = max(1, int(np.ceil(radius)) + len(taps) // 2)  # beyond it the kernel is 0
    kernel = kernel[reach - used : reach + used + 1, reach - used : reach + used + 1] if used < reach else kernel
    return ndimage.convolve(x_HWC, kernel[..., None], mode="mirror")


def glass_blur(x_HWC: np.ndarray, c: tuple[float, int, int], rng: np.random.Generator) -> np.ndarray:
    """Gaussian of `c[0]`, `c[2]` rounds in which each pixel takes over one up to `c[1]` away, Gaussian again.

    The published script means to exchange the two, but writes one over the other (its right-hand sides are views of the
    picture), and that is what the published sets show. Exchanging would change pictures up to a fifth less.
    """
    sigma, reach, rounds = c
    x_HWC = ndimage.gaussian_filter(x_HWC, (sigma, sigma, 0), mode="nearest")
    height, width = x_HWC.shape[:2]
    order = list(range(height * width))
    for _ in range(rounds):
        # [-reach, reach) as published: a step of +reach does not occur
        step = rng.integers(-reach, reach, (height, width, 2)).tolist()
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = step[h][w]
                order[h * width + w] = order[(h + dy) * width + w + dx]
    shuffled = x_HWC.reshape(-1, x_HWC.shape[2])[order].reshape(x_HWC.shape)
    return ndimage.gaussian_filter(shuffled, (sigma, sigma, 0), mode="nearest")


def motion(x_HWC: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """One-sided Gaussian of `sigma` along a line of `2 radius + 1` pixels at `angle` degrees; the border is repeated."""
    at = np.arange(2 * radius + 1)
    weight = np.exp(-(at**2) / (2 * sigma**2))
    weight /= weight.sum()
    dy, dx = np.rint(at * np.sin(np.deg2rad(angle))).astype(int), np.rint(at * np.cos(np.deg2rad(angle))).astype(int)
    reach = 2 * radius + 1
    padded = np.pad(x_HWC, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = x_HWC.shape[:2]
    out = np.zeros_like(x_HWC)
    for share, y, x in zip(weight, dy + reach, dx + reach, strict=True):
        out += share * padded[y : y + height, x : x + width]
    return out


def motion_blur(x_HWC: np.ndarray, c: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """A camera that moves in a direction between -45 and 45 degrees."""
    return motion(x_HWC, c[0], c[1], rng.uniform(-45, 45))


def clipped_zoom(x_HWC: np.ndarray, factor: float) -> np.ndarray:
    """The middle of the picture, `factor` times larger, at the size of the whole."""
    out = x_HWC
    side = np.array(x_HWC.shape[:2])
    part = np.ceil(side / factor).astype(int)
    top = (side - part) // 2
    out = out[top[0] : top[0] + part[0], top[1] : top[1] + part[1]]
    out = ndimage.zoom(out, (factor, factor, 1), order=1)
    cut = (np.array(out.shape[:2]) - side) // 2
    return out[cut[0] : cut[0] + side[0], cut[1] : cut[1] + side[1]]


def zoom_blur(x_HWC: np.ndarray, c: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """The mean of the picture and of itself zoomed by 1 to `c[0]` in steps of `c[1]`."""
    factors = zooms(*c)
    return (x_HWC + sum(clipped_zoom(x_HWC, float(f)) for f in factors)) / (len(factors) + 1)
