"""Attacks see the defence that is deployed: gradients pass through it, and what only hides them breaks."""

import pytest
import torch
from small_net import Net
from torch import Tensor

from tima.attacks import CountedModel, pgd
from tima.attacks.bpda import defended, straight_through
from tima.attacks.eot import expected
from tima.errors import ModelError, RecipeError

EPS = 0.03


def rounding(image_BCHW: Tensor) -> Tensor:
    return (image_BCHW * 16).round() / 16


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_values_are_exact_and_gradients_pass(image: Tensor) -> None:
    x = image.clone().requires_grad_()
    through = straight_through(rounding)(x)
    assert torch.equal(through, rounding(image))
    weight = torch.randn(image.shape)
    (gradient,) = torch.autograd.grad((through * weight).sum(), x)
    assert torch.equal(gradient, weight)
    with torch.no_grad():
        assert torch.equal(straight_through(rounding)(image), rounding(image))
    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((straight_through(rounding, lambda v: v.square())(x) * weight).sum(), x)
    torch.testing.assert_close(gradient, 2 * image * weight)
    with pytest.raises(ModelError, match="resizes needs a surrogate"):
        straight_through(lambda v: v[..., :4, :4])(image)


def test_a_rounding_defence_stops_plain_pgd_and_breaks_through_bpda(net: Net, image: Tensor) -> None:
    naive, adaptive = defended(net, rounding, bpda=False), defended(net, rounding)
    label = naive(image).argmax(1)
    assert torch.equal(naive(image), adaptive(image)), "the same model"
    stopped = pgd(naive, image, label, EPS, random_start=False, steps=20)
    assert torch.equal(stopped, image), "no gradient: the attack stands still, and the defence looks perfect"
    found = pgd(adaptive, image, label, EPS, steps=20, loss="margin")
    assert int((naive(found).argmax(1) != label).sum()) >= 16
    assert float((found.double() - image.double()).abs().max()) <= EPS


def test_a_defended_model_is_counted_and_confirmed_in_fp32(net: Net, image: Tensor) -> None:
    class Low:
        """Answers that are always wrong, and the exact model behind them."""

        exact = net

        def __call__(self, x: Tensor) -> Tensor:
            return net(x).roll(1, dims=1)

    label = net(rounding(image)).argmax(1)
    model = defended(Low(), rounding)
    assert model.exact is not None
    assert torch.equal(model.exact(image), net(rounding(image)))
    assert defended(net, rounding).exact is None
    counted = CountedModel(model)
    pgd(counted, image, label, 1e-6, steps=3, stop_when_broken=True)
    assert counted.backwards == 24 * 3, "nobody leaves before fp32 agrees"


def test_expected_is_the_mean_over_random_passes(net: Net, image: Tensor) -> None:
    draws = iter([1.0, 2.0, 6.0] * 2)

    def drawing(x: Tensor) -> Tensor:
        return net(x) * next(draws)

    x = image.clone().requires_grad_()
    mean = expected(drawing, 3)(x)
    torch.testing.assert_close(mean, 3 * net(image))
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    plain = image.clone().requires_grad_()
    (single,) = torch.autograd.grad(net(plain).sum(), plain)
    torch.testing.assert_close(gradient, 3 * single)
    with pytest.raises(RecipeError, match="at least 1"):
        expected(net, 0)


def test_expectation_beats_a_random_defence(net: Net, image: Tensor) -> None:
    """Noise before the model: the margin that is left on average falls further when the attack sees an average."""

    def shaken(x: Tensor) -> Tensor:
        return net(x + 0.3 * torch.randn_like(x))

    judge = expected(shaken, 400)
    with torch.no_grad():
        label = judge(image).argmax(1)
        left = {}
        for samples in (1, 32):
            torch.manual_seed(3)
            found = pgd(expected(shaken, samples), image, label, 0.02, steps=10, step_size=0.004, keep_best=False)
            logits = judge(found)
            own = logits.gather(1, label[:, None])[:, 0]
            left[samples] = float((own - logits.scatter(1, label[:, None], -torch.inf).amax(1)).mean())
    assert left[32] < left[1] - 0.02
