"""Runs of one image side by side: the outcome of one run after the other, fewer passes, no batch larger than asked for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_apgd import Exact
from test_attacks import EPS, generators
from torch import Tensor

import tima.attacks._runs as module
from tima.attacks import CountedModel, apgd, autoattack, fab, noise, pgd

ATTACKS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "pgd": (pgd, {"steps": 4, "restarts": 5, "loss": "margin", "keep_best": True}),
    "pgd, the last iterate": (pgd, {"steps": 4, "keep_best": False}),
    "apgd": (apgd, {"steps": 6, "restarts": 3}),
    "apgd, targets": (apgd, {"steps": 6, "restarts": 2, "loss": "dlr_targeted"}),
    "fab": (fab, {"steps": 5, "restarts": 2}),
    "noise": (noise, {"tries": 9}),
}


@pytest.fixture(scope="module")
def net() -> Exact:
    return Exact()


@pytest.fixture(scope="module")
def batch(net: Exact) -> tuple[Tensor, Tensor]:
    image_BCHW = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return image_BCHW, net(image_BCHW).argmax(1)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_side_by_side_finds_what_one_after_the_other_does(
    name: str, stop: bool, started: bool, norm: str, net: Exact, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, words = ATTACKS[name]
    image, label = batch
    eps = EPS if norm == "l_inf" else 0.3
    words = {**words, "norm": norm, "stop_when_broken": stop, "start_BCHW": image.flip(3) if started else None}
    found, calls, states = {}, {}, {}
    for room in (1, 32):
        monkeypatch.setattr(module, "ROOM", {"cpu": room})
        counted, sizes, random = CountedModel(net), [], generators(12)

        def watched(x: Tensor, counted: CountedModel = counted, sizes: list[int] = sizes) -> Tensor:
            sizes.append(len(x))
            return counted(x)

        found[room] = attack(watched, image, label, eps, batch_size=10, generator=random, **words)
        assert max(sizes) <= 10
        calls[room] = len(sizes)
        states[room] = torch.stack([g.get_state() for g in random])
    broken = net(found[1]).argmax(1) != label
    assert torch.equal(broken, net(found[32]).argmax(1) != label)
    torch.testing.assert_close(found[32], found[1], atol=1e-6, rtol=0)
    assert calls[32] <= calls[1]
    if not stop or not bool(broken.all()):
        assert torch.equal(states[32][~broken if stop else slice(None)], states[1][~broken if stop else slice(None)])


def test_two_images_that_hold_out_have_all_their_targets_tried_at_once(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch[0][:2], batch[1][:2]
    sizes: list[int] = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return net(x)

    words: dict[str, Any] = {"steps": 10, "loss": "dlr_targeted", "stop_when_broken": True, "batch_size": 64}
    apgd(watched, image, label, 1e-4, generator=generators(2), **words)
    assert sizes == [2, *[8] * 11]  # the clean images, then two images with four targets each


def test_a_run_that_breaks_an_image_ends_later_ones_and_not_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel, a cliff to the right. Run 0 begins far from it and arrives late, run 1 beyond it."""
    starts = iter([0.2, 0.9, 0.9])
    monkeypatch.setattr(
        "tima.attacks._starts.Starts.point", lambda self, run, row, ball: torch.full((len(row), 1, 1, 1), next(starts))
    )
    seen: list[list[float]] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach().flatten().tolist())
        right = x.flatten(1) - 0.75
        return torch.cat([-right, right], 1)

    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    words: dict[str, Any] = {"steps": 20, "step_size": 0.1, "restarts": 3, "stop_when_broken": True, "loss": "margin"}
    found = pgd(model, image, label, 0.45, batch_size=8, **words)
    assert seen[0] == pytest.approx([0.2, 0.9, 0.9])
    assert [len(rows) for rows in seen[1:]] == [1] * 6  # 0.3 to 0.8: what the earliest run finds counts
    assert float(found) == pytest.approx(0.8)


def test_autoattack_asks_far_fewer_times_where_few_stand(
    net: Exact, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, label = batch[0][:2], batch[1][:2]
    calls, found = {}, {}
    for room in (1, 32):
        monkeypatch.setattr(module, "ROOM", {"cpu": room})
        calls[room] = 0

        def watched(x: Tensor, room: int = room) -> Tensor:
            calls[room] += 1
            return net(x)

        words: dict[str, Any] = {"version": ["apgd-ce", "apgd-t", "fab-t"], "steps": 20, "batch_size": 50}
        found[room] = autoattack(watched, image, label, 1e-3, generator=generators(2), **words)
    torch.testing.assert_close(found[32], found[1], atol=1e-6, rtol=0)
    assert calls[32] < 0.4 * calls[1]


def test_runs_compare_by_what_the_loss_says_to_the_last_bit(batch: tuple[Tensor, Tensor]) -> None:
    """Values in float64 that fp32 could not tell apart."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(192, 5, generator=generator).double()
    image = batch[0]

    def model(x: Tensor) -> Tensor:
        return x.flatten(1).double() @ weight

    def plain(output: Tensor, label: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(output, label, reduction="none")

    words: dict[str, Any] = {"steps": 1, "step_size": 1e-4, "restarts": 6}
    label = model(image).argmax(1)
    expected = pgd(model, image, label, EPS, loss=plain, generator=generators(12), **words)
    far = pgd(model, image, label, EPS, loss=lambda *known: plain(*known) + 1e8, generator=generators(12), **words)
    assert torch.equal(far, expected)


def test_a_point_that_breaks_once_it_is_pulled_in_ends_the_later_runs() -> None:
    """FAB, one pixel, a cliff at 0.75: it steps beyond eps = 0.2505, and what is pulled back in stays beyond the cliff."""
    asked: list[int] = []

    def model(x: Tensor) -> Tensor:
        asked.append(len(x))
        right = x.flatten(1) - 0.75
        return torch.cat([-right, right], 1)

    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    words: dict[str, Any] = {"steps": 10, "restarts": 4, "generator": generators(1)}
    found = fab(model, image, label, 0.2505, stop_when_broken=True, **words)
    assert 0.75 < float(found) <= 0.7505
    assert sum(asked) == 1 + 10 * 2 + 1, "the clean image, one run, and the look at the point that was pulled in"
    asked.clear()
    fab(model, image, label, 0.2, stop_when_broken=True, **words)
    assert sum(asked) == 1 + 4 * (10 * 2 + 1), "nothing within 0.2 is broken"
