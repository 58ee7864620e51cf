"""Auto-PGD: the published schedule, the exact optimum where there is one, and one image's result whoever its neighbours are."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_attacks import EPS, Net, ce_of, generators
from torch import Tensor

from tima.attacks import LOSSES, CountedModel, apgd, mi_fgsm, pgd
from tima.attacks._apgd import checkpoints
from tima.errors import DataError, ModelError, RecipeError

ALL_LOSSES = ("ce", "dlr", "ce_targeted", "dlr_targeted")


class Exact(Net):
    """`Net` in float64, so that rounding does not tell one batch size from another."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes)
        self.double().requires_grad_(False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return super().forward(image_BCHW.double()).float()


@pytest.fixture
def net() -> Exact:
    return Exact()


@pytest.fixture
def batch(net: Exact) -> tuple[Tensor, Tensor]:
    image_BCHW = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    image_BCHW[0], image_BCHW[1] = 0.0, 1.0
    return image_BCHW, net(image_BCHW).argmax(1)


def margin_of(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return LOSSES["margin"](net(x), y)


def test_checkpoints_by_hand() -> None:
    # p = 0, 0.22, then windows 0.19, 0.16, 0.13, 0.10, 0.07, 0.06, 0.06 of 100 steps
    assert checkpoints(100) == [22, 22 + 19, 41 + 16, 57 + 13, 70 + 10, 80 + 7, 87 + 6, 93 + 6]
    # of 50 steps: 22 % is 11; windows shrink by 1 (3 % is 1.5) down to 3 (6 %)
    assert checkpoints(50) == [11, 21, 30, 38, 45]
    assert checkpoints(5) == [1, 2, 3, 4, 5]
    assert checkpoints(1) == [1]


def slow_apgd(f: Callable[[float, float], float], steps: int, eps: float, start: tuple[float, float]) -> list[list[float]]:
    """Algorithm 1 with numbers and lists, on an image of two pixels at 0.5: every iterate, for l_inf."""
    low, high = 0.5 - eps, 0.5 + eps

    def gradient(x: list[float]) -> list[float]:
        h = 1e-6
        return [(f(x[0] + h, x[1]) - f(x[0] - h, x[1])) / (2 * h), (f(x[0], x[1] + h) - f(x[0], x[1] - h)) / (2 * h)]

    def sign(v: float) -> float:
        return math.copysign(1, v) if v else 0.0

    def project(x: list[float]) -> list[float]:
        return [min(max(v, low), high) for v in x]

    x, before, eta = list(start), list(start), 2 * eps
    values, best, best_value = [f(*x)], list(x), f(*x)
    points, etas, bests, marks = [list(x)], [eta], [best_value], [0]
    for k in range(steps):
        z = project([v + eta * sign(g) for v, g in zip(x, gradient(x), strict=True)])
        a = 1.0 if k == 0 else 0.75
        new = project([v + a * (w - v) + (1 - a) * (v - u) for v, w, u in zip(x, z, before, strict=True)])
        before, x = x, new
        points.append(list(x))
        values.append(f(*x))
        if values[-1] > best_value:
            best, best_value = list(x), values[-1]
        if k + 1 in checkpoints(steps):
            since = range(marks[-1], k + 1)
            rises = sum(values[i + 1] > values[i] for i in since)
            same = eta == etas[-1] and len(marks) > 1 and best_value == bests[-1]
            etas.append(eta)
            if rises <= 0.75 * len(since) or same:
                eta, x = eta / 2, list(best)
            bests.append(best_value)
            marks.append(k + 1)
    return points


def test_follows_a_slow_apgd_written_by_hand() -> None:
    """A curved valley with its top inside the ball: steps overshoot, sizes halve, searches return to their best point."""

    def value(u: Any, v: Any) -> Any:
        return -((u - 0.533) ** 2) - 10 * (v - u * u - 0.21) ** 2

    seen: list[list[float]] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x.detach().flatten().tolist())
        both = x.double().flatten(1)
        return value(both[:, 0], both[:, 1])[:, None]

    image, eps = torch.full((1, 1, 1, 2), 0.5), 0.1
    start = torch.tensor([0.44, 0.58]).view(1, 1, 1, 2)
    words: dict[str, Any] = {"loss": lambda output, _: output[:, 0], "random_start": False, "start_BCHW": start}
    found = apgd(logits, image, torch.tensor([0]), eps, steps=40, **words)
    slow = slow_apgd(value, 40, eps, (0.44, 0.58))
    assert len(seen) == 2 * 41
    torch.testing.assert_close(torch.tensor(seen[:41]), torch.tensor(slow), atol=2e-5, rtol=0)
    assert len({round(a[0] - b[0], 3) for a, b in pairwise(slow)}) > 8  # the path is not a trivial one
    assert value(*found.flatten().tolist()) > -1e-3


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize(("norm", "eps", "order"), [("l_inf", 0.1, 1), ("l_2", 1.5, 2)])
def test_reaches_the_exact_optimum_of_a_linear_model(loss: str, norm: str, eps: float, order: int) -> None:
    generator = torch.Generator().manual_seed(3)
    image = 0.4 + 0.2 * torch.rand(4, 3, 8, 8, generator=generator)
    weight = torch.randn(192, generator=generator) / 10  # small: cross-entropy saturates where margins are large
    if norm == "l_2":
        weight = weight.clamp(-0.1, 0.1)  # so that no pixel leaves [0, 1]

    def logits(x: Tensor) -> Tensor:
        score = x.flatten(1) @ weight
        return torch.stack([score, torch.zeros_like(score)], 1)

    label = torch.zeros(4, dtype=torch.long)
    found = apgd(logits, image, label, eps, norm=norm, steps=10, loss=loss)
    gain = margin_of(logits, found, label) - margin_of(logits, image, label)
    torch.testing.assert_close(gain, torch.full((4,), eps * float(weight.norm(order))), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("norm", "eps"), [("l_inf", EPS), ("l_2", 0.3)])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_not_weaker_than_pgd_at_the_same_budget(
    loss: str, norm: str, eps: float, net: Exact, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch
    words: dict[str, Any] = {"norm": norm, "steps": 25, "loss": loss}
    auto = LOSSES[loss](net(apgd(net, image, label, eps, generator=generators(24), **words)), label)
    plain = LOSSES[loss](net(pgd(net, image, label, eps, generator=generators(24), **words)), label)
    assert float(auto.mean()) > float(plain.mean())
    assert float((auto - plain).min()) > -0.1 * float(plain.std())


@pytest.mark.parametrize("attack", [apgd, mi_fgsm])
@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_stays_inside_exactly(attack: Callable[..., Tensor], loss: str, net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    loss = loss if attack is apgd else "ce"
    eps_B = torch.linspace(1, 16, 24, dtype=torch.float64) / 255
    found = attack(net, image, label, eps_B, steps=9, loss=loss, start_BCHW=1 - image, generator=generators(24))
    assert found.dtype == torch.float32 and not found.requires_grad
    assert bool(((found.double() - image.double()).abs().amax((1, 2, 3)) <= eps_B).all())
    found2 = attack(net, image, label, 40 * eps_B, norm="l_2", steps=9, loss=loss, generator=generators(24))
    assert bool(((found2.double() - image.double()).flatten(1).norm(dim=1) <= 40 * eps_B).all())
    assert min(float(found.min()), float(found2.min())) >= 0 and max(float(found.max()), float(found2.max())) <= 1


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_few_classes(classes: int, loss: str) -> None:
    net = Exact(classes)
    image = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    label = net(image).argmax(1)
    counted = CountedModel(net)
    found = apgd(counted, image, label, 16 / 255, loss=loss, steps=20, generator=generators(8))
    runs = min(9, classes - 1) if "targeted" in loss else 1
    assert counted.forwards == 8 * (21 * runs + ("targeted" in loss))  # and the clean logits once
    assert counted.backwards == 8 * 20 * runs
    assert float((net(found).argmax(1) != label).float().mean()) > 0.8


def test_one_class_has_no_target(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    with pytest.raises(RecipeError, match="one class"):
        apgd(lambda x: net(x)[:, :1], image, label * 0, EPS, loss="dlr_targeted")
    with pytest.raises(DataError, match="classes 0 to 1"):
        apgd(lambda x: net(x)[:, :2], image, label, EPS, loss="dlr_targeted")
    with pytest.raises(RecipeError, match="chooses its classes itself"):
        apgd(net, image, label, EPS, loss="dlr_targeted", targeted=True)
    for words in ({"targets": 0}, {"eot_iter": 0}, {"batch_size": 0}, {"generator": generators(3)}):
        with pytest.raises(RecipeError):
            apgd(net, image, label, EPS, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_targeted_reaches_the_class(loss: str, net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    target = (label + 1) % 5
    found = apgd(net, image, target, 16 / 255, steps=30, loss=loss, targeted=True, stop_when_broken=True)
    assert float((net(found).argmax(1) == target).float().mean()) > 0.8


def test_more_targets_restarts_and_starts_never_make_it_weaker(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    words: dict[str, Any] = {"steps": 6, "loss": "dlr_targeted"}

    def strength(**more: Any) -> Tensor:
        return margin_of(net, apgd(net, image, label, EPS, **{**words, **more}, generator=generators(24)), label)

    one, four = strength(targets=1), strength(targets=4)
    assert float((four - one).min()) >= 0 and float((four - one).max()) > 0.01
    strong = apgd(net, image, label, EPS, steps=25, loss="margin", generator=generators(24))
    started = strength(targets=1, start_BCHW=strong)
    assert float((started - torch.maximum(one, margin_of(net, strong, label))).min()) >= -1e-5
    words["loss"] = "margin"
    again = strength(restarts=3) - strength()
    assert float(again.min()) >= 0 and float(again.max()) > 1e-3


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr_targeted"])
@pytest.mark.parametrize("attack", [apgd, pgd, mi_fgsm])
def test_the_result_of_an_image_is_its_own(
    attack: Callable[..., Tensor], loss: str, stop: bool, net: Exact, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch
    words: dict[str, Any] = {"steps": 7, "stop_when_broken": stop, "start_BCHW": image.flip(3)}
    words |= {"restarts": 2} if attack is not mi_fgsm else {"random_start": True}
    words |= {"loss": loss if attack is apgd else "margin"}
    found = [attack(net, image, label, EPS, generator=generators(24), batch_size=size, **words) for size in (None, 1, 7)]
    broken = net(found[0]).argmax(1) != label
    assert 0 < int(broken.sum()) < 24  # some leave early, some stay
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-6, rtol=0)
    some = broken.nonzero()[:, 0][:1].tolist() + (~broken).nonzero()[:, 0][:2].tolist()
    words["start_BCHW"] = image.flip(3)[some]
    alone = attack(net, image[some], label[some], EPS, generator=[generators(24)[i] for i in some], **words)
    torch.testing.assert_close(found[0][some], alone, atol=1e-6, rtol=0)


def test_a_shared_generator_does_not_mind_the_batch_size(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    words: dict[str, Any] = {"steps": 3, "restarts": 3, "loss": "margin", "stop_when_broken": True}
    found = [
        pgd(net, image, label, EPS, generator=torch.Generator().manual_seed(0), batch_size=size, **words) for size in (None, 5)
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_stopping_saves_work_and_loses_nothing(loss: str, net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    full, short, sizes = CountedModel(net), CountedModel(net), []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return short(x)

    words: dict[str, Any] = {"steps": 15, "loss": loss}
    slow = apgd(full, image, label, EPS, generator=generators(24), **words)
    fast = apgd(watched, image, label, EPS, generator=generators(24), stop_when_broken=True, batch_size=8, **words)
    broken = net(fast).argmax(1) != label
    assert 0 < int(broken.sum()) < 24
    assert bool(broken[net(slow).argmax(1) != label].all())
    assert short.forwards < 0.8 * full.forwards
    assert sizes == sorted(sizes, reverse=True)  # full until nobody waits any more, then never filled again
    assert sizes[0] == 8 and sizes.count(8) > 3


def test_weights_are_left_alone_and_the_best_is_always_kept(batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    net = Net()
    net.head.weight.grad = torch.full_like(net.head.weight, 7.0)
    with torch.no_grad():
        found = apgd(net, image, label, EPS, steps=5, generator=generators(24))
    assert bool((net.head.weight.grad == 7).all()) and net.conv.weight.grad is None
    assert torch.equal(found, apgd(net, image, label, EPS, steps=5, generator=generators(24), keep_best=False))
    assert apgd(net, image[:0], label[:0], EPS, loss="dlr_targeted").shape == (0, 3, 8, 8)


def test_eot_climbs_the_mean(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    """Noise that cancels over two passes leaves no trace in the path."""
    image, label = batch
    turn = [1.0]

    def noisy(x: Tensor) -> Tensor:
        turn[0] = -turn[0]
        return net(x) + turn[0] * 40 * x.flatten(1)[:, :5]

    words: dict[str, Any] = {"steps": 12, "generator": generators(24)}
    words["loss"] = lambda output, y: -output.gather(1, y[:, None])[:, 0]  # linear in the output
    counted = CountedModel(noisy)
    found = apgd(counted, image, label, EPS, eot_iter=2, **words)
    assert (counted.forwards, counted.backwards) == (24 * 2 * 13, 24 * 2 * 12)
    words["generator"] = generators(24)
    clean = apgd(net, image, label, EPS, **words)
    torch.testing.assert_close(words["loss"](net(found), label), words["loss"](net(clean), label), atol=1e-2, rtol=1e-3)
    words["generator"] = generators(24)
    once = apgd(noisy, image, label, EPS, **words)
    assert float((words["loss"](net(found), label) - words["loss"](net(once), label)).mean()) > 0.02


@pytest.mark.parametrize("loss", ["ce", "dlr_targeted"])
def test_nan_is_an_error(loss: str, net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    for stop in (False, True):
        with pytest.raises(ModelError, match="NaN"):
            apgd(lambda x: net(x) * math.nan, image, label, EPS, steps=2, loss=loss, stop_when_broken=stop)
    with pytest.raises(ModelError, match="No gradient"):
        apgd(lambda x: net(x.detach()), image, label, EPS, steps=2, loss=loss)


@pytest.mark.parametrize("attack", [pgd, apgd, mi_fgsm])
def test_only_what_the_exact_model_confirms_is_broken(attack: Callable[..., Tensor]) -> None:
    """A fast model that calls everything broken, and an exact one that knows better."""

    class Fast:
        def __call__(self, x: Tensor) -> Tensor:
            return torch.stack([x.mean((1, 2, 3)) * 0, x.mean((1, 2, 3))], 1)

        def exact(self, x: Tensor) -> Tensor:
            mean = x.mean((1, 2, 3))
            return torch.stack([torch.full_like(mean, 0.51), mean], 1)

    image, label = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0])
    image[1] = 0.4
    counted = CountedModel(Fast())
    found = attack(counted, image, label, 0.05, steps=10, stop_when_broken=True, generator=generators(2))
    assert Fast().exact(found).argmax(1).tolist() == [1, 0]
    assert 10 < counted.backwards < 2 * 10  # the first left on the way, the second never
    assert counted.forwards > counted.backwards + 2 * 2  # asking again is counted


def test_autocast_needs_fp32_to_agree() -> None:
    weight = torch.tensor([[1.0, 1.001]])

    def logits(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] @ weight

    counted = CountedModel(logits)
    with torch.autocast("cpu", torch.bfloat16):
        apgd(counted, torch.full((2, 3, 4, 4), 0.5), torch.tensor([1, 1]), EPS, steps=3, stop_when_broken=True)
    assert counted.backwards == 2 * 3


def test_mi_fgsm_by_hand(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    x, direction = image.clone(), torch.zeros_like(image)
    for _ in range(4):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), label, reduction="sum"), x)
        direction = 0.5 * direction + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        x = (x.detach() + EPS / 4 * direction.sign()).clamp(image - EPS, image + EPS).clamp(0, 1)
    found = mi_fgsm(net, image, label, EPS, steps=4, decay=0.5, keep_best=False)
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)
    plain = mi_fgsm(net, image, label, EPS, steps=4, decay=0.0, keep_best=False)
    iterative = pgd(net, image, label, EPS, steps=4, step_size=EPS / 4, random_start=False, keep_best=False)
    torch.testing.assert_close(plain, iterative, atol=1e-6, rtol=0)
    assert float((found - plain).abs().max()) > 0.1 * EPS
    assert float(ce_of(net, found, label).mean()) > float(ce_of(net, image, label).mean()) + 0.2
    with pytest.raises(RecipeError, match="decay"):
        mi_fgsm(net, image, label, EPS, decay=-1)
