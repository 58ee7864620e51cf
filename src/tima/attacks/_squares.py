"""What Square Attack proposes, Andriushchenko et al. 2020, arXiv 1912.00049: sizes of squares, and Algorithm 2 for l_inf.

Two things are as in the paper and not as in the authors' code: images do not share squares and signs, and a square can reach
the last row and column. In the code these only ever see the first stripes, so that on tiny pictures this attack is the
stronger one: on 8 x 8 pixels (300 images, a small network, eps 0.08, 500 queries, 4 seeds) 1 % stand after it, 8 % after the
code, and 7 % after this search with the code's range of places. On 16 x 16 the difference is lost among seeds.

Shapes: `A` images in the batch, `C` channels, `H, W` pixels, `Q` queries, `R` random numbers a query.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tima.attacks.projections import Ball, LInfBall

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many of 10,000 queries the share halves


def shares(queries: int, p_init: float, rescale: bool) -> list[float]:
    """Share of the image that the square of each query covers. Query 0 is the first point, so proposals count from query 1."""
    scale = 10_000 / queries if rescale else 1
    return [p_init / 2 ** sum(int(max(query - 1, 0) * scale) > after for after in HALVINGS) for query in range(queries)]


class Squares(Protocol):
    """How points are proposed under one norm."""

    numbers: int  # R
    first_numbers: int  # random numbers for the first point

    def first(self, image_ACHW: Tensor, ball: Ball, random_AR: Tensor) -> Tensor: ...
    def propose(self, image_ACHW: Tensor, x_ACHW: Tensor, ball: Ball, query_A: Tensor, random_AR: Tensor) -> Tensor: ...


class LInfSquares:
    """Squares of one colour at the largest distance that the ball allows; first vertical stripes of width 1 (Algorithm 2)."""

    def __init__(self, shape: Sequence[int], queries: int, p_init: float, rescale: bool) -> None:
        _, self.channels, self.height, self.width = shape
        self.numbers, self.first_numbers = 2 + self.channels, self.channels * self.width
        area, longest = self.height * self.width, min(self.height, self.width)
        sides = [min(max(round(math.sqrt(p * area)), 1), longest) for p in shares(queries, p_init, rescale)]
        self.side_Q = torch.tensor(sides)

    def first(self, image_ACHW: Tensor, ball: Ball, random_AR: Tensor) -> Tensor:
        assert isinstance(ball, LInfBall)
        up_AC1W = (random_AR >= 0.5).view(-1, self.channels, 1, self.width)
        return torch.where(up_AC1W, ball.high_BCHW, ball.low_BCHW)

    def propose(self, image_ACHW: Tensor, x_ACHW: Tensor, ball: Ball, query_A: Tensor, random_AR: Tensor) -> Tensor:
        assert isinstance(ball, LInfBall)
        side_A = self.side_Q[query_A].to(x_ACHW.device)
        window_A1HW = window(self.height, self.width, side_A, random_AR[:, :2])[0]
        # x + 2 eps, cut to the ball, is its upper bound wherever x lies in it
        up_AC11 = (random_AR[:, 2:] >= 0.5)[:, :, None, None]
        return torch.where(window_A1HW, torch.where(up_AC11, ball.high_BCHW, ball.low_BCHW), x_ACHW)


def window(height: int, width: int, side_A: Tensor, random_A2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A square inside the image, anywhere with equal chance: the mask `A1HW`, and rows and columns counted from its corner."""
    top_A = (random_A2[:, 0] * (height - side_A + 1)).long()
    left_A = (random_A2[:, 1] * (width - side_A + 1)).long()
    row_AH = torch.arange(height, device=side_A.device) - top_A[:, None]
    column_AW = torch.arange(width, device=side_A.device) - left_A[:, None]
    in_row_AH, in_column_AW = ((at >= 0) & (at < side_A[:, None]) for at in (row_AH, column_AW))
    return (in_row_AH[:, :, None] & in_column_AW[:, None, :])[:, None], row_AH, column_AW
