"""Random pictures with made-up class names: what is in a picture does not change what it costs."""

import io

import numpy as np
import torch
from PIL import Image

from tima.data import ImageSet

SIDE = 32  # stored small and decoded to the model's grid


def random_images(n: int, classes: int, image_size: int, seed: int = 0) -> ImageSet:
    """`n` encoded pictures over `classes` classes, the first ones of which have pictures."""
    rng = np.random.default_rng(seed)
    encoded = []
    for _ in range(n):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
        encoded.append(buffer.getvalue())
    names = [f"thing number {i}" for i in range(classes)]
    label_N = torch.arange(n) % classes
    return ImageSet("random pictures", names, label_N, encoded.__getitem__, lambda i: f"random #{i}", image_size=image_size)
