"""Carlini & Wagner: the distance against a formula, Adam against torch's own, and nothing that depends on neighbours."""

import math

import pytest
import torch
from small_net import Net, make_batch
from torch import Tensor

from tima.attacks import CountedModel
from tima.attacks.cw import cw
from tima.errors import DataError, ModelError, RecipeError


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    return make_batch(net, 12)


def length(x: Tensor) -> Tensor:
    return x.double().flatten(1).norm(dim=1)


def test_finds_the_distance_to_a_linear_boundary() -> None:
    weight = torch.randn(3, 48, generator=torch.Generator().manual_seed(3))
    image = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(4))

    def linear(x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ weight.T

    logits = linear(image)
    label = logits.argmax(1)
    gap = logits.gather(1, label[:, None]) - logits
    distance = gap / (weight[label][:, None] - weight[None]).norm(dim=2)
    expected = distance.scatter(1, label[:, None], math.inf).amin(1).double()
    found = cw(linear, image, label, 9.0, steps=300, step_size=0.003)
    assert bool((linear(found).argmax(1) != label).all())
    assert bool((length(found - image) >= expected * (1 - 1e-5)).all()), "nothing is closer than the boundary"
    torch.testing.assert_close(length(found - image), expected, rtol=0.02, atol=1e-3)


def test_one_run_equals_torch_s_adam(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    """The iterates that the model sees are those of torch.optim.Adam on the paper's objective."""
    image, label = batch
    image, label = image[:1], label[:1]
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return net(x)

    cw(watched, image, label, 0.01, steps=100, searches=1, c_init=0.5, step_size=0.02)
    w = torch.atanh((2 * image - 1) * (1 - 1e-6)).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.02)
    for x_seen in seen[:8]:
        x = (torch.tanh(w) + 1) / 2
        torch.testing.assert_close(x_seen, x.detach(), atol=2e-6, rtol=0)
        logits = net(x)[0]
        ahead = logits[label[0]] - logits[[i for i in range(5) if i != int(label[0])]].max()
        loss = (x - image).square().sum() + 0.5 * ahead.clamp(min=0)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert len(seen) >= 8


def test_bisection_by_hand() -> None:
    """One pixel at 0.5, class 1 from 0.6: with c the objective (x - 0.5)^2 + c (0.6 - x) turns at x = 0.5 + c / 2."""
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    tried: list[float] = []

    def logits(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x.flatten()), x.flatten() - 0.6], 1)

    def ends(x: Tensor) -> Tensor:
        tried.append(float(x.detach()))
        return logits(x)

    found = cw(ends, image, label, 0.5, steps=400, step_size=0.01, searches=6, c_init=0.01)
    # 0.01 and 0.1 fail (x reaches 0.55), 1 succeeds, then halves: all above 0.2 succeed
    assert float(found) == pytest.approx(0.6, abs=0.005)
    assert float(found) >= 0.6
    begins = [i for i, x in enumerate(tried) if abs(x - 0.5) < 1e-6 and (i == 0 or abs(tried[i - 1] - 0.5) > 1e-6)]
    assert len(begins) == 6
    ended = [tried[i - 1] for i in begins[1:]]
    assert ended[0] == pytest.approx(0.505, abs=0.003)
    assert ended[1] == pytest.approx(0.55, abs=0.005)


@pytest.mark.parametrize("stop", [False, True])
def test_inside_the_ball_and_an_image_does_not_notice_its_neighbours(
    stop: bool, net: Net, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch

    def one_by_one(x: Tensor) -> Tensor:  # Adam turns the rounding of a batched convolution into steps of full size
        return torch.cat([net(image_CHW[None]) for image_CHW in x])

    words = {"steps": 20, "searches": 4, "c_init": 0.1, "stop_when_broken": stop}
    eps_B = torch.linspace(0.05, 0.6, 12, dtype=torch.float64)
    together = cw(one_by_one, image, label, eps_B, **words)  # type: ignore[arg-type]
    assert bool((length(together - image) <= eps_B).all())
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    pooled = cw(one_by_one, image, label, eps_B, batch_size=5, **words)  # type: ignore[arg-type]
    torch.testing.assert_close(pooled, together, atol=1e-6, rtol=0)
    for i in (0, 6, 11):
        alone = cw(one_by_one, image[i : i + 1], label[i : i + 1], float(eps_B[i]), **words)  # type: ignore[arg-type]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    broken = net(together).argmax(1) != label
    assert 2 < int(broken.sum()) < 12
    # whoever is not broken was at least moved in the right direction
    before, after = net(image).detach().gather(1, label[:, None]), net(together).detach().gather(1, label[:, None])
    assert float((after - before)[~broken].mean()) < 0


def test_starts_targets_and_stopping(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    words = {"steps": 15, "searches": 3, "c_init": 0.1}
    plain = net(cw(net, image, label, 0.3, **words)).argmax(1) != label  # type: ignore[arg-type]
    good = cw(net, image, label, 0.3, steps=60, searches=6)
    known = net(good).argmax(1) != label
    started = net(cw(net, image, label, 0.3, start_BCHW=good, **words)).argmax(1) != label  # type: ignore[arg-type]
    assert int((known & ~plain).sum()) > 0
    assert bool((started | ~(plain | known)).all())
    target = (label + 1) % 5
    reached = cw(net, image, target, 3.0, targeted=True, steps=100, c_init=1.0, searches=4)
    assert float((net(reached).argmax(1) == target).float().mean()) > 0.9
    full, short = CountedModel(net), CountedModel(net)
    cw(full, image, label, 0.6, steps=30, c_init=1.0, searches=4)
    cw(short, image, label, 0.6, steps=30, c_init=1.0, searches=4, stop_when_broken=True)
    assert short.backwards < 0.6 * full.backwards
    assert full.backwards <= 12 * 30 * 4


def test_what_is_refused(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    with pytest.raises(RecipeError, match="loss=cw"):
        cw(net, image, label, 0.1, norm="l_inf")
    for words in ({"c_init": 0.0}, {"confidence": -1.0}, {"steps": 0}, {"searches": 0}, {"norm": "l_7"}):
        with pytest.raises(RecipeError):
            cw(net, image, label, 0.1, **words)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="classes 0 to 4"):
        cw(net, image, label + 5, 0.1)
    with pytest.raises(ModelError, match="NaN"):
        cw(lambda x: net(x) * math.nan, image, label, 0.1, steps=1)
    assert cw(net, image[:0], label[:0], 0.1).shape == (0, 3, 8, 8)
