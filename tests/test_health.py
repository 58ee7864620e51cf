"""Attack health: every deliberately broken model is caught by its own indicator, and sound evaluations are left alone."""

from math import comb
from typing import Any

import pytest
import torch
from broken_models import EPS, Case, Net, cases, evidence, judged, trained
from torch import Tensor

from tima.attacks import pgd
from tima.errors import DataError, EpsError, RecipeError
from tima.health import GradientStats, Memory, assess
from tima.health._chance import ALPHA, most_by_chance
from tima.health._probe import moved_sign_mass
from tima.health.assess import FREE_OF_EPS, INDICATORS
from tima.results import AttackRecord, Health, Indicator

NAMES = [case.name for case in cases(Net(), Net())]


@pytest.fixture(scope="module")
def sound() -> Net:
    return trained(adversarial=True)


@pytest.fixture(scope="module")
def undefended() -> Net:
    return trained(adversarial=False)


def look(health: Health, name: str) -> Indicator:
    return next(found for found in health.indicators if found.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_each_broken_model_fires_its_indicator_and_sound_ones_none(name: str, sound: Net, undefended: Net) -> None:
    case = next(case for case in cases(sound, undefended) if case.name == name)
    health = judged(case, reference=undefended)
    assert [found.name for found in health.indicators] == list(INDICATORS)
    fired = [found.name for found in health.indicators if found.fired]
    if case.fires is None:
        assert (health.verdict, fired, health.reasons) == ("reliable", [], [])
        assert look(health, "large eps").value == 0
    else:
        assert health.verdict == "suspicious"
        assert case.fires in fired
        assert len(health.reasons) == len(fired)


def test_the_toy_models_are_what_they_are_called(sound: Net, undefended: Net) -> None:
    """Else the table would prove nothing: one resists the attack, the other does not, both know the classes."""
    robust = [int(evidence(Case("", None, net))["robust_B"].sum()) for net in (sound, undefended)]
    right = [evidence(Case("", None, net))["standing_n"] for net in (sound, undefended)]
    assert min(right) >= 28
    assert robust[0] >= robust[1] + 10


def test_low_precision_that_points_elsewhere_is_caught(sound: Net, undefended: Net) -> None:
    low = next(case for case in cases(sound, undefended) if case.attack_fn)
    found = look(judged(low), "precision")
    assert found.fired
    assert found.value == pytest.approx(1)  # all gradients have underflowed
    same = Case("bf16 weights would do this", None, sound, lambda x: sound(x) * 1.001)
    found = look(judged(same), "precision")
    assert not found.fired
    assert found.value == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_tiny_probes_and_two_classes_do_not_fire_by_chance(n: int) -> None:
    net = trained(adversarial=True, classes=2, steps=40)
    found = evidence(Case("two classes", None, net), n=n, classes=2)
    assert assess(**found).verdict == "reliable"


def test_l2_is_sound_too(sound: Net, undefended: Net) -> None:
    for norm, eps, net in (("l_2", 0.4, sound), ("l_2", 0.4, undefended)):
        health = judged(Case("", None, net), norm=norm, eps=eps, reference=undefended)
        assert health.verdict == "reliable", str(health)


def test_an_attack_that_did_nothing_is_found_out_from_every_side(undefended: Net) -> None:
    """An undefended model, "evaluated" by an attack that returns its input: everybody else breaks it."""
    found = evidence(Case("", None, undefended))
    found["adversarial_BCHW"], found["robust_B"] = found["image_BCHW"], torch.ones(32, dtype=torch.bool)
    found["stages"] = [AttackRecord(name="pgd", params={}, broken=0)]
    health = assess(**found, reference=undefended)
    for name in ("loss rise", "one step", "transfer", "black box"):
        assert look(health, name).fired, name
        assert look(health, name).note in health.reasons


def test_hidden_gradients_leave_images_standing_where_all_must_fall(sound: Net, undefended: Net) -> None:
    rounded = next(case for case in cases(sound, undefended) if case.name == "rounded input")
    health = judged(rounded)
    found = look(health, "large eps")
    assert found.fired and found.note in health.reasons
    assert found.value is not None and found.limit is not None and found.value > found.limit
    assert not look(judged(Case("", None, undefended)), "large eps").fired


def test_black_box_counts_the_whole_evaluation(sound: Net) -> None:
    found = evidence(Case("", None, sound))

    def value(*broken: int) -> Indicator:
        names = ["apgd-ce", "apgd-t", "square"]
        stages = [AttackRecord(name=s, params={}, broken=b) for s, b in zip(names, broken, strict=True)]
        return look(assess(**found | {"stages": stages, "standing_n": 1000}), "black box")

    assert value(300, 200, 10).value == 10 / 500
    assert not value(300, 200, 10).fired  # 2 % is the rate itself
    assert value(300, 200, 30).fired  # P(30 or more of 500 at 2 %) < 1e-6
    assert value(900, 100, 0).value is None


def test_a_saturated_softmax_is_harmless_to_a_scale_free_loss(sound: Net) -> None:
    found = evidence(Case("", None, lambda x: sound(x) * 1000))
    image, label = found["image_BCHW"], found["label_B"]
    adv = pgd(found["logits_fn"], image, label, EPS, steps=20, loss="margin", generator=torch.Generator().manual_seed(3))
    robust = found["logits_fn"](adv).argmax(1) == label
    stages = [AttackRecord(name="pgd", params={"loss": "margin"}, broken=int((~robust).sum()))]
    health = assess(**found | {"adversarial_BCHW": adv, "robust_B": robust, "stages": stages, "gradients": None})
    assert look(health, "saturation").value == 1
    assert health.verdict == "reliable", str(health)


def test_the_attacks_own_gradients_count(sound: Net) -> None:
    found = evidence(Case("", None, sound))
    dead = assess(**found | {"gradients": GradientStats(100, 30000, 6000, 20, 0)})
    assert (look(dead, "zero steps").value, look(dead, "zero steps").fired) == (0.2, True)
    assert "of all pixel values 20.00% were 0" in look(dead, "zero steps").note  # rises before whole gradients are 0
    bad = assess(**found | {"gradients": GradientStats(100, 30000, 0, 0, 3)})
    assert look(bad, "non-finite gradients").value == pytest.approx(1e-4)
    assert look(bad, "non-finite gradients").fired


def test_models_without_any_gradient_are_suspicious_and_no_crash(sound: Net) -> None:
    found = evidence(Case("", None, sound))
    for model in (lambda x: sound(x.detach()), lambda x: sound(x) * torch.nan, lambda x: sound(x)[:, :1]):
        one_class = model(found["image_BCHW"]).shape[1] == 1
        changes = {"logits_fn": model} | ({"label_B": 0 * found["label_B"], "classes": 1} if one_class else {})
        health = assess(**found | changes)
        assert health.verdict == "suspicious"
        assert not look(health, "randomness").fired  # NaN differs from itself, which is no sign of random numbers
        Health.model_validate_json(health.model_dump_json())


def test_nothing_outside_changes(sound: Net) -> None:
    """Global random numbers, weights and their gradients; and the same call says the same."""
    net = Net().eval()  # with weights that want gradients
    found = evidence(Case("", None, net))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = assess(**found)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
    assert first == assess(**found)


def test_cost_is_a_few_hundred_forwards_an_image(sound: Net) -> None:
    found, seen = evidence(Case("", None, sound)), [0]

    def counting(x: Tensor) -> Tensor:
        seen[0] += len(x)
        return sound(x)

    assess(**found | {"logits_fn": counting}, reference=counting)
    assert 32 * 50 < seen[0] < 32 * 350


def test_chance_is_the_binomial_tail() -> None:
    """Against the sum written out: `most` is the smallest count whose tail is at most ALPHA."""

    def tail(k: int, n: int, p: float) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1, n + 1))

    for n, p in ((1, 0.02), (5, 0.02), (32, 0.02), (32, 0.5), (200, 0.1)):
        most = most_by_chance(n, p)
        assert tail(most, n, p) <= ALPHA
        assert most == 0 or tail(most - 1, n, p) > ALPHA


def test_sign_mass_by_hand() -> None:
    first = torch.tensor([[3.0, -1.0], [2.0, 2.0], [0.0, 0.0]])[:, None, None]
    second = torch.tensor([[5.0, 1.0], [0.0, 1.0], [1.0, 1.0]])[:, None, None]
    assert moved_sign_mass(first, second) == pytest.approx((1 / 4 + 2 / 4) / 2)  # the third image has no mass to lose


def test_what_is_refused(sound: Net) -> None:
    found: dict[str, Any] = evidence(Case("", None, sound))
    with pytest.raises(DataError, match="at least one image"):
        assess(**found | {"image_BCHW": found["image_BCHW"][:0]})
    with pytest.raises(DataError, match="must belong together"):
        assess(**found | {"label_B": found["label_B"][:5]})
    with pytest.raises(RecipeError, match="no norm 'l_1'"):
        assess(**found | {"norm": "l_1"})
    with pytest.raises(EpsError, match="not above 0"):
        assess(**found | {"eps": 0.0})
    assert assess(**found | {"label_B": found["label_B"].int()}) == assess(**found)  # numbers of another type are no obstacle


def test_an_apgd_weaker_than_pgd_is_found_out(undefended: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evidence(Case("", None, undefended))
    assert not look(assess(**found), "apgd minus pgd").fired
    monkeypatch.setattr("tima.health.strength.apgd", lambda logits_fn, image, *_, **__: image)
    broken = look(assess(**found), "apgd minus pgd")
    assert broken.fired
    assert broken.value == found["stages"][0].broken / found["standing_n"]  # all that PGD breaks, APGD does not


@pytest.mark.parametrize("name", ["one step", "random noise", "smaller eps", "black box", "transfer"])
def test_one_image_is_luck_and_many_are_a_sign(name: str, undefended: Net) -> None:
    """Of 32 standing images chance explains 4 (test above); what the weaker attack breaks decides."""
    net = Case("", None, undefended)
    found = evidence(net, eps=0.3)  # even noise breaks many here
    broken = assess(**found | {"robust_B": torch.ones(32, dtype=torch.bool)}, reference=undefended)
    few = torch.zeros(32, dtype=torch.bool)
    few[0] = True
    assert look(assess(**found | {"robust_B": few}, reference=undefended), name).fired is False
    assert look(broken, name).fired


# cannot judge, and what is measured once --------------------------------------------------------------------------------


def test_without_a_right_image_it_cannot_judge(sound: Net) -> None:
    found = evidence(Case("", None, sound))
    with torch.no_grad():
        wrong_B = (sound(found["image_BCHW"]).argmax(1) + 1) % 4
    nothing = {**found, "label_B": wrong_B, "robust_B": torch.zeros(len(wrong_B), dtype=torch.bool), "standing_n": 0}
    health = assess(**nothing)
    assert health.verdict == "cannot judge" and "no image of the probe is classified right" in str(health)
    one = {**nothing, "label_B": torch.cat([found["label_B"][:1], wrong_B[1:]])}
    with torch.no_grad():
        assert int((sound(one["image_BCHW"]).argmax(1) == one["label_B"]).sum()) == 1
    assert assess(**one).verdict == "reliable"
    # what fires without a right image is still said
    random = {**nothing, "logits_fn": lambda x: sound(x) + torch.randn(len(x), 4)}
    assert assess(**random).verdict == "suspicious"


def test_what_does_not_depend_on_eps_is_measured_once(sound: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, inner: Any) -> Any:
        return lambda probe: (asked.append(name), inner(probe))[1]

    for name, inner in dict(INDICATORS).items():
        monkeypatch.setitem(INDICATORS, name, counted(name, inner))
    small, large = (evidence(Case("", None, sound), eps=eps) for eps in (EPS / 4, EPS))
    memory = Memory()
    first, second = assess(**small, memory=memory), assess(**large, memory=memory)
    assert [asked.count(name) for name in INDICATORS] == [1 if name in FREE_OF_EPS else 2 for name in INDICATORS]
    assert first.indicators != second.indicators
    assert second == assess(**large), "what was kept is not what would be measured"
