"""The next batch on its way to the GPU while this one is worked on: pinned memory, a stream of its own, one batch ahead.

Only uint8 pixels travel, a quarter of the bytes of floats; augmentation runs where they arrive. On CPU nothing happens.
Shapes: `B` images, `C` channels, `H, W` pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from tima.train_batch import TrainBatch

Item = tuple[int, TrainBatch]


def prefetched(stream: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """The same batches in the same order, their images and labels on `device`."""
    if device.type == "cpu":
        yield from stream
        return
    side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
    source, ahead = iter(stream), None
    for step, batch in source:
        coming = (step, _sent(batch, device, side))
        if ahead is not None:
            yield _arrived(ahead, side)
        ahead = coming
    if ahead is not None:
        yield _arrived(ahead, side)


def _sent(batch: TrainBatch, device: torch.device, side: Any) -> TrainBatch:
    if side is None:
        return replace(batch, image_BCHW=batch.image_BCHW.to(device), label_B=batch.label_B.to(device))
    with torch.cuda.stream(side):
        image_BCHW, label_B = (t.pin_memory().to(device, non_blocking=True) for t in (batch.image_BCHW, batch.label_B))
    return replace(batch, image_BCHW=image_BCHW, label_B=label_B)


def _arrived(item: Item, side: Any) -> Item:
    if side is not None:
        now = torch.cuda.current_stream(item[1].image_BCHW.device)
        now.wait_stream(side)
        for tensor in (item[1].image_BCHW, item[1].label_B):
            tensor.record_stream(now)  # its memory is not given away before this stream has read it
    return item
