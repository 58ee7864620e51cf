"""Attack health of one eps, on a probe of images that are right when clean. See `tima.health`.

Shapes: `B` images of the probe, `C` channels or classes, `H, W` pixels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tima.attacks.counting import GradientStats
from tima.evaluation.gallery import choose_probe
from tima.evaluation.limits import free_memory, out_of_memory
from tima.evaluation.subject import LogitsFn, Subject
from tima.results import Health, Indicator, Result, Robust

if TYPE_CHECKING:
    from tima.evaluation.judge import Judge

NO_RIGHT_IMAGE = "no image is classified right without an attack, so there is nothing that an attack could break"
RANDOM = 1e-3  # of the largest margin: two calls of a deterministic model differ by rounding at most


def assess_step(
    judge: "Judge",
    result: Result,
    row: Robust,
    step: int,
    arrays: dict[str, Tensor],
    gradients: GradientStats,
    reference: LogitsFn | None,
) -> Health | None:
    """The verdict on what was measured at eps number `step`; None where no probe was asked for, or memory for one."""
    from tima.health import Memory, assess

    probe_B = choose_probe(arrays["correct_N"], judge.protocol.health_probe, judge.protocol.seed)
    if judge.protocol.health_probe == 0:
        return None
    if len(probe_B) == 0:
        return Health(verdict="cannot judge", reasons=[NO_RIGHT_IMAGE])
    kept_KCHW = judge.store.read_kept(step)
    subject, device = judge.subject, judge.subject.device
    judge.meter.attack("health")

    def look(probe_B: Tensor) -> Health:
        image_BCHW, label_B = judge.load(arrays["index_N"][probe_B])
        kept_BCHW = kept_KCHW[torch.searchsorted(judge.kept_K, probe_B)]
        memory = judge.health_memory.setdefault(tuple(probe_B.tolist()), Memory())  # another eps, the same clean images
        return assess(
            subject.exact,
            image_BCHW.to(device),
            label_B.to(device),
            row.eps,
            adversarial_BCHW=kept_BCHW.to(device),
            robust_B=arrays["robust_EN"][step, probe_B].to(device),
            norm=judge.protocol.norm,
            classes=judge.classes,
            stages=row.attacks,
            gradients=gradients if gradients.images else None,
            standing_n=row.n - row.already_broken,
            reference=reference,
            attack_fn=_as_attacked(subject),
            logit_scale=subject.logit_scale,
            seed=judge.protocol.seed,
            memory=memory,
        )

    health = _within_memory(look, probe_B, judge.limits.fallbacks)
    if health is None:
        return None
    return _changed_answers(health, result, float(arrays["margin_EN"][0].abs().max()))


def _within_memory(look: Callable[[Tensor], Health], probe_B: Tensor, fallbacks: list[str]) -> Health | None:
    """The verdict on the probe, on half of it while memory is short; None, and a note, when not one image fits.

    The probe goes through the model as one batch, so a smaller batch size would not help.
    """
    while True:
        try:
            return look(probe_B)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if len(probe_B) == 1:
            fallbacks.append("out of memory in attack health with a single image: no verdict")
            return None
        probe_B = probe_B[::2].contiguous()  # not the first half: the set may be sorted by class
        fallbacks.append(f"out of memory in attack health: probe halved to {len(probe_B)} images")
        free_memory()


def _as_attacked(subject: Subject) -> LogitsFn | None:
    """Pixels to logits as attacks computed them, where that is not the judge."""
    if subject.autocast:

        def low_precision(image_BCHW: Tensor) -> Tensor:
            with torch.autocast(subject.device.type, torch.bfloat16):
                return subject.exact(image_BCHW)

        return low_precision
    return None if subject.attacked is subject.exact else subject.attacked


def _changed_answers(health: Health, result: Result, scale: float) -> Health:
    """Adds what the clean pass saw of a random model, should the probe have seen nothing of it."""
    value, limit = result.repeat_difference or 0.0, RANDOM * max(1.0, scale)
    if value <= limit or any(found.name == "randomness" and found.fired for found in health.indicators):
        return health
    note = (
        f"the logits of the same images differed by {value:.2g} between two calls: the model draws random numbers. Attack its "
        "mean: --attack autoattack --version rand"
    )
    found = Indicator(name="changed answers", value=value, limit=limit, fired=True, note=note)
    return health.model_copy(
        update={"verdict": "suspicious", "reasons": [*health.reasons, note], "indicators": [*health.indicators, found]}
    )
