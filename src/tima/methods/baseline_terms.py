"""The terms of the baselines' losses: pure functions of embeddings, each with its formula and its source.

Shapes: `B` images, `C` classes, `D` embedding width, `N` patches of an image, `P` its pixels. Embeddings are unit-norm, `s` is
the logit scale, `p` and `q` are softmax of `s cos` over the classes. Formula numbers go on from `terms.py` and are those of
docs/method.md.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.methods.terms import full_precision


@full_precision
def kl_both(first_BD: Tensor, second_BD: Tensor, text_CD: Tensor, scale: Tensor | float) -> Tensor:
    """KL between two predictions of the student, with gradients into both (TRADES, arXiv 1901.08573; PMG-AFT, 2401.04350)."""
    # (14) KL( softmax(s p @ t.T) || softmax(s q @ t.T) ), mean over the batch
    return _kl_rows(scale * (first_BD @ text_CD.T), scale * (second_BD @ text_CD.T)).mean()


@full_precision
def misclassification_kl(clean_BD: Tensor, adv_BD: Tensor, text_CD: Tensor, label_B: Tensor, scale: Tensor | float) -> Tensor:
    """That KL, weighted by the probability that the clean prediction gives to other classes (MART, ICLR 2020, eq. 9)."""
    clean_BC, adv_BC = scale * (clean_BD @ text_CD.T), scale * (adv_BD @ text_CD.T)
    right_B = clean_BC.softmax(-1).gather(1, label_B[:, None])[:, 0]
    # (15) mean_b [ KL(p(x_b) || p(a_b)) (1 - p_y(x_b)) ]
    return (_kl_rows(clean_BC, adv_BC) * (1 - right_B)).mean()


@full_precision
def boosted_ce(adv_BD: Tensor, text_CD: Tensor, label_B: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy that also pushes the best wrong class down (MART, ICLR 2020, eq. 8), mean over the batch."""
    log_p_BC = F.log_softmax(scale * (adv_BD @ text_CD.T), dim=-1)
    own_B1 = label_B[:, None]
    # (16) BCE: - log p_y - log(1 - max_{k != y} p_k); the second logarithm as a log-sum over all classes but that one
    wrong_B1 = log_p_BC.scatter(1, own_B1, -torch.inf).argmax(1, keepdim=True)
    return -(log_p_BC.gather(1, own_B1)[:, 0] + log_p_BC.scatter(1, wrong_B1, -torch.inf).logsumexp(1)).mean()


@full_precision
def soft_target(teacher_BD: Tensor, text_CD: Tensor, scale: Tensor | float) -> Tensor:
    """Soft labels `B x C`: what the frozen model says at a lower scale (AGFT, arXiv 2603.29410)."""
    # (17) q = softmax(scale v0 @ t0.T)
    return (scale * (teacher_BD @ text_CD.T)).softmax(-1).detach()


@full_precision
def soft_ce(image_BD: Tensor, text_CD: Tensor, target_BC: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy against soft labels, mean over the batch (AGFT, arXiv 2603.29410)."""
    # (18) - sum_c q_bc log softmax(scale a @ t.T)_bc
    return -(target_BC * F.log_softmax(scale * (image_BD @ text_CD.T), dim=-1)).sum(-1).mean()


@full_precision
def expand_texts(text_CD: Tensor) -> Tensor:
    """Anchors `C x D`: polar angles around the mean direction stretched until the widest is pi/2 (LAAT, arXiv 2301.13096).

    The paper turns the mean to the pole, scales the polar angle, and turns back; splitting each text into its part along the
    mean and the rest does the same without a rotation. Texts that all coincide stay where they are.
    """
    mean_D = F.normalize(text_CD.mean(0), dim=0)
    along_C = (text_CD @ mean_D).clamp(-1, 1)
    rest_CD = F.normalize(text_CD - along_C[:, None] * mean_D, dim=-1)
    angle_C = along_C.acos()
    # (19) theta' = theta (pi / 2) / max theta; below a thousandth all texts coincide, and stretching would show rounding
    widest = angle_C.amax()
    wide_C = angle_C * torch.where(widest > 1e-3, torch.pi / 2 / widest, 1.0)
    return F.normalize(wide_C.cos()[:, None] * mean_D + wide_C.sin()[:, None] * rest_CD, dim=-1)


@full_precision
def scaled_logits(image_BD: Tensor, weight_CD: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """`scale * image @ weight.T`, for attacks on another head than the model's own."""
    return scale * (image_BD @ weight_CD.T)


@full_precision
def cosine_mean(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Mean cosine of corresponding unit-norm rows."""
    return (first_BD * second_BD).sum(-1).mean()


@full_precision
def attention_map(
    image_BD: Tensor, patch_BND: Tensor, text_BD: Tensor, size: int, over: Literal["channels", "tokens"] = "channels"
) -> Tensor:
    """Text-guided attention `B x P`, `P = size * size`: how much each place of an image looks like a text, in [0, 1].

    Known (TGA-ZSR, arXiv 2410.21802, published code): patch embeddings against the text, min-max scaled for each image,
    bilinearly enlarged to the image's grid. A map that is the same everywhere becomes 0.

    Args:
        image_BD: un-normalised embeddings of the class tokens; only `over="tokens"` looks at them.
        patch_BND: un-normalised embeddings of the patches, row by row of a square grid.
        text_BD: one unit-norm text an image.
        size: side of the enlarged map in pixels.
        over: what the patch embeddings are normalised over. `tokens` is what the published code does: each channel is divided
            by its length over all tokens of the image, the class token among them.
    """
    if over == "channels":
        unit_BND = F.normalize(patch_BND, dim=-1)
    else:
        unit_BND = patch_BND / torch.cat([image_BD[:, None], patch_BND], 1).norm(dim=1, keepdim=True).clamp_min(1e-12)
    # (20) TGA: A = minmax_n( p_n . t / ||p_n|| ), enlarged
    score_BN = (unit_BND @ text_BD[:, :, None])[:, :, 0]
    low_B1, high_B1 = score_BN.amin(1, keepdim=True), score_BN.amax(1, keepdim=True)
    scaled_BN = (score_BN - low_B1) / (high_B1 - low_B1).clamp_min(1e-6)
    side = math.isqrt(scaled_BN.shape[1])
    grid_B1SS = scaled_BN.view(-1, 1, side, side)
    return F.interpolate(grid_B1SS, size=(size, size), mode="bilinear", align_corners=False).flatten(1)


@full_precision
def l2_mean(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Euclidean distance of corresponding rows (not squared), mean over the batch."""
    return torch.linalg.vector_norm(first_BD - second_BD, dim=-1).mean()


@full_precision
def contrastive_rows(logits_BN: Tensor, target_BN: Tensor, column_NB: Tensor | None = None) -> Tensor:
    """Symmetric contrastive loss of each image-caption pair (CLIP, arXiv 2103.00020; AdvFLYP, arXiv 2604.11576).

    Args:
        logits_BN: scaled cosines, images down, captions across.
        target_BN: rows of a symmetric matrix that sum to 1; the identity when all captions differ.
        column_NB: the columns of these images' captions, over all images; None: the logits are of all images.
    """
    column_NB = logits_BN if column_NB is None else column_NB
    # (23) l_b = ( CE(row b, q_b) + CE(column b, q_b) ) / 2
    return -(target_BN * (F.log_softmax(logits_BN, dim=1) + F.log_softmax(column_NB, dim=0).T)).sum(1) / 2


def _kl_rows(first_BC: Tensor, second_BC: Tensor) -> Tensor:
    """`KL(softmax(first) || softmax(second))` of each row, gradients into both."""
    log_p_BC, log_q_BC = F.log_softmax(first_BC, dim=-1), F.log_softmax(second_BC, dim=-1)
    return (log_p_BC.exp() * (log_p_BC - log_q_BC)).sum(-1)
