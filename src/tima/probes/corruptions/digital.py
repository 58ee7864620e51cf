"""Digital: contrast, elastic transform, pixelation, JPEG. Pictures are float64 `HxWx3` in [0, 1]."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage


def contrast(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """`c` of the distance from the channel's mean."""
    mean = x_HWC.mean((0, 1), keepdims=True)
    return (x_HWC - mean) * c + mean


def elastic_transform(x_HWC: np.ndarray, c: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Three points moved by up to `c[2]` pixels (an affine map), then a random field, smoothed by `c[1]`, times `c[0]`.

    Simard et al. 2003 (ICDAR); in pixels.
    """
    strength, sigma, shift = c
    height, width = x_HWC.shape[:2]
    centre, reach = np.array([width // 2, height // 2], dtype=np.float64), min(height, width) // 3
    before = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform(-shift, shift, (3, 2))
    # where each pixel of the result comes from: the map that takes the moved points back
    back_32 = np.linalg.solve(np.c_[after, np.ones(3)], before)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    source = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1) @ back_32
    moved = _sample(x_HWC, source[:, 1], source[:, 0], "mirror")
    noise = rng.uniform(-1, 1, (2, height, width))
    dx, dy = (strength * (ndimage.gaussian_filter(n, sigma, mode="reflect", truncate=3) if sigma else n) for n in noise)
    return _sample(moved, (y + dy).ravel(), (x + dx).ravel(), "reflect")


def _sample(x_HWC: np.ndarray, y_P: np.ndarray, x_P: np.ndarray, mode: str) -> np.ndarray:
    parts = [ndimage.map_coordinates(x_HWC[..., c], [y_P, x_P], order=1, mode=mode) for c in range(x_HWC.shape[2])]
    return np.stack(parts, 1).reshape(x_HWC.shape)


def pixelate(x_HWC: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Made `c` times as large and large again, both with a box filter."""
    picture = _to_picture(x_HWC)
    small = picture.resize((int(picture.width * c), int(picture.height * c)), Image.Resampling.BOX)
    return np.asarray(small.resize(picture.size, Image.Resampling.BOX), dtype=np.float64) / 255


def jpeg_compression(x_HWC: np.ndarray, c: int, rng: np.random.Generator) -> np.ndarray:
    """Written as JPEG of quality `c` and read again."""
    file = io.BytesIO()
    _to_picture(x_HWC).save(file, "JPEG", quality=c)
    return np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) / 255


def _to_picture(x_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(x_HWC * 255).astype(np.uint8))
