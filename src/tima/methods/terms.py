"""The terms of TIMA's losses: pure functions of embeddings, each with its formula and its status.

Shapes: `B` images, `C` classes, `D` embedding width. All embeddings are unit-norm, `d^2 = 2 - 2 cos`, `s` is the logit
scale, and margins are in cosine units (they are multiplied by `s` together with the cosine).

Status: *known* formulas come from the named source; *our reading* fills what the papers' available text leaves open
(TIMA: arXiv 2405.17678 v1, 2024, and AAAI 2026, 40(29):24235-24243).
Formula numbers are those of docs/method.md.
Numerics: every function leaves autocast and works in fp32, or in fp64 if its inputs are.
"""

from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")

# Squared distances of unit vectors carry an fp32 error of about 1e-7: below this floor they are noise, and a square
# root's gradient would blow that noise up.
SQUARED_DISTANCE_FLOOR = 1e-6
VARIANCE_FLOOR = 1e-12


def full_precision(term: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run a term outside autocast with its floating tensors in fp32 (fp64 stays fp64)."""

    def raised(value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
            return value.float()
        return value

    @wraps(term)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return term(*map(raised, args), **{key: raised(value) for key, value in kwargs.items()})  # type: ignore[arg-type]

    return guarded


@full_precision
def margin_ce(
    image_BD: Tensor, text_CD: Tensor, label_B: Tensor, scale: Tensor | float, margin_CC: Tensor | None = None
) -> Tensor:
    """Cross-entropy with a margin on every negative logit, mean over the batch.

    Known: cross-entropy without the margin is TeCoA's loss (arXiv 2212.07016). Our reading: where the margin goes.

    A sigmoid model's logit bias is the same for all classes, so that it cancels here and in the distillations.

    Args:
        margin_CC: row `y` is added to the cosines of images of class `y`; its diagonal must be 0. None is no margin.
    """
    cosine_BC = image_BD @ text_CD.T
    if margin_CC is not None:
        cosine_BC = cosine_BC + margin_CC[label_B]
    # (4) TAM: l_by = s cos(a_b, t_y);  l_bj = s (cos(a_b, t_j) + m_yj), j != y;  L_TAM = CE(l, y)
    return F.cross_entropy(scale * cosine_BC, label_B)


@full_precision
def tam_margin(text_CD: Tensor, kappa: float) -> Tensor:
    """Text-distance based adaptive margin of TIMA v1, `C x C` in cosine units: the further two texts, the larger.

    Known (abstract): a margin that adapts to the distance of the texts. Our reading: its form.
    """
    # (5) TAM: m_yj = kappa * d(t_y, t_j) / max_jk d
    distance_CC = _zero_diagonal(_distance(text_CD))
    return kappa * distance_CC / distance_CC.amax().clamp_min(SQUARED_DISTANCE_FLOOR)


@full_precision
def asam_margin(
    text0_CD: Tensor,
    kappa: float,
    m0: float,
    by: Literal["similarity", "distance", "constant"] = "similarity",
    sign: Literal[1, -1] = 1,
) -> Tensor:
    """Adaptive semantic-aware margin of TIMA (AAAI 2026), `C x C` in cosine units with a zero diagonal.

    Known (abstract): logit margins show a stable offset between small and large perturbations, which suggests adjusting
    them, and correlate negatively with semantic similarity. Our reading: the form below.

    Args:
        text0_CD: texts of the frozen tower, so that the margin is a constant of the class list.
        by: what `rho` scales: the cosine, the distance, or nothing (`m = m0`).
        sign: -1 turns the adaptive part round, `m0 - kappa * rho`.
    """
    n_classes = len(text0_CD)
    rho_CC = torch.zeros(n_classes, n_classes, dtype=text0_CD.dtype, device=text0_CD.device)
    if by != "constant" and n_classes > 2:  # one class has no pair, two have one: nothing to scale between
        value_CC = text0_CD @ text0_CD.T if by == "similarity" else _distance(text0_CD)
        own_CC = torch.eye(n_classes, dtype=torch.bool, device=text0_CD.device)
        low = value_CC.masked_fill(own_CC, torch.inf).amin()
        spread = value_CC.masked_fill(own_CC, -torch.inf).amax() - low
        # where all pairs are alike, scaling would show nothing but rounding: rho is 0 then
        rho_CC = (spread > SQUARED_DISTANCE_FLOOR) * (value_CC - low) / spread.clamp_min(SQUARED_DISTANCE_FLOOR)
    # (8) ASAM: m_yj = m0 + kappa * rho_yj, rho_yj in [0, 1] min-max scaled over all pairs j != y
    return _zero_diagonal(m0 + sign * kappa * rho_CC)


@full_precision
def mhe(text_CD: Tensor, alpha: float = 2.0) -> Tensor:
    """Minimum hyperspherical energy: small when the class texts are far from each other. A scalar in (0, 1].

    Known (retelling of the paper at themoonlight.io): formula and `alpha = 2`. One class alone has energy 0.
    """
    n_classes = len(text_CD)
    if n_classes < 2:
        return text_CD.sum() * 0.0
    squared_CC = (2 - 2 * text_CD @ text_CD.T).clamp_min(0.0 if alpha >= 2 else SQUARED_DISTANCE_FLOOR)
    # (2) MHE: L_MHE = E_{j != k} [ 1 / (1 + d(t_j, t_k)^alpha) ]; the 1 + keeps it finite where two texts coincide
    energy_CC = 1 / (1 + (squared_CC if alpha == 2 else squared_CC ** (alpha / 2)))
    return energy_CC.triu(1).sum() * (2 / (n_classes * (n_classes - 1)))


@full_precision
def semantic_consistency(text_CD: Tensor, text0_CD: Tensor) -> Tensor:
    """`1 - pearson` of tuned and frozen texts' cosines, in [0, 2]: which classes are near must stay as it was.

    Known (abstract): the semantic structure of the texts must survive tuning. Our reading: Pearson's correlation.
    Below three classes there is no structure and the term is 0; where all cosines are equal the correlation counts as 0.
    """
    n_classes = len(text_CD)
    if n_classes < 3:
        return text_CD.sum() * 0.0
    tuned_CC, frozen_CC = _centred_pairs(text_CD), _centred_pairs(text0_CD)
    spread = tuned_CC.square().mean().clamp_min(VARIANCE_FLOOR) * frozen_CC.square().mean().clamp_min(VARIANCE_FLOOR)
    # (9) SC-MHE: 1 - pearson(S(t), S(t0)), S the off-diagonal cosines;  L_SCMHE = L_MHE + w_sc * (this)
    return 1 - (tuned_CC * frozen_CC).mean() / spread.sqrt()


@full_precision
def iakd(teacher_BD: Tensor, text_CD: Tensor, text0_CD: Tensor, scale: Tensor | float) -> Tensor:
    """Image-aware distillation of the texts: what fixed images say about the tuned texts stays as it was.

    Known (abstract): fixed pre-trained image embeddings supervise tuned against original texts. Our reading: the KL.
    """
    # (3) IAKD: KL( softmax(s v0 @ t0.T) || softmax(s v0 @ t.T) ), mean over the batch
    return _kl(scale * (teacher_BD @ text0_CD.T), scale * (teacher_BD @ text_CD.T))


@full_precision
def takd(teacher_BD: Tensor, image_BD: Tensor, text_CD: Tensor, scale: Tensor | float) -> Tensor:
    """Text-aware distillation of the images: the tuned image tower sees the texts as the pre-trained one does.

    Known (abstract): tuned and pre-trained image embeddings are kept similar. Our reading: the KL, its teacher on the
    clean image, and the stop-gradient on the texts.

    Args:
        image_BD: the student's embeddings of the adversarial (`a`) or of the clean (`v`) images.
    """
    fixed_CD = text_CD.detach()
    # (6) TAKD: KL( softmax(s v0 @ sg(t).T) || softmax(s a @ sg(t).T) ), mean over the batch
    return _kl(scale * (teacher_BD @ fixed_CD.T), scale * (image_BD @ fixed_CD.T))


@full_precision
def feature_distance(image_raw_BD: Tensor, teacher_raw_BD: Tensor) -> Tensor:
    """Squared l2 distance of un-normalised embeddings, summed over `D`, mean over the batch (FARE, arXiv 2402.12336)."""
    # (11) FARE: || f(x_adv) - f0(x) ||_2^2
    return (image_raw_BD - teacher_raw_BD).square().sum(-1).mean()


def _kl(teacher_BC: Tensor, student_BC: Tensor) -> Tensor:
    """`KL(softmax(teacher) || softmax(student))`, mean over the batch; nothing flows back into the teacher."""
    log_p_BC = F.log_softmax(teacher_BC.detach(), dim=-1)
    return F.kl_div(F.log_softmax(student_BC, dim=-1), log_p_BC, reduction="batchmean", log_target=True)


def _distance(text_CD: Tensor) -> Tensor:
    return (2 - 2 * text_CD @ text_CD.T).clamp_min(SQUARED_DISTANCE_FLOOR).sqrt()


def _zero_diagonal(value_CC: Tensor) -> Tensor:
    return value_CC - torch.diag_embed(value_CC.diagonal())


def _centred_pairs(text_CD: Tensor) -> Tensor:
    """Cosines of the pairs j < k minus their mean, zeros elsewhere."""
    n_classes = len(text_CD)
    cosine_CC = text_CD @ text_CD.T
    mean = cosine_CC.triu(1).sum() / (n_classes * (n_classes - 1) / 2)
    return (cosine_CC - mean).triu(1)
