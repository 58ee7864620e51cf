"""What `CountedModel` says of an attack's gradients, against counts made by hand."""

import pytest
import torch

from tima.attacks import CountedModel, fab, pgd
from tima.errors import ModelError
from tima.health import GradientStats


def test_zero_values_zero_images_and_non_finite_values_are_counted() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [torch.nan, torch.inf, 0.0, 3.0]])
    counted = CountedModel(lambda x: (x.flatten(1) * weight).sum(1, keepdim=True))
    x = torch.rand(3, 1, 2, 2, requires_grad=True)
    torch.autograd.grad(counted(x).sum(), x)
    stats = counted.gradients
    assert stats == GradientStats(images=3, values=12, zero_values=2 + 4 + 1, zero_images=1, non_finite_values=2)
    assert (stats.zero_value_share, stats.zero_image_share, stats.non_finite_share) == pytest.approx((7 / 12, 1 / 3, 1 / 6))


def test_stats_add_up_over_calls_and_processes_and_start_again() -> None:
    counted = CountedModel(lambda x: x.flatten(1) * torch.tensor([0.0, 1.0]))
    x = torch.rand(5, 1, 1, 2, requires_grad=True)
    for _ in range(3):
        torch.autograd.grad(counted(x).sum(), x)
    assert counted.gradients == GradientStats(15, 30, 15, 0, 0)
    assert counted.gradients + GradientStats(1, 2, 2, 1, 0) == GradientStats(16, 32, 17, 1, 0)
    counted.reset()
    assert counted.gradients == GradientStats()
    assert counted.gradients.zero_image_share == 0


def test_one_tensor_sent_through_twice_counts_two_gradients() -> None:
    """Each call sees its own share: the two cancel in the sum, and neither is 0."""
    counted = CountedModel(lambda x: x.flatten(1))
    x = torch.rand(2, 1, 1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad((counted(x) - counted(x)).sum(), x)
    assert not gradient.any()
    assert counted.gradients == GradientStats(images=4, values=8)


@pytest.mark.parametrize("attack", [pgd, fab])
def test_counting_changes_no_attack(attack) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    image, label = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
    counted = CountedModel(net)
    words = {"steps": 4, "generator": torch.Generator().manual_seed(1)}
    found = attack(counted, image, label, 0.1, **words)
    words["generator"] = torch.Generator().manual_seed(1)
    assert torch.equal(found, attack(net, image, label, 0.1, **words))
    assert counted.gradients.images == counted.backwards > 0
    assert counted.gradients.values == 12 * counted.backwards


def test_forwards_without_gradients_leave_no_trace() -> None:
    counted = CountedModel(lambda x: x.flatten(1))
    x = torch.rand(2, 1, 1, 2, requires_grad=True)
    with torch.no_grad():
        counted(x)
    counted(x.detach())
    assert counted.forwards == 4
    assert counted.gradients == GradientStats()


def test_inference_mode_is_the_attacks_to_refuse() -> None:
    weight = torch.ones(12, 2)
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        pgd(CountedModel(lambda x: x.flatten(1) @ weight), torch.rand(2, 3, 2, 2), torch.tensor([0, 1]), 0.1, steps=2)
