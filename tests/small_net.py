"""A small convolutional classifier with boundaries that bend, and what tests of attacks ask of it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """`rough` bends the boundaries; `nudge` makes a relative whose answers nearly agree."""

    def __init__(self, classes: int = 5, rough: float = 2.0, nudge: float = 0.0) -> None:
        super().__init__()
        self.rough = rough
        generator = torch.Generator().manual_seed(1)
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, classes)
        for p in self.parameters():
            p.data.normal_(0, 0.3, generator=generator)
        for p in self.parameters():
            p.data += nudge * torch.randn(p.shape, generator=generator)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(torch.sin(self.rough * self.conv(image_BCHW - 0.5)).flatten(1))


def make_batch(net: Net, n: int) -> tuple[Tensor, Tensor]:
    """`n` random images with the net's own answers as labels."""
    image_BCHW = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return image_BCHW, net(image_BCHW).argmax(1)


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def margin(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the label's."""
    with torch.no_grad():
        logits = net(x)
    other = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -math.inf).amax(1)
    return other - logits.gather(1, y[:, None])[:, 0]
