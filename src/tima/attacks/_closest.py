"""What minimum-norm attacks keep: the closest adversarial point of all, and the best point inside the ball.

Shapes: `A` images in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._pool import Rows
from tima.attacks.losses import LogitsFn, margin
from tima.attacks.projections import Ball, L2Ball, euclidean


@dataclass
class ClosestRows(Rows):
    """Where the search of each image in the batch stands. Attacks add what their steps need."""

    row_N: Tensor
    run_N: Tensor  # which run, on the CPU
    step_N: Tensor  # steps made in this run, on the CPU
    label_N: Tensor
    image_NCHW: Tensor
    ball: Ball
    closest_NCHW: Tensor  # the closest adversarial point, at any distance, and its distance
    distance_N: Tensor
    inside_NCHW: Tensor  # the best point of the ball, see `score_inside`
    score_N: Tensor


def fresh(row_N: Tensor, label_N: Tensor, image_NCHW: Tensor, ball: Ball) -> dict[str, Any]:
    """The fields of `ClosestRows` at the beginning; `label_N` and `image_NCHW` are those of all images."""
    image_ACHW, zero_A = image_NCHW[row_N], torch.zeros(len(row_N), dtype=torch.long)
    infinite_A = torch.full((len(row_N),), torch.inf, device=image_ACHW.device)
    return {
        "row_N": row_N,
        "run_N": zero_A,
        "step_N": zero_A,
        "label_N": label_N[row_N],
        "image_NCHW": image_ACHW,
        "ball": ball,
        "closest_NCHW": image_ACHW,
        "distance_N": infinite_A,
        "inside_NCHW": image_ACHW,
        "score_N": -infinite_A,
    }


def consider(logits_fn: LogitsFn, rows: ClosestRows, x_ACHW: Tensor, output_AC: Tensor, targeted: bool) -> Tensor:
    """Take new points into account, in place. Returns which are adversarial, whatever their distance."""
    x_ACHW, output_AC = x_ACHW.detach(), output_AC.detach()
    adversarial_A = (output_AC.argmax(1) == rows.label_N) == targeted
    distance_A = length(x_ACHW - rows.image_NCHW, rows.ball)
    closer_A = adversarial_A & (distance_A < rows.distance_N)
    rows.closest_NCHW = torch.where(closer_A[:, None, None, None], x_ACHW, rows.closest_NCHW)
    rows.distance_N = torch.where(closer_A, distance_A, rows.distance_N)
    score_A = score_inside(logits_fn, rows, x_ACHW, output_AC, distance_A, targeted)
    better_A = score_A > rows.score_N
    rows.inside_NCHW = torch.where(better_A[:, None, None, None], x_ACHW, rows.inside_NCHW)
    rows.score_N = torch.where(better_A, score_A, rows.score_N)
    return adversarial_A


def score_inside(
    logits_fn: LogitsFn, rows: ClosestRows, x_ACHW: Tensor, output_AC: Tensor, distance_A: Tensor, targeted: bool
) -> Tensor:
    """Above 0 for what is broken as fp32 confirms, more the closer it is; else the margin; -inf outside the ball."""
    inside_A = rows.ball.contains(x_ACHW)
    margin_A = margin(output_AC, rows.label_N) * (-1 if targeted else 1)
    score_A = margin_A.clamp(max=0).masked_fill(~inside_A, -torch.inf)
    asked = inside_A & (margin_A >= 0)
    if bool(asked.any()):
        broken_A = asked.clone()
        broken_A[asked] = misclassified(logits_fn, x_ACHW[asked], output_AC[asked], rows.label_N[asked], targeted)
        score_A = torch.where(broken_A, 1 / (distance_A + 1e-12), score_A)
    return score_A


def settle(logits_fn: LogitsFn, rows: ClosestRows, targeted: bool) -> Tensor:
    """The points to return. Where nothing inside the ball is broken, the closest adversarial point is pulled into it: the
    final search of arXiv 1907.02044 at the one radius that matters. One forward for such images."""
    pulled = ((rows.score_N <= 0) & rows.distance_N.isfinite()).cpu()  # the counters live there
    if bool(pulled.any()):
        part = rows.select(pulled)
        x_ACHW = part.ball.project_(part.closest_NCHW.clone())
        with torch.no_grad():
            consider(logits_fn, part, x_ACHW, logits_fn(x_ACHW), targeted)
        rows.inside_NCHW, rows.score_N = rows.inside_NCHW.clone(), rows.score_N.clone()
        rows.inside_NCHW[pulled], rows.score_N[pulled.to(rows.score_N.device)] = part.inside_NCHW, part.score_N
    return rows.inside_NCHW


def length(offset_ACHW: Tensor, ball: Ball) -> Tensor:
    """How long a perturbation is in the ball's norm, one number an image."""
    return euclidean(offset_ACHW) if isinstance(ball, L2Ball) else offset_ACHW.flatten(1).abs().amax(1)
