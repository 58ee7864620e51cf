"""Attacks that never saw the model's gradient must not find what gradient attacks have missed.

A black-box attack that is stronger, or a transfer from another model, is the classic sign of masked gradients (Athalye et
al. 2018, arXiv 1802.00420, section 3.1; Tramer et al. 2018, arXiv 1705.07204). Shapes: `S` images that stand.
"""

from tima.attacks.pgd import pgd
from tima.attacks.square import square
from tima.health._make import from_count, not_measured
from tima.health._probe import Probe
from tima.results import Indicator

BLACK_BOX = ("square", "noise", "transfer")
QUERIES = 150  # of the short Square where the evaluation had none
STEPS = 20


def black_box(probe: Probe) -> Indicator:
    """Images that a black-box attack breaks after every white-box attack of the evaluation left them standing.

    Counted over the whole evaluation where its stages end with one, else with a short Square on the probe.
    """
    note = "a black-box attack breaks images that the gradient attacks left standing: their gradients are masked"
    names = [stage.name in BLACK_BOX for stage in probe.stages]
    white = names.index(True) if True in names else len(names)
    if 0 < white < len(names) and all(names[white:]):
        left = probe.standing_n - sum(stage.broken for stage in probe.stages[:white])
        return from_count("black box", sum(stage.broken for stage in probe.stages[white:]), max(left, 0), note)
    n = int(probe.standing_B.sum())
    if n == 0:
        return not_measured("black box", "the attack broke every image")
    _, broken_S = probe.run(square, probe.standing_B, queries=QUERIES, stop_when_broken=True)
    return from_count("black box", int(broken_S.sum()), n, note)


def transfer_gap(probe: Probe) -> Indicator:
    """Standing images that a perturbation made on the reference model breaks."""
    if probe.reference is None:
        return not_measured("transfer", "no reference model")
    n = int(probe.standing_B.sum())
    if n == 0:
        return not_measured("transfer", "the attack broke every image")
    _, broken_S = probe.run(
        pgd, probe.standing_B, steps=STEPS, logits_fn=probe.reference, keep_best=False
    )  # the last iterate goes deepest into the reference's error
    note = "a perturbation made on the undefended model breaks images that the direct attack left standing"
    return from_count("transfer", int(broken_S.sum()), n, note)
