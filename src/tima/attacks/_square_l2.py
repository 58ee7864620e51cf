"""The l_2 proposals of Square Attack, Andriushchenko et al. 2020, arXiv 1912.00049, Algorithm 3.

A square's pattern is a bump beside its negative; its length comes from what another square gives up, so that the budget is
always spent to the end.

Shapes: `A` images in the batch, `C` channels, `H, W` pixels, `S` pixels of a square's side, `Q` queries.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tima.attacks._squares import shares, window
from tima.attacks.projections import Ball, L2Ball, euclidean


def bump(height: int, width: int) -> Tensor:
    """A peak that falls with the distance `m` (in rings around the centre) as `sum over k >= m of 1 / (k + 1)^2`; length 1."""
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    ring_HW = torch.maximum(down[:, None], across[None, :])
    rings = max(height, width) // 2 + 1
    tail = (1 / (torch.arange(rings) + 1.0).square()).flip(0).cumsum(0).flip(0)
    found_HW = tail[ring_HW]
    return found_HW / found_HW.norm().clamp(min=1e-12)


def pattern(side: int) -> Tensor:
    """A bump over the negative of another one, `SxS`, length 1 (the paper's eta)."""
    upper, lower = side // 2, side - side // 2
    both_SS = torch.cat([bump(upper, side), -bump(lower, side)])
    return both_SS / both_SS.norm()


class L2Squares:
    """Two squares a query: one takes over the other's share of the budget."""

    def __init__(self, shape: Sequence[int], queries: int, p_init: float, rescale: bool) -> None:
        _, self.channels, self.height, self.width = shape
        longest = min(self.height, self.width)
        self.tile = max(longest // 5, 1)  # the first point is a grid of 5 x 5 squares
        self.tiles = self.height // self.tile, self.width // self.tile
        self.numbers = 5 + self.channels
        self.first_numbers = self.tiles[0] * self.tiles[1] * (1 + self.channels)
        side = [max(round(math.sqrt(p * self.height * self.width)), 3) for p in shares(queries, p_init, rescale)]
        self.side_Q = torch.tensor([min(s + 1 - s % 2, longest) for s in side])
        different = self.side_Q.unique()
        self.kind_Q = torch.searchsorted(different, self.side_Q)
        largest = int(different.max())
        self.pattern_KSS = torch.zeros(2 * len(different), largest, largest)  # as it is, then transposed
        for k, s in enumerate(different.tolist()):
            self.pattern_KSS[k, :s, :s] = pattern(s)
            self.pattern_KSS[k + len(different), :s, :s] = pattern(s).T

    def first(self, image_ACHW: Tensor, ball: Ball, random_AR: Tensor) -> Tensor:
        device, tile, (down, across) = image_ACHW.device, self.tile, self.tiles
        random_AGR = random_AR.view(-1, down * across, 1 + self.channels)
        straight_SS = pattern(tile).to(device)
        turned = (random_AGR[:, :, 0] >= 0.5)[:, :, None, None]
        part_AGSS = torch.where(turned, straight_SS.T, straight_SS)
        sign_AGC = _sign(random_AGR[:, :, 1:])
        part = (sign_AGC[:, :, :, None, None] * part_AGSS[:, :, None]).unflatten(1, (down, across))
        grid = part.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, down * tile, across * tile)
        top, left = (self.height - down * tile) // 2, (self.width - across * tile) // 2
        offset_ACHW = torch.zeros_like(image_ACHW)
        offset_ACHW[:, :, top : top + down * tile, left : left + across * tile] = grid
        return _at_full_length(image_ACHW, offset_ACHW, ball)

    def propose(self, image_ACHW: Tensor, x_ACHW: Tensor, ball: Ball, query_A: Tensor, random_AR: Tensor) -> Tensor:
        assert isinstance(ball, L2Ball)
        device = x_ACHW.device
        side_A = self.side_Q[query_A].to(device)
        gains_A1HW, row_AH, column_AW = window(self.height, self.width, side_A, random_AR[:, :2])
        gives_A1HW = window(self.height, self.width, side_A, random_AR[:, 2:4])[0]
        offset_ACHW = x_ACHW - image_ACHW
        old_ACHW = offset_ACHW * gains_A1HW
        shape_ACHW = self._pattern(query_A, random_AR[:, 4], row_AH, column_AW) * _sign(random_AR[:, 5:])[:, :, None, None]
        new_ACHW = (shape_ACHW + old_ACHW / (_length(old_ACHW) + 1e-12)) * gains_A1HW
        # each channel has its share of what is unused, and what both squares had
        unused_A111 = (ball.radius_B.square() - offset_ACHW.square().sum((1, 2, 3))).clamp(min=0)[:, None, None, None]
        had_AC11 = _length(offset_ACHW * (gains_A1HW | gives_A1HW)).square()
        new_ACHW = new_ACHW / (_length(new_ACHW) + 1e-12) * (unused_A111 / self.channels + had_AC11).sqrt()
        return _at_full_length(image_ACHW, torch.where(gains_A1HW, new_ACHW, offset_ACHW * ~gives_A1HW), ball)

    def _pattern(self, query_A: Tensor, turn_A: Tensor, row_AH: Tensor, column_AW: Tensor) -> Tensor:
        """The pattern of each image's square at its place, `A1HW`; what lies outside the square is arbitrary."""
        table_KSS = self.pattern_KSS = self.pattern_KSS.to(row_AH.device)
        kind_A = self.kind_Q[query_A].to(row_AH.device) + (turn_A >= 0.5) * (len(table_KSS) // 2)
        row_AH, column_AW = (at.clamp(0, table_KSS.shape[1] - 1) for at in (row_AH, column_AW))
        return table_KSS[kind_A[:, None, None], row_AH[:, :, None], column_AW[:, None, :]][:, None]


def _sign(random: Tensor) -> Tensor:
    return torch.where(random >= 0.5, 1.0, -1.0)


def _length(x_ACHW: Tensor) -> Tensor:
    """Of each channel, `AC11`."""
    return x_ACHW.flatten(2).norm(dim=2)[:, :, None, None]


def _at_full_length(image_ACHW: Tensor, offset_ACHW: Tensor, ball: Ball) -> Tensor:
    """The offset stretched to the ball's radius, cut to [0, 1]."""
    assert isinstance(ball, L2Ball)
    return ball.project_(
        image_ACHW + offset_ACHW * (ball.radius_B / euclidean(offset_ACHW).clamp(min=1e-12))[:, None, None, None]
    )
