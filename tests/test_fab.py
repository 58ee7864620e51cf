"""FAB: its projection against slow solvers, its distance against a formula, its independence of everything else."""

import math

import numpy as np
import pytest
import torch
from small_net import Net, generators, make_batch
from torch import Tensor

from tima.attacks import CountedModel, pgd
from tima.attacks._fab_projection import to_hyperplane
from tima.attacks.fab import fab
from tima.errors import DataError, EpsError, ModelError, RecipeError

EPS = 4 / 255


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    return make_batch(net, 16)


def slow_projection(x: np.ndarray, w: np.ndarray, gap: float, norm: str) -> np.ndarray:
    """Bisection in float64 over the one multiplier of the optimality conditions."""
    sign = np.sign(w) * np.sign(gap)
    room = np.where(sign > 0, 1 - x, x)

    def at(t: float) -> np.ndarray:
        return sign * np.minimum(t * (1.0 if norm == "l_inf" else np.abs(w)), room)

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(at(middle) @ w) < abs(gap) else (low, middle)
    return at(high)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_projection_equals_a_slow_one(norm: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.random((40, 30)), rng.normal(size=(40, 30))
    x[:10] = np.round(x[:10])  # at the edge of the box
    w[:, :3] = 0
    x[20, 3:6] = [0.0, 1.0, 0.5]
    gap = rng.normal(size=40) * rng.choice([0.1, 1, 10], 40)
    gap[5] = 0
    found = to_hyperplane(torch.tensor(x), torch.tensor(w), torch.tensor(gap), norm).numpy()
    reachable = 0
    for i in range(40):
        np.testing.assert_allclose(found[i], slow_projection(x[i], w[i], gap[i], norm), atol=1e-9)
        most = np.abs(w[i]) @ np.where(np.sign(w[i]) * np.sign(gap[i]) > 0, 1 - x[i], x[i])
        if most > abs(gap[i]):
            reachable += 1
            assert found[i] @ w[i] == pytest.approx(gap[i], abs=1e-9)
    assert 10 < reachable < 40, "both kinds of hyperplane are met"
    assert (x + found).min() >= 0
    assert (x + found).max() <= 1


def test_l_2_projection_equals_a_general_solver() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    x, w = rng.random((4, 6)), rng.normal(size=(4, 6))
    gap = np.array([0.4, -0.7, 1.2, -1.5])
    found = to_hyperplane(torch.tensor(x), torch.tensor(w), torch.tensor(gap), "l_2").numpy()
    for i in range(4):
        line = {"type": "eq", "fun": lambda d, i=i: d @ w[i] - gap[i]}
        bounds = list(zip(-x[i], 1 - x[i], strict=True))
        solved = optimize.minimize(lambda d: d @ d, np.zeros(6), bounds=bounds, constraints=[line], tol=1e-12)
        np.testing.assert_allclose(found[i], solved.x, atol=1e-5)


def test_projection_survives_tiny_and_missing_gradients() -> None:
    x = torch.full((3, 4), 0.5)
    w = torch.tensor([[1e-30, -2e-30, 0, 0], [0.0, 0, 0, 0], [1.0, 1.0, 0, 0]])
    for norm, expected in (("l_inf", [0.1, -0.1, 0, 0]), ("l_2", [0.06, -0.12, 0, 0])):
        found = to_hyperplane(x, w, torch.tensor([3e-31, 1.0, 0.0]), norm)
        torch.testing.assert_close(found, torch.tensor([expected, [0.0] * 4, [0.0] * 4]))


@pytest.mark.parametrize("targets", [9, 0])
@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_finds_the_distance_to_a_linear_boundary(norm: str, targets: int) -> None:
    """Three classes, far from the box: the nearest boundary lies at |logit difference| / |weight difference|_dual."""
    weight = torch.randn(3, 48, generator=torch.Generator().manual_seed(3))
    image = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(4))

    def linear(x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ weight.T

    logits = linear(image)
    label = logits.argmax(1)
    dual, primal = (1, math.inf) if norm == "l_inf" else (2, 2)
    gap = logits.gather(1, label[:, None]) - logits
    distance = gap / (weight[label][:, None] - weight[None]).norm(p=dual, dim=2)
    expected = distance.scatter(1, label[:, None], math.inf).amin(1)
    found = fab(linear, image, label, 0.9 if norm == "l_inf" else 9.0, norm=norm, targets=targets)
    assert bool((linear(found).argmax(1) != label).all())
    length = (found - image).flatten(1).norm(p=primal, dim=1)
    assert bool((length >= expected * (1 - 1e-5)).all()), "nothing is closer than the boundary"
    torch.testing.assert_close(length, expected, rtol=0.01, atol=1e-5)


def test_the_box_is_respected_where_it_matters() -> None:
    """One class needs the sum of 4 values to reach 3.2 from (0.9, 0.9, 0, 0): 1.4 more, of which 0.2 fit into the first two."""
    image, label = torch.tensor([0.9, 0.9, 0.0, 0.0]).view(1, 1, 2, 2), torch.tensor([0])

    def linear(x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([torch.full_like(total, 3.2), total], 1)

    found = fab(linear, image, label, 0.95)
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 1.0, 0.6, 0.6]), atol=0.01, rtol=0)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_inside_the_ball_and_about_as_strong_as_pgd(norm: str, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    eps = 0.01 if norm == "l_inf" else 0.2
    found = fab(net, image, label, eps, norm=norm, steps=30, stop_when_broken=True)
    offset = found.double() - image.double()
    length = offset.abs().amax((1, 2, 3)) if norm == "l_inf" else offset.flatten(1).norm(dim=1)
    assert float(length.max()) <= eps
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    broken = net(found).argmax(1) != label
    strong = net(pgd(net, image, label, eps, norm=norm, steps=50, restarts=5, loss="margin")).argmax(1) != label
    assert 2 < int(strong.sum()) < 16
    assert abs(int(broken.sum()) - int(strong.sum())) <= 1


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("targets", [4, 0])
def test_an_image_does_not_notice_its_neighbours(stop: bool, targets: int, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    words = {"steps": 6, "restarts": 2, "targets": targets, "stop_when_broken": stop}
    eps_B = torch.linspace(2, 12, 16, dtype=torch.float64) / 255
    together = fab(net, image, label, eps_B, generator=generators(16), **words)  # type: ignore[arg-type]
    pooled = fab(net, image, label, eps_B, generator=generators(16), batch_size=3, **words)  # type: ignore[arg-type]
    torch.testing.assert_close(pooled, together, atol=1e-5, rtol=0)
    for i in (0, 7, 15):
        own = generators(16)[i : i + 1]
        alone = fab(net, image[i : i + 1], label[i : i + 1], float(eps_B[i]), generator=own, **words)  # type: ignore[arg-type]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    assert bool(((together.double() - image.double()).abs().amax((1, 2, 3)) <= eps_B).all())


def test_starts_and_restarts_never_make_it_weaker() -> None:
    """A cliff: no gradient leads to class 1, a start beyond it does, and so do random restarts where they reach it."""
    image, label = torch.full((6, 1, 1, 1), 0.5), torch.zeros(6, dtype=torch.long)

    def cliff(x: Tensor) -> Tensor:
        v = x.flatten()
        return torch.stack([torch.full_like(v, 0.5), (v > 0.52) + 0 * v], 1)

    assert bool((cliff(fab(cliff, image, label, 0.1, steps=3)).argmax(1) == 0).all())
    started = fab(cliff, image, label, 0.1, steps=3, start_BCHW=image + 0.05)
    assert bool((cliff(started).argmax(1) == 1).all())
    assert float(started.max()) < 0.55, "the backward step goes on towards the image"
    again = cliff(fab(cliff, image, label, 0.1, steps=3, restarts=20, generator=generators(6))).argmax(1)
    assert bool((again == 1).all()), "half of eps reaches 0.55: one of 19 random points lies beyond 0.52"


def test_two_classes_targeted_and_already_wrong(batch: tuple[Tensor, Tensor]) -> None:
    image, _ = batch
    two = Net(classes=2)
    label = two(image).argmax(1)
    assert bool((two(fab(two, image, label, 0.2, steps=20)).argmax(1) != label).all())
    wrong = fab(two, image, 1 - label, 0.2, steps=2)
    torch.testing.assert_close(wrong, image, rtol=0, atol=0)  # nothing is closer than the image itself
    net = Net()
    target = (net(image).argmax(1) + 1) % 5
    reached = fab(net, image, target, 0.5, steps=40, targeted=True)
    assert float((net(reached).argmax(1) == target).float().mean()) > 0.9


def test_cost(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    counted = CountedModel(net)
    fab(counted, image, label, 1e-6, steps=5, targets=3, stop_when_broken=True)  # nothing falls so soon
    settled = counted.forwards - 16 - 16 * 3 * 5 * 2
    assert 0 <= settled <= 16 * 3, "clean logits, two forwards a step, at most one at the end of a run"
    assert counted.backwards == 16 * 3 * 5
    counted.reset()
    fab(counted, image, label, 0.3, steps=30, stop_when_broken=True)
    assert counted.backwards < 16 * 15, "whoever is broken leaves"


def test_low_precision_has_to_be_confirmed(batch: tuple[Tensor, Tensor]) -> None:
    """A model that calls everything broken, and an exact one that does not agree."""
    net, (image, label) = Net(), batch

    class Low:
        exact = net

        def __call__(self, x: Tensor) -> Tensor:
            return net(x).roll(1, dims=1)

    counted = CountedModel(Low())
    fab(counted, image[:4], label[:4], 1e-4, steps=3, targets=2, stop_when_broken=True)
    assert counted.backwards == 4 * 2 * 3, "nobody leaves before fp32 agrees"


def test_what_is_refused(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    with pytest.raises(EpsError, match="write 4/255"):
        fab(net, image, label, 4)
    with pytest.raises(DataError, match="class numbers"):
        fab(net, image, torch.rand(16, 5), EPS)
    with pytest.raises(DataError, match="classes 0 to 4"):
        fab(net, image, label + 5, EPS, targets=0)
    for words in ({"alpha_max": 2.0}, {"eta": 0.5}, {"beta": 1.0}, {"steps": 0}, {"targets": -1}, {"norm": "l_7"}):
        with pytest.raises(RecipeError):
            fab(net, image, label, EPS, **words)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="NaN"):
        fab(lambda x: net(x) * math.nan, image, label, EPS, steps=1)
    with pytest.raises(ModelError, match="No gradient"):
        fab(lambda x: net(x.detach()).detach(), image, label, EPS)
    assert fab(net, image[:0], label[:0], EPS).shape == (0, 3, 8, 8)
