"""The terms of TIMA's losses: pure functions of embeddings, each with its formula and its status.

Shapes: `B` images, `C` classes, `D` embedding width, `K` classes drawn to stand for all. All embeddings are unit-norm,
`d^2 = 2 - 2 cos`, `s` is the logit scale, and margins are in cosine units (`s` multiplies them together with the cosine).
Where the classes are a sample (`tima.class_sample`), `log_weight_C` is added to every logit; None adds nothing.

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

from tima.distributed import batch_mean
from tima.methods.class_pairs import pair_mean, pair_moments, pair_range

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
    image_BD: Tensor,
    text_CD: Tensor,
    label_B: Tensor,
    scale: Tensor | float,
    margin_BC: Tensor | None = None,
    log_weight_C: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with a margin on every negative logit, mean over the batch.

    Known: cross-entropy without the margin is TeCoA's loss (arXiv 2212.07016). Our reading: where the margin goes.

    A sigmoid model's logit bias is the same for all classes, so that it cancels here and in the distillations.

    Args:
        margin_BC: added to the cosines; 0 at each image's own class. None is no margin.
    """
    cosine_BC = image_BD @ text_CD.T
    if margin_BC is not None:
        cosine_BC = cosine_BC + margin_BC
    # (4) TAM: l_by = s cos(a_b, t_y);  l_bj = s (cos(a_b, t_j) + m_yj), j != y;  L_TAM = CE(l, y)
    return F.cross_entropy(_weighted(scale * cosine_BC, log_weight_C), label_B)


@full_precision
def tam_margin(text_CD: Tensor, kappa: float, label_B: Tensor | None = None) -> Tensor:
    """Text-distance based adaptive margin of TIMA v1, in cosine units: the further two texts, the larger.

    Known (abstract): a margin that adapts to the distance of the texts. Our reading: its form.

    Args:
        label_B: the classes whose rows are wanted, `margin_BC`; None: all, `margin_CC`.
    """
    distance_BC, own_BC = _rows(text_CD, label_B, _distance)
    # (5) TAM: m_yj = kappa * d(t_y, t_j) / max_jk d
    largest = pair_range(text_CD, _distance)[1].clamp_min(SQUARED_DISTANCE_FLOOR)
    return (kappa * distance_BC / largest).masked_fill(own_BC, 0)


MarginBy = Literal["similarity", "distance", "constant"]


@full_precision
def asam_margin(
    text0_CD: Tensor,
    kappa: float,
    m0: float,
    by: MarginBy = "similarity",
    sign: Literal[1, -1] = 1,
    label_B: Tensor | None = None,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Adaptive semantic-aware margin of TIMA (AAAI 2026), in cosine units, 0 for a class with itself.

    Known (abstract): logit margins show a stable offset between small and large perturbations, which suggests adjusting
    them, and correlate negatively with semantic similarity. Our reading: the form below.

    Args:
        text0_CD: texts of the frozen tower, so that the margin is a constant of the class list.
        by: what `rho` scales: the cosine, the distance, or nothing (`m = m0`).
        sign: -1 turns the adaptive part round, `m0 - kappa * rho`.
        label_B: the classes whose rows are wanted, `margin_BC`; None: all, `margin_CC`.
        limits: `asam_limits` of the whole list, where `text0_CD` is a sample of it or many steps share it; None: of these.
    """
    value_BC, own_BC = _rows(text0_CD, label_B, _distance if by == "distance" else _cosine)
    low, high = asam_limits(text0_CD, by) if limits is None else limits
    # where all pairs are alike, scaling would show nothing but rounding: rho is 0 then
    spread = high - low if high - low > SQUARED_DISTANCE_FLOOR else torch.inf
    # (8) ASAM: m_yj = m0 + kappa * rho_yj, rho_yj in [0, 1] min-max scaled over all pairs j != y
    return (m0 + sign * kappa * ((value_BC - low) / spread)).masked_fill(own_BC, 0)


def asam_limits(text0_CD: Tensor, by: MarginBy = "similarity") -> tuple[float, float]:
    """Smallest and largest value over all pairs, which scale `rho` in (8). Equal where there is nothing to scale between."""
    if by == "constant" or len(text0_CD) < 3:  # one class has no pair, two have one
        return 0.0, 0.0
    with torch.no_grad(), torch.autocast(text0_CD.device.type, enabled=False):
        low, high = pair_range(text0_CD, _distance if by == "distance" else _cosine)
    return float(low), float(high)


@full_precision
def mhe(text_CD: Tensor, alpha: float = 2.0, column_K: Tensor | None = None) -> Tensor:
    """Minimum hyperspherical energy: small when the class texts are far from each other. A scalar in (0, 1].

    Known (retelling of the paper at themoonlight.io): formula and `alpha = 2`. One class alone has energy 0.

    Args:
        column_K: classes drawn to stand for all in one of the two places of a pair: an unbiased estimate of value and gradient.
    """
    if len(text_CD) < 2:
        return text_CD.sum() * 0.0

    # (2) MHE: L_MHE = E_{j != k} [ 1 / (1 + d(t_j, t_k)^alpha) ]; the 1 + keeps it finite where two texts coincide
    def energy(cosine_RC: Tensor) -> Tensor:
        squared_RC = (2 - 2 * cosine_RC).clamp_min(0.0 if alpha >= 2 else SQUARED_DISTANCE_FLOOR)
        return 1 / (1 + (squared_RC if alpha == 2 else squared_RC ** (alpha / 2)))

    return pair_mean(text_CD, energy, column_K)


@full_precision
def semantic_consistency(text_CD: Tensor, text0_CD: Tensor) -> Tensor:
    """`1 - pearson` of tuned and frozen texts' cosines, in [0, 2]: which classes are near must stay as it was.

    Known (abstract): the semantic structure of the texts must survive tuning. Our reading: Pearson's correlation.
    Below three classes there is no structure and the term is 0; where all cosines are equal the correlation counts as 0.
    """
    if len(text_CD) < 3:
        return text_CD.sum() * 0.0
    tuned, frozen, both = pair_moments(text_CD, text0_CD)
    # (9) SC-MHE: 1 - pearson(S(t), S(t0)), S the off-diagonal cosines;  L_SCMHE = L_MHE + w_sc * (this)
    pearson = both / (tuned.clamp_min(VARIANCE_FLOOR) * frozen.clamp_min(VARIANCE_FLOOR)).sqrt()
    return 1 - pearson.to(text_CD.dtype)


@full_precision
def iakd(
    teacher_BD: Tensor, text_CD: Tensor, text0_CD: Tensor, scale: Tensor | float, log_weight_C: Tensor | None = None
) -> Tensor:
    """Image-aware distillation of the texts: what fixed images say about the tuned texts stays as it was.

    Known (abstract): fixed pre-trained image embeddings supervise tuned against original texts. Our reading: the KL.
    """
    # (3) IAKD: KL( softmax(s v0 @ t0.T) || softmax(s v0 @ t.T) ), mean over the batch
    return _kl(scale * (teacher_BD @ text0_CD.T), scale * (teacher_BD @ text_CD.T), log_weight_C)


@full_precision
def takd(
    teacher_BD: Tensor, image_BD: Tensor, text_CD: Tensor, scale: Tensor | float, log_weight_C: Tensor | None = None
) -> Tensor:
    """Text-aware distillation of the images: the tuned image tower sees the texts as the pre-trained one does.

    Known (abstract): tuned and pre-trained image embeddings are kept similar. Our reading: the KL, its teacher on the
    clean image, and the stop-gradient on the texts.

    Args:
        image_BD: the student's embeddings of the adversarial (`a`) or of the clean (`v`) images.
    """
    fixed_CD = text_CD.detach()
    # (6) TAKD: KL( softmax(s v0 @ sg(t).T) || softmax(s a @ sg(t).T) ), mean over the batch
    return _kl(scale * (teacher_BD @ fixed_CD.T), scale * (image_BD @ fixed_CD.T), log_weight_C)


@full_precision
def feature_distance(image_raw_BD: Tensor, teacher_raw_BD: Tensor) -> Tensor:
    """Squared l2 distance of un-normalised embeddings, summed over `D`, mean over the batch (FARE, arXiv 2402.12336)."""
    # (11) FARE: || f(x_adv) - f0(x) ||_2^2
    return (image_raw_BD - teacher_raw_BD).square().sum(-1).mean()


@full_precision
def relative_feature_distance(image_raw_BD: Tensor, teacher_raw_BD: Tensor) -> Tensor:
    """That distance in units of the teacher's own mean squared length, so that it is 0 to about 1 for any tower. Ours."""
    # (30) anchor: sum_b || f(x_adv_b) - f0(x_b) ||_2^2 / sum_b || f0(x_b) ||_2^2
    length = batch_mean(teacher_raw_BD.square().sum(-1)).clamp_min(VARIANCE_FLOOR)
    return (image_raw_BD - teacher_raw_BD).square().sum(-1).mean() / length


def _kl(teacher_BC: Tensor, student_BC: Tensor, log_weight_C: Tensor | None) -> Tensor:
    """`KL(softmax(teacher) || softmax(student))`, mean over the batch; nothing flows back into the teacher."""
    log_p_BC = F.log_softmax(_weighted(teacher_BC.detach(), log_weight_C), dim=-1)
    log_q_BC = F.log_softmax(_weighted(student_BC, log_weight_C), dim=-1)
    return F.kl_div(log_q_BC, log_p_BC, reduction="batchmean", log_target=True)


def _weighted(logits_BC: Tensor, log_weight_C: Tensor | None) -> Tensor:
    return logits_BC if log_weight_C is None else logits_BC + log_weight_C


def _cosine(cosine_RC: Tensor) -> Tensor:
    return cosine_RC


def _distance(cosine_RC: Tensor) -> Tensor:
    return (2 - 2 * cosine_RC).clamp_min(SQUARED_DISTANCE_FLOOR).sqrt()


def _rows(text_CD: Tensor, label_B: Tensor | None, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`value(cosine)` of the texts of `label_B` with all, and where a class meets itself."""
    class_C = torch.arange(len(text_CD), device=text_CD.device)
    label_B = class_C if label_B is None else label_B
    return value(text_CD[label_B] @ text_CD.T), label_B[:, None] == class_C
