"""Noise: Gaussian, shot, impulse. Pictures are float64 `HxWx3` in [0, 1]; results may leave that range."""

import numpy as np


def gaussian_noise(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Electronic noise of standard deviation `c`."""
    return x_HWC + c * rng.standard_normal(x_HWC.shape)


def shot_noise(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise of a sensor that counts `c` photons for white."""
    return rng.poisson(x_HWC * c) / c


def impulse_noise(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a share `c` of the values, each channel for itself, becomes 0 or 1."""
    draw, salt = rng.random(x_HWC.shape), rng.random(x_HWC.shape) < 0.5
    return np.where(draw < c, salt.astype(np.float64), x_HWC)
