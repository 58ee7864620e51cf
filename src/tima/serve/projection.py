"""Class texts in two dimensions, and how close together they stand.

Shapes: `M` models, `C` classes, `D` embedding width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tima.methods.terms import mhe

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TextView:
    """One model's class texts.

    Attributes:
        point_C2: places in the plane.
        mean_cosine: mean cosine of all pairs; None below two classes.
        energy: hyperspherical energy (`tima.methods.terms.mhe`), in (0, 1], small when texts are far apart.
        nearest_C: number of each class's nearest other class; empty below two classes.
        nearest_cosine_C: their cosine.
    """

    point_C2: Array
    mean_cosine: float | None
    energy: float | None
    nearest_C: list[int]
    nearest_cosine_C: list[float]


def text_views(texts: list[Tensor]) -> tuple[list[TextView], bool, float]:
    """Views of several models' `text_CD` (same classes, same order).

    Models of one embedding width share one plane, the two main axes of all their texts together, so that a text's way from one
    model to the next can be seen. Otherwise each model has its own plane, turned (and mirrored) onto the first.

    Returns:
        The views, whether they share a plane, and the share of all variance that the planes show, in [0, 1].
    """
    arrays = [text_CD.detach().double().numpy() for text_CD in texts]
    shared = len({array.shape[1] for array in arrays}) == 1
    if shared:
        points, explained = plane(np.concatenate(arrays))
        points_MC2 = np.split(points, len(arrays))
    else:
        each = [plane(array) for array in arrays]
        points_MC2 = [turned(points, each[0][0]) for points, _ in each]
        explained = float(np.mean([part for _, part in each]))
    return [_view(text, points) for text, points in zip(texts, points_MC2, strict=True)], shared, explained


def plane(row_ND: Array) -> tuple[Array, float]:
    """The rows on their two main axes (PCA), and the share of their variance that these show. Signs are fixed by the rows."""
    centred_ND = row_ND - row_ND.mean(0)
    _, size_K, axis_KD = np.linalg.svd(centred_ND, full_matrices=False)
    point_N2 = np.zeros((len(row_ND), 2))
    found_NK = centred_ND @ axis_KD[:2].T
    sign_K = np.sign(found_NK[np.abs(found_NK).argmax(0), np.arange(found_NK.shape[1])])
    point_N2[:, : found_NK.shape[1]] = found_NK * np.where(sign_K == 0, 1, sign_K)
    total = float((size_K**2).sum())
    return point_N2, float((size_K[:2] ** 2).sum() / total) if total > 1e-12 else 1.0


def turned(point_C2: Array, onto_C2: Array) -> Array:
    """Points rotated or mirrored to lie as near as possible to others (orthogonal Procrustes: Schonemann 1966)."""
    left, _, right = np.linalg.svd(point_C2.T @ onto_C2)
    found: Array = point_C2 @ (left @ right)
    return found


def _view(text_CD: Tensor, point_C2: Array) -> TextView:
    classes = len(text_CD)
    if classes < 2:
        return TextView(point_C2, None, None, [], [])
    cosine_CC = (text_CD.double() @ text_CD.double().T).clamp(-1, 1)
    mean = float((cosine_CC.sum() - cosine_CC.trace()) / (classes * (classes - 1)))
    nearest = cosine_CC.masked_fill(torch.eye(classes, dtype=torch.bool), -torch.inf).max(1)
    return TextView(point_C2, mean, float(mhe(text_CD)), nearest.indices.tolist(), nearest.values.tolist())
