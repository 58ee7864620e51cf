"""Attacks: as strong as they claim, inside their bounds exactly, and independent of everything they should not depend on."""

import inspect
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tima.attacks import ATTACKS, LOSSES, TARGETED_LOSSES, CountedModel, fgsm, find_attack, find_loss, find_stages, pgd
from tima.attacks._targets import runner_up_classes
from tima.errors import DataError, EpsError, ModelError, RecipeError

EPS = 4 / 255


class Net(nn.Module):
    """A small convolutional classifier: rough enough that attacks have something to search."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, classes)
        for p in self.parameters():
            p.data.normal_(0, 0.4, generator=generator)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(torch.sin(4 * self.conv(image_BCHW - 0.5)).flatten(1))


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    image_BCHW = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    image_BCHW[0], image_BCHW[1], image_BCHW[2] = 0.0, 1.0, (image_BCHW[2] * 255).round() / 255
    return image_BCHW, net(image_BCHW).argmax(1)


def generators(n: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]


def ce_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(net(x), y, reduction="none")


def test_equals_a_slow_pgd_written_by_hand(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    image, label = image[:6], label[:6]
    found = pgd(net, image, label, EPS, steps=5, restarts=2, step_size=0.005, generator=generators(6))
    for i in range(6):
        x0, noise = image[i], torch.Generator().manual_seed(i)
        best, best_loss = x0, -math.inf
        for _ in range(2):
            low, high = (x0.double() - EPS).clamp(min=0), (x0.double() + EPS).clamp(max=1)
            x = (low + (high - low) * torch.rand(x0.shape, generator=noise).double()).float()
            for step in range(6):
                x = x.detach().requires_grad_()
                loss = F.cross_entropy(net(x[None]), label[i : i + 1])
                if loss.item() > best_loss:
                    best, best_loss = x.detach(), loss.item()
                if step < 5:
                    loss.backward()
                    assert x.grad is not None
                    moved = x.detach().double() + 0.005 * x.grad.sign().double()
                    x = torch.minimum(torch.maximum(moved, low), high).float()
        torch.testing.assert_close(found[i], best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stop", [False, True])
def test_results_do_not_depend_on_the_batch_size(net: Net, stop: bool) -> None:
    image = torch.rand(64, 3, 8, 8)
    label = net(image).argmax(1)
    outcomes = []
    for size in (1, 7, 64):
        noise = generators(64)
        parts = [
            pgd(net, image[cut], label[cut], EPS, steps=3, restarts=2, stop_when_broken=stop, generator=noise[cut])
            for cut in (slice(i, i + size) for i in range(0, 64, size))
        ]
        outcomes.append(net(torch.cat(parts)).argmax(1) == label)
    assert 0 < int(outcomes[0].sum()) < 64
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])


def test_the_weights_are_left_alone(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    net.head.weight.grad = torch.full_like(net.head.weight, 7.0)
    with torch.no_grad():  # attacks switch gradients on for themselves
        free = pgd(net, image, label, EPS, generator=generators(24))
    assert bool((net.head.weight.grad == 7).all())
    assert net.conv.weight.grad is None
    assert all(p.requires_grad for p in net.parameters())
    net.requires_grad_(False)
    assert torch.equal(free, pgd(net, image, label, EPS, generator=generators(24)))
    assert not free.requires_grad


@pytest.mark.parametrize("attack", [pgd, fgsm])
@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
def test_l_inf_stays_inside_exactly(attack: Callable[..., Tensor], levels: int, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    eps = levels / 255
    found = attack(net, image, label, eps)
    assert found.dtype == torch.float32
    assert float((found.double() - image.double()).abs().max()) <= eps  # in exact arithmetic
    assert bool(((found - image).abs() <= eps).all())  # and as people write it
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float((found - image).abs().max()) > 0.99 * eps


def test_l_2_stays_inside_and_is_stronger_than_noise(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    for eps in (0.3, 3.0):
        found = pgd(net, image, label, eps, norm="l_2", restarts=2)
        assert float((found.double() - image.double()).flatten(1).norm(dim=1).max()) <= eps
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    noise = F.normalize(torch.randn(image.shape).flatten(1), dim=1).view_as(image) * 0.3
    found = pgd(net, image, label, 0.3, norm="l_2")
    assert float(ce_of(net, found, label).mean()) > 2 * float(ce_of(net, (image + noise).clamp(0, 1), label).mean())


def test_best_iterate_is_the_best(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(x: Tensor) -> Tensor:
        logits = net(x)
        seen.append((x.detach().clone(), F.cross_entropy(logits, label, reduction="none").detach()))
        return logits

    # steps far too long, so that the last iterate is often not the best
    found = pgd(watched, image, label, EPS, steps=6, step_size=1.5 * EPS, restarts=2, generator=generators(24))
    losses = torch.stack([loss for _, loss in seen])
    assert len(seen) == 2 * 7
    assert (losses.argmax(0) % 7 != 6).any()
    for i, run in enumerate(losses.argmax(0).tolist()):
        assert torch.equal(found[i], seen[run][0][i])
    last = pgd(net, image, label, EPS, steps=6, step_size=1.5 * EPS, keep_best=False, generator=generators(24))
    assert torch.equal(last, seen[6][0])


def test_restarts_and_starts_never_make_it_weaker(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    weak = pgd(net, image, label, EPS, steps=3, generator=generators(24))
    strong = pgd(net, image, label, EPS, steps=3, restarts=4, generator=generators(24))
    gain = ce_of(net, strong, label) - ce_of(net, weak, label)
    assert float(gain.min()) >= 0
    assert float(gain.max()) > 0.01
    bad_start = pgd(net, image, label, EPS, steps=3, generator=generators(24), start_BCHW=image)
    assert float((ce_of(net, bad_start, label) - ce_of(net, weak, label)).min()) >= 0
    from_strong = pgd(net, image, label, 2 * EPS, steps=1, step_size=1e-6, start_BCHW=strong, generator=generators(24))
    assert float((ce_of(net, from_strong, label) - ce_of(net, strong, label)).min()) >= 0


def test_a_start_outside_is_projected(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    found = pgd(net, image, label, EPS, steps=1, start_BCHW=1 - image, random_start=False)
    assert float((found.double() - image.double()).abs().max()) <= EPS


def test_eps_for_each_image(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    eps_B = torch.linspace(1, 16, 24, dtype=torch.float64) / 255
    together = pgd(net, image, label, eps_B, steps=4, generator=generators(24))
    assert bool(((together.double() - image.double()).abs().amax((1, 2, 3)) <= eps_B).all())
    for i in (0, 11, 23):
        alone = pgd(net, image[i : i + 1], label[i : i + 1], float(eps_B[i]), steps=4, generator=generators(24)[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    with pytest.raises(EpsError, match="one an image"):
        pgd(net, image, label, eps_B[:5])
    with pytest.raises(EpsError, match="not above 0"):
        pgd(net, image, label, eps_B - eps_B[3])


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_targeted_reaches_the_class(loss: str, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    target = (label + 1) % 5
    found = pgd(net, image, target, 16 / 255, steps=20, loss=loss, targeted=True, stop_when_broken=True)
    assert float((net(found).argmax(1) == target).float().mean()) > 0.8
    assert not bool((net(image).argmax(1) == target).any())


@pytest.mark.parametrize("keep_best", [False, True])
def test_stopping_when_broken_saves_work_and_loses_nothing(keep_best: bool, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    full, short = CountedModel(net), CountedModel(net)
    slow = pgd(full, image, label, EPS, restarts=3, loss="margin", generator=generators(24))
    words = {"keep_best": keep_best, "stop_when_broken": True, "generator": generators(24)}
    fast = pgd(short, image, label, EPS, restarts=3, loss="margin", **words)  # type: ignore[arg-type]
    broken = net(fast).argmax(1) != label
    assert 0 < int(broken.sum()) < 24
    assert torch.equal(broken, net(slow).argmax(1) != label)  # the margin's best iterate is broken wherever any is
    assert (full.forwards, full.backwards) == (24 * 3 * 11, 24 * 3 * 10)
    assert short.forwards < 0.8 * full.forwards
    assert float((fast.double() - image.double()).abs().max()) <= EPS


def test_a_broken_iterate_wins_over_one_of_higher_loss() -> None:
    """A loss that points away from misclassification must not hide an iterate that was misclassified on the way."""
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])

    def logits(x: Tensor) -> Tensor:  # class 1 only in a narrow band that the path crosses
        v = x.flatten()
        return torch.stack([torch.zeros_like(v), 1 - 100 * (v - 0.53).abs()], 1)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return output[:, 1] ** 2

    words = {"steps": 10, "step_size": 0.005, "loss": loss, "start_BCHW": image + 0.025, "generator": generators(1)}
    high = pgd(logits, image, label, 0.1, **words)  # type: ignore[arg-type]
    assert int(logits(high).argmax(1)) == 0
    found = pgd(logits, image, label, 0.1, stop_when_broken=True, **words)  # type: ignore[arg-type]
    assert int(logits(found).argmax(1)) == 1


def test_cost_is_one_forward_and_backward_a_step_and_one_forward_at_the_end(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    counted = CountedModel(net)
    pgd(counted, image, label, EPS, steps=7)
    assert (counted.forwards, counted.backwards) == (24 * 8, 24 * 7)
    counted.reset()
    pgd(counted, image, label, EPS, steps=7, keep_best=False)
    assert (counted.forwards, counted.backwards) == (24 * 7, 24 * 7)
    counted.reset()
    fgsm(counted, image, label, EPS)
    assert (counted.forwards, counted.backwards) == (24, 24)


def test_autocast_needs_fp32_to_agree_that_an_image_is_broken() -> None:
    """Between two logits that bf16 cannot tell apart, bf16 calls the image broken and fp32 does not."""
    weight = torch.tensor([[1.0, 1.001]])

    def logits(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] @ weight

    image, label = torch.full((2, 3, 4, 4), 0.5), torch.tensor([1, 1])
    counted = CountedModel(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(image).argmax(1).tolist() == [0, 0]
        pgd(counted, image, label, EPS, steps=3, stop_when_broken=True)
    assert counted.backwards == 2 * 3  # nobody left the batch


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_what_is_refused(attack: str, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    run = partial(find_attack(attack), source=net) if attack == "transfer" else find_attack(attack)
    if inspect.signature(run).parameters["norm"].default == "l_inf":
        with pytest.raises(EpsError, match="write 4/255"):
            run(net, image, label, 4)
    for eps in (0, -0.1, math.nan):
        with pytest.raises(EpsError, match="not above 0"):
            run(net, image, label, eps)
    with pytest.raises(DataError, match="Divide uint8 images by 255"):
        run(net, (image * 255).to(torch.uint8), label, EPS)
    for wrong in (image * 255, image - 0.5, image * math.nan):
        with pytest.raises(DataError, match=r"in \[0, 1\]"):
            run(net, wrong, label, EPS)
    with pytest.raises(DataError, match="24 images came with 3 labels"):
        run(net, image, label[:3], EPS)
    with pytest.raises(DataError, match="start has shape"):
        run(net, image, label, EPS, start_BCHW=image[:3])
    with pytest.raises(RecipeError, match="l_7"):
        run(net, image, label, EPS, norm="l_7")
    with pytest.raises(DataError, match="classes 0 to 4"):
        run(net, image, label + 1, EPS)
    if "loss" in inspect.signature(run).parameters:
        with pytest.raises(RecipeError, match="attack loss"):
            run(net, image, label, EPS, loss="hope")


def test_parameters_that_cannot_be_meant(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    same_again, thrown_away = {"restarts": 2, "random_start": False}, {"restarts": 2, "keep_best": False}
    for words in ({"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, same_again, thrown_away):
        with pytest.raises(RecipeError):
            pgd(net, image, label, EPS, **words)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no attack 'hope'"):
        find_attack("hope")
    with pytest.raises(RecipeError, match="keep_best"):
        find_stages("pgd", {"keep_best": False})


@pytest.mark.parametrize("stop", [False, True])
def test_nan_is_an_error(stop: bool, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch

    def nan_in_one(x: Tensor) -> Tensor:
        logits = net(x)
        return torch.cat([logits[:-1], logits[-1:] * math.nan])

    with pytest.raises(ModelError, match="NaN"):
        pgd(nan_in_one, image, label, EPS, steps=2, stop_when_broken=stop)
    with pytest.raises(ModelError, match="NaN"):  # finite logits, NaN gradient: sqrt of 0
        pgd(lambda x: net(x) + (x * 0).abs().sqrt().sum() * 0, image, label, EPS, steps=2, keep_best=False)
    with pytest.raises(ModelError, match="No gradient"):
        pgd(lambda x: net(x.detach()).detach(), image, label, EPS)


def test_empty_batch_and_fgsm_by_hand(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    assert pgd(net, image[:0], label[:0], EPS).shape == (0, 3, 8, 8)
    x = image.clone().requires_grad_()
    F.cross_entropy(net(x), label, reduction="sum").backward()
    assert x.grad is not None
    torch.testing.assert_close(fgsm(net, image, label, EPS), (image + EPS * x.grad.sign()).clamp(0, 1), atol=1e-6, rtol=0)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 4.0, 1.0]])
    label = torch.tensor([0, 1])
    assert LOSSES["margin"](logits, label).tolist() == [-2.0, 2.0]
    torch.testing.assert_close(LOSSES["dlr"](logits, label), torch.tensor([-2 / 2.5, 2 / 3]))
    torch.testing.assert_close(LOSSES["dlr"](logits * 100, label), LOSSES["dlr"](logits, label))
    for classes in (2, 3):
        assert torch.equal(LOSSES["dlr"](logits[:, :classes], label), LOSSES["margin"](logits[:, :classes], label))
    one_hot = F.one_hot(label, 4).float()
    torch.testing.assert_close(LOSSES["ce_soft"](logits, one_hot), LOSSES["ce"](logits, label))
    p, q = logits.flip(1).softmax(1), logits.softmax(1)
    torch.testing.assert_close(LOSSES["kl"](logits, logits.flip(1)), (p * (p.log() - q.log())).sum(1))
    assert torch.equal(find_loss("ce", targeted=True)(logits, label), -LOSSES["ce"](logits, label))
    assert torch.equal(LOSSES["cw"](logits, label), LOSSES["margin"](logits, label))
    assert LOSSES["embedding_l2"](logits, torch.ones(2, 4)).tolist() == [4 + 0 + 0.25 + 4, 1 + 1 + 9 + 0]
    for loss in LOSSES:
        target = one_hot if loss in ("kl", "ce_soft", "embedding_l2") else label
        assert LOSSES[loss](logits.bfloat16(), target).dtype == torch.float32


def test_targeted_losses_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, -9.0], [0.0, 2.0, 4.0, 1.0, -9.0]])
    label, target = torch.tensor([0, 1]), torch.tensor([2, 3])
    dlr, ce = TARGETED_LOSSES["dlr_targeted"], TARGETED_LOSSES["ce_targeted"]
    torch.testing.assert_close(dlr(logits, label, target), torch.tensor([-2.5 / (3 - (0.5 - 1) / 2), -1 / (4 - (1 + 0) / 2)]))
    torch.testing.assert_close(dlr(logits * 100, label, target), dlr(logits, label, target))
    assert dlr(logits[:, :3], label, torch.tensor([2, 2])).tolist() == [-2.5, 2.0]  # below 4 classes the margin
    assert dlr(logits[:, :2], label, 1 - label).tolist() == [-2.0, -2.0]
    torch.testing.assert_close(ce(logits, label, target), logits.log_softmax(1)[[0, 1], [2, 3]])
    assert dlr(logits.bfloat16(), label, target).dtype == ce(logits.bfloat16(), label, target).dtype == torch.float32


def test_runner_up_classes() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 3.0, 0.0], [1.0, 5.0, 3.0, 3.0, 0.0]])
    label = torch.tensor([1, 2])
    assert runner_up_classes(logits, label, 9).tolist() == [[2, 3, 0, 4], [1, 3, 0, 4]]
    assert runner_up_classes(logits, label, 2).tolist() == [[2, 3], [1, 3]]
    assert runner_up_classes(logits[:, :2], torch.tensor([1, 0]), 9).tolist() == [[0], [1]]


@pytest.mark.parametrize("loss", ["ce_soft", "kl"])
def test_soft_labels(loss: str, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    target = net(image).detach() if loss == "kl" else F.one_hot(label, 5).float()
    for stop in (False, True):
        found = pgd(net, image, target, EPS, loss=loss, stop_when_broken=stop)
        assert float(ce_of(net, found, label).mean()) > float(ce_of(net, image, label).mean()) + 0.2


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_two_classes(loss: str) -> None:
    net = Net(classes=2)
    image = torch.rand(8, 3, 8, 8)
    label = net(image).argmax(1)
    found = pgd(net, image, label, 16 / 255, loss=loss, steps=20, stop_when_broken=True)
    assert float((net(found).argmax(1) != label).float().mean()) > 0.5
