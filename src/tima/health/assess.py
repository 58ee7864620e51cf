"""`assess`: every indicator of attack health, and the verdict.

Shapes: `B` images of the probe, `C` channels or classes, `H, W` pixels.
Cost: about 170 forwards an image, 55 of them with a backward; at most about 300 where every image stands. What does not depend
on eps, a tenth or so, is done at the first eps only (`Memory`).
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from tima.attacks.counting import GradientStats
from tima.attacks.losses import LogitsFn
from tima.attacks.projections import check_norm
from tima.errors import DataError, ModelError
from tima.health import gradients as _gradients
from tima.health import invariance, outsiders, progress, strength
from tima.health._probe import Memory, Probe
from tima.health.randomness import randomness
from tima.health.temperature import temperature
from tima.results import AttackRecord, Health, Indicator, Verdict

INDICATORS: dict[str, Callable[[Probe], Indicator]] = {
    "zero gradients": _gradients.zero_gradients,
    "zero steps": _gradients.zero_steps,
    "non-finite gradients": _gradients.non_finite_gradients,
    "loss rise": progress.loss_rise,
    "saturation": _gradients.saturation,
    "temperature": temperature,
    "randomness": randomness,
    "batch invariance": invariance.batch_invariance,
    "precision": invariance.precision,
    "apgd minus pgd": strength.apgd_minus_pgd,
    "one step": strength.one_step,
    "random noise": strength.random_noise,
    "smaller eps": strength.smaller_eps,
    "large eps": strength.large_eps,
    "black box": outsiders.black_box,
    "transfer": outsiders.transfer_gap,
}
# looks at clean images only, or at an eps of its own
FREE_OF_EPS = frozenset(
    {"zero gradients", "saturation", "temperature", "randomness", "batch invariance", "precision", "large eps"}
)
NO_RIGHT_IMAGE = "no image of the probe is classified right without an attack, so there is nothing that an attack could break"


def assess(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float,
    *,
    adversarial_BCHW: Tensor,
    robust_B: Tensor,
    norm: str,
    classes: int,
    stages: Sequence[AttackRecord],
    gradients: GradientStats | None,
    standing_n: int,
    reference: LogitsFn | None = None,
    attack_fn: LogitsFn | None = None,
    logit_scale: float | None = None,
    seed: int = 0,
    memory: Memory | None = None,
) -> Health:
    """Can the robust accuracy at `eps` be believed?

    Args:
        logits_fn: the very callable that was judged, in fp32: pixels in [0, 1] to logits.
        image_BCHW: clean images of the probe in [0, 1].
        label_B: their classes.
        eps: in pixel units of [0, 1]; a length under `l_2`.
        adversarial_BCHW: what the evaluation ended with for these images.
        robust_B: which of them it did not break.
        norm: `l_inf` or `l_2`.
        classes: how many.
        stages: the evaluation's attacks in order, with the images that each broke, over the whole evaluation.
        gradients: what `CountedModel` saw of the evaluation's attack; None: looked at on the probe.
        standing_n: images of the whole evaluation that stood before these stages.
        reference: an undefended model with the same classes, for the transfer.
        attack_fn: pixels to logits as the attack computed them, where that was not `logits_fn` (bf16).
        logit_scale: what the model says its logits are multiplied by.
        seed: of the probe's own attacks.
        memory: handed to every call on the same model, images, stages and seed, it saves what does not depend on eps.

    Returns:
        The verdict, with a reason for each indicator that fired, and all indicators; `cannot judge` where nothing fired but
        no image is right either. Weights and their gradients are untouched, and so are the global random numbers.

    Raises:
        DataError: no image, or shapes that do not fit.
        EpsError: an eps that cannot be searched.
        RecipeError: no norm of that name.
    """
    check_norm(norm)
    if len(image_BCHW) == 0:
        raise DataError("Attack health needs at least one image; set health_probe to 0 to leave it out.")
    if not (image_BCHW.shape == adversarial_BCHW.shape and len(image_BCHW) == len(label_B) == len(robust_B)):
        raise DataError(
            f"Attack health got {tuple(image_BCHW.shape)} images, {tuple(adversarial_BCHW.shape)} adversarial ones, "
            f"{len(label_B)} labels and {len(robust_B)} outcomes; they must belong together."
        )
    probe = Probe(
        logits_fn=logits_fn,
        image_BCHW=image_BCHW.detach().float(),
        label_B=label_B.to(image_BCHW.device).long(),
        eps=eps,
        adversarial_BCHW=adversarial_BCHW.detach().float(),
        robust_B=robust_B.to(image_BCHW.device),
        norm=norm,
        classes=classes,
        stages=stages,
        gradients=gradients,
        standing_n=standing_n,
        reference=reference,
        attack_fn=attack_fn,
        logit_scale=logit_scale,
        seed=seed,
        memory=memory or Memory(),
    )
    indicators = [_measure(name, look, probe) for name, look in INDICATORS.items()]
    verdict: Verdict = "reliable"
    if reasons := [found.note for found in indicators if found.fired]:
        verdict = "suspicious"
    elif not bool(probe.right_B.any()):
        verdict, reasons = "cannot judge", [NO_RIGHT_IMAGE]
    return Health(verdict=verdict, reasons=reasons, indicators=indicators, probe_n=len(image_BCHW))


def _measure(name: str, look: Callable[[Probe], Indicator], probe: Probe) -> Indicator:
    """A model that an indicator's own attack cannot work on (NaN, no gradient) is suspicious, not an end of the evaluation."""
    if name in FREE_OF_EPS:
        return probe.memory.once(name, lambda: _looked(name, look, probe))
    return _looked(name, look, probe)


def _looked(name: str, look: Callable[[Probe], Indicator], probe: Probe) -> Indicator:
    try:
        return look(probe)
    except ModelError as error:
        return Indicator(name=name, value=None, limit=None, fired=True, note=f"{name} could not be measured: {error}")
