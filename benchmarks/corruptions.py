"""Our corruptions beside those of `imagecorruptions`, the package made from the published script: what agrees, and how far.

    pip install imagecorruptions-imaug
    python benchmarks/corruptions.py                       # a Markdown table, for docs/probes.md

Where nothing is drawn at random, the pictures are compared: mean absolute difference in grey levels. Where something is, no two
draws are alike, so the mean absolute change is: ours over theirs, over all pictures and draws. Shapes: `H, W` pixels.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from tima.data import find_data
from tima.probes.corruptions import CORRUPTIONS, corrupt

SIDE = 224
FIXED = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


def pictures(count: int) -> list[np.ndarray]:
    """Photographs at the size that the published severities are made for."""
    data = find_data("groceries", image_size=SIDE)
    chosen = np.linspace(0, len(data) - 1, count).astype(int)
    return [data[int(i)][0].permute(1, 2, 0).contiguous().numpy() for i in chosen]  # type: ignore[union-attr]


def theirs(image_HWC: np.ndarray, name: str, severity: int, draw: int) -> np.ndarray:
    from imagecorruptions import corrupt as published

    np.random.seed(draw)  # the package draws from the global generator
    return np.asarray(published(image_HWC.copy(), corruption_name=name, severity=severity)).astype(np.uint8)


def ours(image_HWC: np.ndarray, name: str, severity: int, draw: int) -> np.ndarray:
    return corrupt(image_HWC, name, severity, index=draw, table="imagenet-c")


def difference(name: str, severity: int, images: list[np.ndarray]) -> float:
    """Mean absolute difference of the two results, in levels."""
    pairs = [(ours(x, name, severity, 0), theirs(x, name, severity, 0)) for x in images]
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))


def ratio(name: str, severity: int, images: list[np.ndarray], draws: int) -> float:
    """Our mean absolute change over theirs."""

    def change(make: Callable[[np.ndarray, str, int, int], np.ndarray]) -> float:
        return float(np.mean([np.abs(make(x, name, severity, d).astype(int) - x).mean() for x in images for d in range(draws)]))

    return change(ours) / change(theirs)


def seconds(make: Callable[[np.ndarray, str, int, int], np.ndarray], name: str, image: np.ndarray) -> float:
    make(image, name, 3, 0)  # theirs compiles at the first call
    began = time.perf_counter()
    make(image, name, 3, 1)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--draws", type=int, default=4, help="of each picture, where something is drawn")
    options = parser.parse_args()
    images = pictures(options.pictures)
    print("| corruption | compared | severity 1 | 3 | 5 | ours, ms | theirs, ms |\n|---|---|--:|--:|--:|--:|--:|")
    for name in CORRUPTIONS:
        if name in FIXED:
            cells, what = [f"{difference(name, s, images):.3f}" for s in (1, 3, 5)], "levels"
        else:
            cells, what = [f"{ratio(name, s, images, options.draws):.2f}" for s in (1, 3, 5)], "ratio"
        times = [f"{1000 * seconds(make, name, images[0]):.0f}" for make in (ours, theirs)]
        print(f"| {name} | {what} | {' | '.join([*cells, *times])} |", flush=True)


if __name__ == "__main__":
    main()
