"""Transfer keeps what works on the attacked model; noise is the floor that every attack stands on."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_net import Net, generators, make_batch, margin
from torch import Tensor, nn

from tima.attacks import CountedModel, pgd
from tima.attacks.noise import noise
from tima.attacks.transfer import transfer
from tima.errors import DataError, EpsError, ModelError, RecipeError

EPS = 4 / 255


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def relative() -> Net:
    return Net(nudge=0.1)


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    return make_batch(net, 24)


def test_the_perturbation_is_the_source_s(net: Net, relative: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    model, source = CountedModel(net), CountedModel(relative)
    found = transfer(model, image, label, EPS, source=source, steps=5, generator=generators(24))
    torch.testing.assert_close(found, pgd(relative, image, label, EPS, steps=5, generator=generators(24)), rtol=0, atol=0)
    assert (model.forwards, model.backwards) == (24, 0), "the model is only asked for its answer"
    assert (source.forwards, source.backwards) == (24 * 6, 24 * 5)
    by_function = transfer(net, image, label, EPS, source=relative, attack=pgd, steps=5, generator=generators(24))
    assert torch.equal(found, by_function)


def test_weaker_than_direct_and_stronger_than_noise(net: Net, relative: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    direct = int((margin(net, pgd(net, image, label, 0.02, loss="margin"), label) > 0).sum())
    passed = int((margin(net, transfer(net, image, label, 0.02, source=relative), label) > 0).sum())
    random = int((margin(net, noise(net, image, label, 0.02, tries=10), label) > 0).sum())
    assert random < passed < direct


def test_what_works_is_kept_for_each_image(net: Net, relative: Net, batch: tuple[Tensor, Tensor]) -> None:
    """Of an attack on the source, a second one, and a start, each image keeps the one that breaks the model."""
    image, label = batch
    points = [
        torch.where((torch.arange(24) % 3 == i)[:, None, None, None], pgd(net, image, label, 0.02, loss="margin"), image)
        for i in range(3)
    ]
    turn = iter(points[:2])

    def scripted(logits_fn: nn.Module, *_: object, **__: object) -> Tensor:
        assert logits_fn is relative
        return next(turn)

    found = transfer(net, image, label, 0.02, source=relative, attack=scripted, restarts=2, start_BCHW=points[2])
    best = torch.stack([margin(net, x, label) for x in points]).amax(0)
    torch.testing.assert_close(margin(net, found, label), best)
    assert int((best > 0).sum()) > 12


def test_broken_images_are_not_attacked_again(net: Net, relative: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    sizes: list[int] = []

    def watched(logits_fn: nn.Module, image: Tensor, *args: Tensor, **words: object) -> Tensor:
        sizes.append(len(image))
        return pgd(logits_fn, image, *args, **words)  # type: ignore[arg-type]

    words = {"source": relative, "attack": watched, "restarts": 3, "generator": generators(24)}
    found = transfer(net, image, label, 0.02, stop_when_broken=True, **words)  # type: ignore[arg-type]
    first = pgd(relative, image, label, 0.02, generator=generators(24))
    broken = int((margin(net, first, label) > 0).sum())
    assert sizes[:2] == [24, 24 - broken]
    assert int((margin(net, found, label) > 0).sum()) >= broken > 0


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_inside_the_ball_and_an_image_does_not_notice_its_neighbours(
    norm: str, net: Net, relative: Net, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch
    eps_B = torch.linspace(1, 12, 24, dtype=torch.float64) / 255 * (1 if norm == "l_inf" else 14)
    cases: list[tuple[Callable[..., Tensor], dict[str, Any]]] = [
        (transfer, {"source": relative, "steps": 4, "restarts": 2}),
        (noise, {"tries": 7}),
    ]
    for attack, words in cases:
        for stop in (False, True):
            settings = {"norm": norm, "stop_when_broken": stop, **words}
            together = attack(net, image, label, eps_B, generator=generators(24), **settings)
            pooled = attack(net, image, label, eps_B, generator=generators(24), batch_size=5, **settings)
            torch.testing.assert_close(pooled, together, atol=1e-6, rtol=0)
            own, i = generators(24)[9:10], slice(9, 10)
            alone = attack(net, image[i], label[i], float(eps_B[9]), generator=own, **settings)
            torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=0)
            offset = together.double() - image.double()
            length = offset.abs().amax((1, 2, 3)) if norm == "l_inf" else offset.flatten(1).norm(dim=1)
            assert bool((length <= eps_B).all())
            assert 0 <= float(together.min()) <= float(together.max()) <= 1


def test_transfer_targeted_two_classes_and_refused(net: Net, relative: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    target = (label + 1) % 5
    reached = transfer(net, image, target, 0.2, source=relative, steps=20, targeted=True, loss="margin")
    assert float((net(reached).argmax(1) == target).float().mean()) > 0.5
    two = Net(classes=2)
    binary = two(image).argmax(1)
    assert int((margin(two, transfer(two, image, binary, 0.1, source=Net(2, 0.05), steps=5), binary) > 0).sum()) > 12
    with pytest.raises(RecipeError, match="source="):
        transfer(net, image, label, EPS)
    with pytest.raises(RecipeError, match="another attack than itself"):
        transfer(net, image, label, EPS, source=relative, attack="transfer")
    with pytest.raises(RecipeError, match="no attack 'hope'"):
        transfer(net, image, label, EPS, source=relative, attack="hope")
    with pytest.raises(EpsError, match="write 4/255"):
        transfer(net, image, label, 4, source=relative)
    with pytest.raises(DataError, match="classes 0 to 1"):
        transfer(two, image, label + 1, EPS, source=relative, targeted=True, steps=1)
    with pytest.raises(ModelError, match="NaN"):
        transfer(lambda x: net(x) * math.nan, image, label, EPS, source=relative, steps=1)
    assert transfer(net, image[:0], label[:0], EPS, source=relative).shape == (0, 3, 8, 8)


def test_noise_keeps_the_best_of_its_points(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(x.clone())
        return net(x)

    found = noise(watched, image, label, EPS, tries=6, generator=generators(24), start_BCHW=image)
    assert len(seen) == 7
    margins = torch.stack([margin(net, x, label) for x in seen])
    assert torch.equal(found, torch.stack([seen[int(k)][i] for i, k in enumerate(margins.argmax(0))]))
    assert bool(((seen[1] - image).abs() <= EPS).all() & (seen[1] != seen[2]).any())
    more = noise(net, image, label, EPS, tries=30, generator=generators(24))
    assert float((margin(net, more, label) - margins[1:].amax(0)).min()) >= -1e-6
    target = (label + 1) % 5
    towards = noise(net, image, target, 0.3, tries=30, targeted=True, generator=generators(24))
    assert float((margin(net, towards, target) - margin(net, image, target)).mean()) < 0


def test_noise_stops_and_refuses(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    counted = CountedModel(net)
    noise(counted, image, (label + 1) % 5, EPS, tries=50, stop_when_broken=True)
    assert (counted.forwards, counted.backwards) == (24, 0), "already wrong: one look is enough"
    with pytest.raises(EpsError, match="not above 0"):
        noise(net, image, label, 0)
    with pytest.raises(RecipeError, match="at least 1"):
        noise(net, image, label, EPS, tries=0)
    with pytest.raises(ModelError, match="NaN"):
        noise(lambda x: net(x) * math.nan, image, label, EPS, tries=1)
