"""TIMA's terms against values worked out by hand, against slow double loops in float64, and against finite differences.

Shapes: `B` images, `C` classes, `D` embedding width.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from tima.methods import terms

B, C, D, SCALE = 5, 6, 4, 7.0


def unit(n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1).to(dtype)


def plane(*degrees: float) -> Tensor:
    """Unit vectors in the plane, by angle: their cosines can be read off."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


# slow references: no matrix product, no shared code ---------------------------------------------------------------


def slow_mhe(text: np.ndarray, alpha: float) -> float:
    values = [
        1 / (1 + np.linalg.norm(text[j] - text[k]) ** alpha) for j in range(len(text)) for k in range(len(text)) if j != k
    ]
    return float(np.mean(values))


def slow_pairs(text: np.ndarray, value: Callable[[np.ndarray, np.ndarray], float]) -> dict[tuple[int, int], float]:
    return {(j, k): value(text[j], text[k]) for j in range(len(text)) for k in range(len(text)) if j != k}


def slow_consistency(text: np.ndarray, text0: np.ndarray) -> float:
    return 1 - float(np.corrcoef([list(slow_pairs(t, np.dot).values()) for t in (text, text0)])[0, 1])


def slow_tam(text: np.ndarray, kappa: float) -> np.ndarray:
    distance = slow_pairs(text, lambda p, q: float(np.linalg.norm(p - q)))
    margin = np.zeros((len(text), len(text)))
    for pair, d in distance.items():
        margin[pair] = kappa * d / max(distance.values())
    return margin


def slow_asam(text0: np.ndarray, kappa: float, m0: float, by: str, sign: int) -> np.ndarray:
    value = slow_pairs(text0, np.dot if by == "similarity" else lambda p, q: float(np.linalg.norm(p - q)))
    low, high = min(value.values()), max(value.values())
    margin = np.zeros((len(text0), len(text0)))
    for pair, v in value.items():
        margin[pair] = m0 if by == "constant" else m0 + sign * kappa * (v - low) / (high - low)
    return margin


def slow_softmax(logits: list[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def slow_ce(image: np.ndarray, text: np.ndarray, label: list[int], scale: float, margin: np.ndarray) -> float:
    losses = []
    for b, y in enumerate(label):
        logits = [scale * (image[b] @ text[j] + (margin[y, j] if j != y else 0.0)) for j in range(len(text))]
        losses.append(-math.log(slow_softmax(logits)[y]))
    return float(np.mean(losses))


def slow_kl(image_p: np.ndarray, text_p: np.ndarray, image_q: np.ndarray, text_q: np.ndarray, scale: float) -> float:
    """Mean over images of sum_j p_j log(p_j / q_j)."""
    values = []
    for b in range(len(image_p)):
        p = slow_softmax([scale * float(image_p[b] @ t) for t in text_p])
        q = slow_softmax([scale * float(image_q[b] @ t) for t in text_q])
        values.append(math.fsum(pj * math.log(pj / qj) for pj, qj in zip(p, q, strict=True)))
    return float(np.mean(values))


# by hand ----------------------------------------------------------------------------------------------------------


def test_mhe_by_hand() -> None:
    assert terms.mhe(torch.eye(3)).item() == pytest.approx(1 / 3)  # d^2 = 2 everywhere
    assert terms.mhe(plane(0, 180)).item() == pytest.approx(1 / 5)  # d^2 = 4
    assert terms.mhe(plane(0, 180), alpha=1).item() == pytest.approx(1 / 3)  # d = 2
    assert terms.mhe(plane(0, 180), alpha=3).item() == pytest.approx(1 / 9)  # d^3 = 8
    assert terms.mhe(plane(30, 30)).item() == pytest.approx(1)  # coincide
    assert terms.mhe(plane(0, 90, 180)).item() == pytest.approx((1 / 3 + 1 / 3 + 1 / 5) / 3)


def test_semantic_consistency_by_hand() -> None:
    # cosines (0, -1, 0) against (1/2, -1, -1/2): covariance 2/3, variances 2/3 and 7/6 (sums), pearson 2 / sqrt(7)
    assert terms.semantic_consistency(plane(0, 90, 180), plane(0, 60, 180)).item() == pytest.approx(1 - 2 / math.sqrt(7))
    assert terms.semantic_consistency(plane(10, 70, 190), plane(0, 60, 180)).item() == pytest.approx(0, abs=1e-12)  # turned
    # cosines (0, -1, 0) against (0, 1, 0): exactly reversed
    assert terms.semantic_consistency(plane(0, 90, 180), plane(0, 90, 0)).item() == pytest.approx(2)


def test_margins_by_hand() -> None:
    text = plane(0, 90, 180)  # distances sqrt(2), 2, sqrt(2); cosines 0, -1, 0
    near = 0.1 / math.sqrt(2)
    expected = torch.tensor([[0, near, 0.1], [near, 0, near], [0.1, near, 0]], dtype=torch.float64)
    assert torch.allclose(terms.tam_margin(text, 0.1), expected)
    by_similarity = torch.tensor([[0, 0.3, 0.2], [0.3, 0, 0.3], [0.2, 0.3, 0]], dtype=torch.float64)
    assert torch.allclose(terms.asam_margin(text, 0.1, 0.2), by_similarity)
    by_distance = torch.tensor([[0, 0.2, 0.3], [0.2, 0, 0.2], [0.3, 0.2, 0]], dtype=torch.float64)
    assert torch.allclose(terms.asam_margin(text, 0.1, 0.2, by="distance"), by_distance)
    turned_round = torch.tensor([[0, 0.1, 0.2], [0.1, 0, 0.1], [0.2, 0.1, 0]], dtype=torch.float64)
    assert torch.allclose(terms.asam_margin(text, 0.1, 0.2, sign=-1), turned_round)
    assert torch.allclose(terms.asam_margin(text, 0.1, 0.2, by="constant"), 0.2 * (1 - torch.eye(3, dtype=torch.float64)))


def test_margin_ce_by_hand() -> None:
    image, text, label = plane(0), plane(0, 90), torch.tensor([0])
    margin = torch.tensor([[0.0, 0.5], [9.0, 0.0]], dtype=torch.float64)  # row 1 belongs to the other class
    assert terms.margin_ce(image, text, label, 2.0).item() == pytest.approx(math.log(1 + math.exp(-2)))  # logits 2, 0
    with_margin = terms.margin_ce(image, text, label, 2.0, margin[label])  # logits 2, 1
    assert with_margin.item() == pytest.approx(math.log(1 + math.exp(-1)))


TEACHER_FIRST = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL((3/4, 1/4) || (1/2, 1/2)) = 0.1308
STUDENT_FIRST = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)  # the other way round = 0.1438


def test_distillations_by_hand_and_direction() -> None:
    axes, log3 = plane(0, 90), math.log(3)  # an image on the first axis then has p = (3/4, 1/4)
    even_texts = torch.tensor([[0.6, 0.8], [0.6, -0.8]], dtype=torch.float64)  # equally far from the first axis
    assert terms.iakd(plane(0), even_texts, axes, log3).item() == pytest.approx(TEACHER_FIRST)
    assert terms.iakd(plane(0), axes, even_texts, log3).item() == pytest.approx(STUDENT_FIRST)
    assert terms.takd(plane(0), plane(45), axes, log3).item() == pytest.approx(TEACHER_FIRST)
    assert terms.takd(plane(45), plane(0), axes, log3).item() == pytest.approx(STUDENT_FIRST)


def test_feature_distance_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert terms.feature_distance(student, teacher).item() == pytest.approx((5 + 10) / 2)


# by slow formula --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_every_term_equals_the_slow_formula(dtype: torch.dtype, tolerance: float) -> None:
    text, text0, image, teacher = (unit(n, seed, dtype) for seed, n in enumerate((C, C, B, B)))
    label = torch.tensor([3, 0, 5, 3, 1])
    t, t0, a, v0 = (x.double().numpy() for x in (text, text0, image, teacher))
    close = pytest.approx
    for alpha in (1.0, 2.0, 2.5):
        assert terms.mhe(text, alpha).item() == close(slow_mhe(t, alpha), abs=tolerance)
    assert terms.semantic_consistency(text, text0).item() == close(slow_consistency(t, t0), abs=tolerance)
    margin = terms.tam_margin(text, 0.3)
    assert torch.allclose(terms.tam_margin(text, 0.3, label), margin[label], atol=tolerance)
    np.testing.assert_allclose(margin.numpy(), slow_tam(t, 0.3), atol=tolerance)
    for by in ("similarity", "distance", "constant"):
        for sign in (1, -1):
            found = terms.asam_margin(text0, 0.3, 0.2, by=by, sign=sign)  # type: ignore[arg-type]
            np.testing.assert_allclose(found.numpy(), slow_asam(t0, 0.3, 0.2, by, sign), atol=tolerance)
            rows = terms.asam_margin(text0, 0.3, 0.2, by, sign, label)  # type: ignore[arg-type]
            np.testing.assert_allclose(rows.numpy(), found[label].numpy(), atol=tolerance)
    expected = slow_ce(a, t, label.tolist(), SCALE, slow_tam(t, 0.3))
    assert terms.margin_ce(image, text, label, SCALE, margin[label]).item() == close(expected, abs=tolerance)
    assert terms.iakd(teacher, text, text0, SCALE).item() == close(slow_kl(v0, t0, v0, t, SCALE), abs=tolerance)
    assert terms.takd(teacher, image, text, SCALE).item() == close(slow_kl(v0, t, a, t, SCALE), abs=tolerance)


# gradients --------------------------------------------------------------------------------------------------------

GRADIENTS: dict[str, tuple[Callable[..., Tensor], int]] = {  # a function of so many text matrices, then image matrices
    "mhe": (lambda t: terms.mhe(t), 1),
    "mhe alpha 1": (lambda t: terms.mhe(t, 1.0), 1),
    "mhe alpha 3": (lambda t: terms.mhe(t, 3.0), 1),
    "consistency": (lambda t: terms.semantic_consistency(t, unit(C, 9)), 1),
    "tam_margin": (lambda t: terms.tam_margin(t, 0.3), 1),
    "iakd": (lambda t: terms.iakd(unit(B, 8), t, unit(C, 9), SCALE), 1),
    "takd": (lambda a: terms.takd(unit(B, 8), a, unit(C, 9), SCALE), 0),
    "feature": (lambda a: terms.feature_distance(a, unit(B, 8)), 0),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradcheck(name: str) -> None:
    term, n_texts = GRADIENTS[name]
    raw = torch.randn(C if n_texts else B, D, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: term(F.normalize(x, dim=-1)), (raw,))


@pytest.mark.parametrize("with_margin", [False, True])
def test_gradcheck_margin_ce(with_margin: bool) -> None:
    image, text = (torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (B, C))
    label = torch.tensor([3, 0, 5, 3, 1])
    margin = terms.asam_margin(unit(C, 9), 0.3, 0.2, label_B=label) if with_margin else None
    assert gradcheck(lambda a, t: terms.margin_ce(F.normalize(a), F.normalize(t), label, SCALE, margin), (image, text))


def test_stop_gradients() -> None:
    teacher, image = unit(B, 1).requires_grad_(), unit(B, 2).requires_grad_()
    text, text0 = unit(C, 3).requires_grad_(), unit(C, 4).requires_grad_()
    terms.takd(teacher, image, text, SCALE).backward()
    assert teacher.grad is None and text.grad is None
    assert image.grad is not None and image.grad.abs().sum() > 0
    image.grad = None
    terms.iakd(teacher.detach(), text, text0, SCALE).backward()
    assert text0.grad is None
    assert text.grad is not None and text.grad.abs().sum() > 0


def test_descent_does_what_each_text_term_is_for() -> None:
    """A step down MHE spreads the texts; a step down the consistency brings back the structure."""
    raw = (unit(C, 0, torch.float32) + 1).requires_grad_()  # crowded around one direction
    before = terms.mhe(F.normalize(raw, dim=-1))
    (gradient,) = torch.autograd.grad(before, raw)
    after = F.normalize((raw - 0.1 * gradient / gradient.norm()).detach(), dim=-1)
    assert torch.pdist(after).mean() > torch.pdist(F.normalize(raw.detach(), dim=-1)).mean()
    loss = terms.semantic_consistency(F.normalize(raw, dim=-1), unit(C, 7, torch.float32))
    (gradient,) = torch.autograd.grad(loss, raw)
    stepped = F.normalize((raw - 0.1 * gradient / gradient.norm()).detach(), dim=-1)
    assert terms.semantic_consistency(stepped, unit(C, 7, torch.float32)) < loss.detach()


# corners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_coinciding_texts_have_finite_values_and_gradients(alpha: float) -> None:
    raw = torch.randn(4, D)
    raw[1] = raw[0]  # two class names with one meaning
    raw.requires_grad_()
    text = F.normalize(raw, dim=-1)
    total = terms.mhe(text, alpha) + terms.semantic_consistency(text, unit(4, 1, torch.float32))
    (total + terms.tam_margin(text, 0.1).sum()).backward()
    assert torch.isfinite(total) and raw.grad is not None and torch.isfinite(raw.grad).all()
    assert raw.grad.norm() < 100


def test_all_texts_the_same() -> None:
    raw = torch.ones(4, D, requires_grad=True)
    text = F.normalize(raw, dim=-1)
    total = terms.mhe(text) + terms.semantic_consistency(text, unit(4, 1, torch.float32))
    total.backward()
    assert total.item() == pytest.approx(2) and raw.grad is not None and torch.isfinite(raw.grad).all()
    assert torch.equal(terms.asam_margin(text.detach(), 0.3, 0.2), 0.2 * (1 - torch.eye(4)))


@pytest.mark.parametrize("by", ["similarity", "distance"])
def test_rounding_is_not_scaled_up_to_a_margin(by: Any) -> None:
    text = torch.linalg.qr(torch.randn(6, 6)).Q  # every pair at a right angle, up to rounding
    assert (text @ text.T).triu(1).unique().numel() > 2  # there is rounding
    assert torch.allclose(terms.asam_margin(text, 0.3, 0.2, by=by), 0.2 * (1 - torch.eye(6)))


@pytest.mark.parametrize("n_classes", [1, 2])
def test_one_or_two_classes(n_classes: int) -> None:
    text = unit(n_classes, 0, torch.float32).requires_grad_()
    text0 = unit(n_classes, 1, torch.float32)
    assert torch.equal(terms.semantic_consistency(text, text0).detach(), torch.tensor(0.0))
    assert torch.allclose(terms.asam_margin(text0, 0.3, 0.2), 0.2 * (1 - torch.eye(n_classes)))
    expected = 0.3 * (1 - torch.eye(n_classes))  # the only pair is the furthest; one class has no pair
    assert torch.allclose(terms.tam_margin(text, 0.3).detach(), expected)
    energy = terms.mhe(text)
    energy.backward()
    assert text.grad is not None and torch.isfinite(text.grad).all()
    if n_classes == 1:
        assert energy.item() == 0 and not text.grad.any()


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "margin_ce": lambda a, t: terms.margin_ce(a, t, torch.arange(B), 100.0, terms.tam_margin(t, 0.1, torch.arange(B))),
    "tam_margin": lambda a, t: terms.tam_margin(t, 0.1),
    "asam_margin": lambda a, t: terms.asam_margin(t, 0.1, 0.1),
    "mhe": lambda a, t: terms.mhe(t),
    "consistency": lambda a, t: terms.semantic_consistency(t, t.roll(1, 1)),
    "iakd": lambda a, t: terms.iakd(a, t, t.roll(1, 1), 100.0),
    "takd": lambda a, t: terms.takd(a, a.roll(1, 1), t, torch.tensor(100.0)),
    "feature": lambda a, t: terms.feature_distance(a, a.roll(1, 1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_nothing_and_bf16_inputs_are_raised(name: str) -> None:
    image, text = unit(B, 0, torch.float32), unit(C, 1, torch.float32)
    plain = CALLS[name](image, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CALLS[name](image, text), plain)
    assert plain.dtype == torch.float32
    rounded_image, rounded_text = image.bfloat16(), text.bfloat16()
    assert torch.equal(CALLS[name](rounded_image, rounded_text), CALLS[name](rounded_image.float(), rounded_text.float()))
