"""Transfer: the perturbation is made on another model (Papernot et al. 2016, arXiv 1605.07277) and judged on this one.

A model that falls to it more often than to a direct attack hides its gradients (Athalye et al. 2018, arXiv 1802.00420).
Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` a part of the images.
Cost: the attack's own on the source; on the model one forward a restart, and one where a start is given.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._check import check_attack, check_class_numbers, check_classes, eps_tensor, not_finite
from tima.attacks._forward import forward
from tima.attacks._stages import free_parameters
from tima.attacks.losses import LogitsFn, margin
from tima.attacks.projections import Generators, make_ball
from tima.errors import RecipeError


def transfer(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    source: LogitsFn | None = None,
    attack: str | Callable[..., Tensor] = "pgd",
    restarts: int = 1,
    targeted: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
    **params: Any,
) -> Tensor:
    """Attack `source`, and keep for each image what works on `logits_fn`.

    Args and errors are those of `pgd`, with these differences:
        source: the model that the perturbation is made on: pixels in [0, 1] to logits of the same classes.
        attack: name in `ATTACKS`, or a function of the same kind.
        restarts: whole attacks on the source, each of which is judged on `logits_fn`.
        start_BCHW: a point that is judged too; the source never sees it.
        keep_best: of several points the best is kept; False changes nothing.
        stop_when_broken: images that an earlier restart broke are not attacked again. On the source nothing stops early: what
            barely fools it would not fool another model.
        params: settings of the attack on the source.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1]: a misclassified point, else that of largest margin.

    Raises:
        RecipeError: no source, or an attack that does not exist.
    """
    words: dict[str, Any] = {"logits_fn": logits_fn, "batch_size": batch_size, "generator": generator}
    check_attack(image_BCHW, label_B, start_BCHW, 1, None, restarts, True, True, **words)
    check_class_numbers(label_B)
    if source is None:
        raise RecipeError("transfer makes its perturbations on another model: pass that model as source=.")
    if not callable(source):
        raise RecipeError(f"source= is the model that the perturbation is made on, not {source!r}: load it first (load_model).")
    attack = _inner(attack, params)
    image_BCHW, label_B = image_BCHW.detach().float(), label_B.to(image_BCHW.device)
    eps_B = eps_tensor(eps, image_BCHW, norm)
    best = _Best(logits_fn, image_BCHW, label_B, targeted, batch_size)
    everybody_B = torch.arange(len(label_B), device=image_BCHW.device)
    if start_BCHW is not None:
        start_BCHW = start_BCHW.detach().to(image_BCHW.device).float().clone()
        best.judge(everybody_B, make_ball(norm, image_BCHW, eps_B).project_(start_BCHW))
    for _ in range(restarts):
        chosen_A = everybody_B[~best.broken_B] if stop_when_broken else everybody_B
        if len(chosen_A) == 0:
            break
        own = [generator[i] for i in chosen_A.tolist()] if isinstance(generator, Sequence) else generator
        words = {"norm": norm, "targeted": targeted, "generator": own, "batch_size": batch_size, **params}
        best.judge(chosen_A, attack(source, image_BCHW[chosen_A], label_B[chosen_A], eps_B[chosen_A], **words))
    return best.found_BCHW


class _Best:
    """The best point of each image so far, as `logits_fn` sees it."""

    def __init__(
        self, logits_fn: LogitsFn, image_BCHW: Tensor, label_B: Tensor, targeted: bool, batch_size: int | None
    ) -> None:
        self.logits_fn, self.label_B, self.targeted, self.batch_size = logits_fn, label_B, targeted, batch_size
        self.found_BCHW = image_BCHW.clone()
        self.margin_B = torch.full((len(label_B),), -torch.inf, device=image_BCHW.device)
        self.broken_B = torch.zeros_like(self.margin_B, dtype=torch.bool)

    def judge(self, chosen_A: Tensor, x_ACHW: Tensor) -> None:
        """Take one new point of some images into account."""
        output_AC, label_A = forward(self.logits_fn, x_ACHW, self.batch_size), self.label_B[chosen_A]
        check_classes(output_AC, label_A)
        not_finite(~output_AC.sum().isfinite())
        broken_A = misclassified(self.logits_fn, x_ACHW, output_AC, label_A, self.targeted)
        margin_A = margin(output_AC, label_A) * (-1 if self.targeted else 1)
        before_A = self.broken_B[chosen_A]
        better_A = (broken_A & ~before_A) | ((broken_A == before_A) & (margin_A > self.margin_B[chosen_A]))
        self.found_BCHW[chosen_A[better_A]] = x_ACHW[better_A]
        self.margin_B[chosen_A[better_A]] = margin_A[better_A]
        self.broken_B[chosen_A] = before_A | broken_A


def _inner(attack: str | Callable[..., Tensor], params: dict[str, Any]) -> Callable[..., Tensor]:
    if callable(attack):
        return attack
    from tima.attacks import find_attack  # that module imports this one

    if attack == "transfer":
        raise RecipeError("transfer makes its perturbations with another attack than itself: name that one, for example pgd.")
    inner = find_attack(attack)
    if unknown := [key for key in params if key not in free_parameters(inner)]:
        raise RecipeError(
            f"Attack '{attack}' has no parameter {', '.join(unknown)}; it has: {', '.join(free_parameters(inner))}."
        )
    return inner
