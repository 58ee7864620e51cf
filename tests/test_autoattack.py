"""AutoAttack: the published stages, each on what still stands, and a name that means the full standard version only."""

from typing import Any

import pytest
import torch
from test_apgd import Exact, margin_of
from test_attacks import EPS, generators
from torch import Tensor

from tima.attacks import CountedModel, Stage, apgd, attack_title, autoattack, fab, find_stages, square
from tima.attacks.autoattack import MEMBERS, autoattack_stages
from tima.errors import DataError, ModelError, RecipeError

QUICK: dict[str, Any] = {"steps": 8, "queries": 60}


@pytest.fixture
def net() -> Exact:
    return Exact()


@pytest.fixture
def batch(net: Exact) -> tuple[Tensor, Tensor]:
    image_BCHW = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return image_BCHW, net(image_BCHW).argmax(1)


def test_the_versions_are_the_published_ones() -> None:
    assert find_stages("autoattack", {}) == [
        Stage("apgd-ce", apgd, {"loss": "ce", "steps": 100, "restarts": 1}),
        Stage("apgd-t", apgd, {"loss": "dlr_targeted", "targets": 9, "steps": 100, "restarts": 1}),
        Stage("fab-t", fab, {"targets": 9, "steps": 100, "restarts": 1}),
        Stage("square", square, {"queries": 5000, "p_init": 0.8, "rescale": False, "restarts": 1, "ahead": True}),
    ]
    plus = {stage.name: stage.params for stage in find_stages("autoattack", {"version": "plus"})}
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [params["restarts"] for params in plus.values()] == [5, 5, 5, 1, 1, 1]
    assert plus["fab"]["targets"] == 0  # untargeted
    rand = find_stages("autoattack", {"version": "rand"})
    assert [(s.name, s.params["loss"], s.params["eot_iter"]) for s in rand] == [("apgd-ce", "ce", 20), ("apgd-dlr", "dlr", 20)]


def test_custom_stages_and_changes() -> None:
    short = find_stages("autoattack", {"version": ["apgd-t", "square"], "steps": 10, "queries": 50, "targets": 3})
    assert [s.name for s in short] == ["apgd-t", "square"]
    assert short[0].params == {"loss": "dlr_targeted", "targets": 3, "steps": 10, "restarts": 1}
    assert short[1].params["queries"] == 50 and "steps" not in short[1].params
    untargeted = autoattack_stages(["fab", "apgd-t"], targets=2)
    assert [s.params["targets"] for s in untargeted] == [0, 2]
    assert MEMBERS["apgd-t"][1]["targets"] == 9  # the table itself is as before
    for params, message in (
        ({"version": "best"}, "no version 'best'"),
        ({"version": ["apgd-ce", "hope"]}, "no stage 'hope'"),
        ({"version": ["apgd-ce", "apgd-ce"]}, "none twice"),
        ({"version": []}, "at least one stage"),
        ({"version": ["square"], "steps": 5}, "No stage of square has the parameter steps"),
        ({"loss": "ce"}, "no parameter loss"),
        ({"batch_size": 4}, "no parameter batch_size"),
    ):
        with pytest.raises(RecipeError, match=message):
            find_stages("autoattack", params)


def test_only_the_full_standard_version_is_called_autoattack() -> None:
    assert attack_title("autoattack", {}) == attack_title("autoattack", {"version": "standard", "steps": 100}) == "autoattack"
    assert attack_title("autoattack", {"version": ["apgd-ce", "apgd-t", "fab-t", "square"]}) == "autoattack"
    assert attack_title("autoattack", {"version": "rand"}) == "autoattack-rand"
    assert attack_title("autoattack", {"steps": 20}) == "apgd-ce + apgd-t + fab-t + square"
    assert attack_title("autoattack", {"version": ["apgd-ce", "apgd-t"]}) == "apgd-ce + apgd-t"
    titles: dict[str, tuple[str, dict[str, Any]]] = {
        "pgd": ("pgd", {"steps": 3}),
        "apgd-ce": ("apgd", {}),
        "apgd-dlr": ("apgd", {"loss": "dlr"}),
        "apgd-t": ("apgd", {"loss": "dlr_targeted"}),
        "apgd-ce-t": ("apgd", {"loss": "ce_targeted"}),
        "fab-t": ("fab", {}),
        "fab": ("fab", {"targets": 0}),
        "square": ("square", {}),
        "mi-fgsm": ("mi-fgsm", {}),
    }
    for title, (name, params) in titles.items():
        assert attack_title(name, params) == find_stages(name, params)[0].name == title


@pytest.mark.parametrize(("norm", "eps"), [("l_inf", EPS), ("l_2", 0.08)])
def test_breaks_what_any_stage_breaks_and_stays_inside(norm: str, eps: float, net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    found = autoattack(net, image, label, eps, norm=norm, generator=generators(24), **QUICK)
    offset = (found.double() - image.double()).flatten(1)
    assert float(offset.norm(torch.inf if norm == "l_inf" else 2, dim=1).max()) <= eps
    assert float(found.min()) >= 0 and float(found.max()) <= 1 and found.dtype == torch.float32
    broken = net(found).argmax(1) != label
    assert 0 < int(broken.sum()) < 24
    first = apgd(net, image, label, eps, norm=norm, steps=8, stop_when_broken=True, generator=generators(24))
    alone = net(first).argmax(1) != label
    assert bool(broken[alone].all())
    assert torch.equal(found[alone], first[alone])  # what the first stage broke, no later one touches
    # where nothing broke, the best of all stages is handed back
    assert bool((margin_of(net, found, label) >= margin_of(net, first, label)).all())


def test_each_stage_attacks_what_still_stands(
    monkeypatch: pytest.MonkeyPatch, net: Exact, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch
    seen: list[tuple[str, int, list[int]]] = []

    def watched(name: str) -> None:
        attack, params = MEMBERS[name]

        def stage(logits_fn: Any, x: Tensor, y: Tensor, *rest: Any, generator: Any, steps: int = 0, **more: Any) -> Tensor:
            seen.append((name, len(x), [g.initial_seed() for g in generator]))
            return attack(logits_fn, x, y, *rest, generator=generator, **({"steps": steps} if steps else {}), **more)

        monkeypatch.setitem(MEMBERS, name, (stage, {k: v for k, v in params.items() if k != "steps"} | {"steps": 3}))

    names = ["apgd-ce", "apgd-t", "fab-t"]
    for name in names:
        watched(name)
    found = autoattack(net, image, label, EPS, version=names, generator=generators(24))
    assert [name for name, _, _ in seen] == names
    sizes = [number for _, number, _ in seen]
    assert sizes[0] == 24 > sizes[1] >= sizes[2] >= int((net(found).argmax(1) == label).sum())
    assert seen[1][2] == [i for i in range(24) if i in seen[1][2]] and len(seen[1][2]) == sizes[1]  # each keeps its generator


def test_the_result_of_an_image_is_its_own(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    found = [autoattack(net, image, label, EPS, generator=generators(24), batch_size=size, **QUICK) for size in (None, 1, 7)]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-6, rtol=0)
    some = [3, 11, 20]
    alone = autoattack(net, image[some], label[some], EPS, generator=[generators(24)[i] for i in some], **QUICK)
    torch.testing.assert_close(found[0][some], alone, atol=1e-6, rtol=0)


def test_eps_an_image_a_start_and_nothing_to_do(net: Exact, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    eps_B = torch.linspace(1, 8, 24, dtype=torch.float64) / 255
    weak = autoattack(net, image, label, eps_B, generator=generators(24), **QUICK)
    assert bool(((weak.double() - image.double()).abs().amax((1, 2, 3)) <= eps_B).all())
    started = autoattack(net, image, label, 2 * eps_B, start_BCHW=weak, generator=generators(24), version=["square"], queries=2)
    was_broken = net(weak).argmax(1) != label
    assert bool((net(started).argmax(1) != label)[was_broken].all())
    counted = CountedModel(net)
    assert autoattack(counted, image[:0], label[:0], EPS).shape == (0, 3, 8, 8) and counted.forwards == 0
    with pytest.raises(DataError, match="class numbers"):
        autoattack(net, image, torch.rand(24, 5), EPS)
    with pytest.raises(ModelError, match="NaN"):
        autoattack(lambda x: net(x) * torch.nan, image, label, EPS, **QUICK)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    net = Exact(classes)
    image = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    label = net(image).argmax(1)
    found = autoattack(net, image, label, 16 / 255, generator=generators(8), version="standard", **QUICK)
    assert float((net(found).argmax(1) != label).float().mean()) > 0.8
    tiny = autoattack(net, image, label, 1e-6, generator=generators(8), version="plus", restarts=1, **QUICK)
    assert bool((net(tiny).argmax(1) == label).all())
