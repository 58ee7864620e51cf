"""The nearest point of a hyperplane inside the box [0, 1], which FAB takes its steps from.

Croce & Hein 2020, arXiv 1907.02044. Shapes: `B` images, `D` pixel values.

Both norms have the same solution, `d_i = sign * min(t * v_i, room_i)`, where `sign` leads towards the hyperplane, `room_i` is
how far the box lets value i go that way, and `v_i` is 1 for `l_inf` and `|w_i|` for `l_2`. What remains is the number `t` at
which the gain `sum |w_i| min(t * v_i, room_i)` closes the gap. The gain is concave and piecewise linear in `t`, so Newton's
method from 0 never overshoots, and every iteration that changes anything fixes at least one more value at the box: it ends
in the exact solution, in practice after less than ten passes, which costs far less than sorting all values.
"""

import torch
from torch import Tensor


def to_hyperplane(x_BD: Tensor, w_BD: Tensor, gap_B: Tensor, norm: str) -> Tensor:
    """The shortest `d` with `w @ (x + d) = w @ x + gap` and `x + d` in [0, 1].

    Args:
        x_BD: points in [0, 1].
        w_BD: normals of the hyperplanes; any scale.
        gap_B: what `w @ x` lacks, of either sign.
        norm: `l_inf` or `l_2`: what is shortest.

    Returns:
        `d_BD`. Where the hyperplane misses the box, the way to the box's corner nearest to it; where `w` is 0, 0.
    """
    scale_B1 = w_BD.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(w_BD.dtype).tiny)
    w_BD, gap_B1 = w_BD / scale_B1, gap_B[:, None] / scale_B1  # gradients can be so small that their squares are 0
    sign_BD = w_BD.sign() * gap_B1.sign()
    need_B1, weight_BD = gap_B1.abs(), w_BD.abs()
    room_BD = torch.where(sign_BD > 0, 1 - x_BD, x_BD)
    speed_BD = torch.ones_like(weight_BD) if norm == "l_inf" else weight_BD
    full_BD, slope_BD = weight_BD * room_BD, weight_BD * speed_BD
    t_B1 = torch.zeros_like(need_B1)
    free_BD = room_BD > 0
    while True:
        rest_B1 = need_B1 - (full_BD * ~free_BD).sum(1, keepdim=True)
        slope_B1 = (slope_BD * free_BD).sum(1, keepdim=True)
        # nothing free left: the box holds less than is needed, so go as far as it lets us
        next_B1 = torch.where(slope_B1 > 0, rest_B1 / slope_B1, torch.finfo(t_B1.dtype).max)
        t_B1 = torch.maximum(t_B1, next_B1)
        still_BD = free_BD & (t_B1 * speed_BD < room_BD)
        if torch.equal(still_BD, free_BD):
            return sign_BD * torch.minimum(t_B1 * speed_BD, room_BD)
        free_BD = still_BD
