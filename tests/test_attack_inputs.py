"""Every attack says what is wrong with its input, and none minds where it is called."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tima.attacks import ATTACKS, check_stages, find_stages
from tima.attacks.autoattack import autoattack_stages
from tima.errors import DataError, EpsError, ModelError, RecipeError, TimaError

SHORT: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 2},
    "mi-fgsm": {"steps": 2},
    "cw": {"steps": 2, "searches": 1, "norm": "l_2"},
    "apgd": {"steps": 2},
    "fab": {"steps": 2},
    "square": {"queries": 4},
    "noise": {"tries": 2},
    "transfer": {"steps": 2},
    "autoattack": {"steps": 2, "queries": 4},
}
EVERY = pytest.mark.parametrize("name", list(ATTACKS))


class Linear(nn.Module):
    """Ten classes of 3 x 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(192, 10, generator=torch.Generator().manual_seed(0)) / 2)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.flatten(1) @ self.weight


MODEL = Linear()
IMAGE = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABEL = MODEL(IMAGE).argmax(1)


def attacked(name: str, image: Any = IMAGE, label: Any = LABEL, eps: Any = 0.05, model: Any = MODEL, **params: Any) -> Tensor:
    source = {"source": model} if name == "transfer" else {}
    return ATTACKS[name](model, image, label, eps, **{**SHORT[name], **source, **params})


def test_no_attack_is_left_out() -> None:
    assert set(SHORT) == set(ATTACKS)


@EVERY
def test_runs_where_gradients_are_switched_off(name: str) -> None:
    with torch.no_grad():
        inside = attacked(name, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    assert torch.equal(inside, attacked(name, generator=[torch.Generator().manual_seed(i) for i in range(4)]))


@EVERY
def test_one_image_and_none(name: str) -> None:
    assert attacked(name, IMAGE[:1], LABEL[:1]).shape == (1, 3, 8, 8)
    none = attacked(name, IMAGE[:0], LABEL[:0], generator=[], batch_size=2, stop_when_broken=True)
    assert none.shape == (0, 3, 8, 8) and none.dtype == torch.float32


@EVERY
def test_float64_images_give_fp32_within_eps(name: str) -> None:
    found = attacked(name, IMAGE.double(), norm="l_2", eps=0.3)
    assert found.dtype == torch.float32
    assert bool(((found - IMAGE).flatten(1).norm(dim=1) <= 0.3).all())


@EVERY
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"label": LABEL.int()}, "int64"),
        ({"label": LABEL.float()}, "int64"),
        ({"label": LABEL.tolist()}, "torch tensors"),
        ({"image": IMAGE.numpy()}, "torch tensors"),
        ({"start_BCHW": IMAGE * torch.nan}, "NaN or infinite pixels"),
    ],
)
def test_refuses_data(name: str, what: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        attacked(name, **what)


@EVERY
@pytest.mark.parametrize(("eps", "says"), [("4/255", "parse_eps"), (None, "parse_eps"), (float("nan"), "not above 0")])
def test_refuses_eps_that_is_no_number(name: str, eps: Any, says: str) -> None:
    with pytest.raises(EpsError, match=says):
        attacked(name, eps=eps)


@EVERY
def test_refuses_an_infinite_eps(name: str) -> None:
    with pytest.raises(EpsError, match="infinite"):
        attacked(name, eps=float("inf"), norm="l_2")


@EVERY
def test_refuses_a_model_without_rows_of_logits(name: str) -> None:
    with pytest.raises(ModelError, match="row of logits"):
        attacked(name, model=lambda image_BCHW: MODEL(image_BCHW)[:, 0])


@EVERY
def test_refuses_a_model_of_nan(name: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        attacked(name, model=lambda image_BCHW: MODEL(image_BCHW) * torch.nan)


@pytest.mark.parametrize("name", ["noise", "square", "fab", "cw", "transfer", "autoattack"])
def test_attacks_that_need_a_class_refuse_soft_labels(name: str) -> None:
    with pytest.raises(DataError, match="class numbers"):
        attacked(name, label=torch.rand(4, 10))


COUNTS = {
    "pgd": ["steps", "restarts", "batch_size"],
    "mi-fgsm": ["steps"],
    "apgd": ["steps", "eot_iter", "targets"],
    "fab": ["steps"],
    "cw": ["searches"],
    "square": ["queries", "restarts"],
    "noise": ["tries"],
}


@pytest.mark.parametrize(("name", "count"), [(name, count) for name, counts in COUNTS.items() for count in counts])
@pytest.mark.parametrize("value", [2.5, "2"])
def test_half_a_step_is_refused_and_never_waited_for(name: str, count: str, value: Any) -> None:
    with pytest.raises(RecipeError, match="whole numbers"):
        attacked(name, **{count: value})


# odd input of every kind, on every attack -------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
ODD_COUNT, ODD_NUMBER = [0, -1, 2.5, "2", True, NAN], ["a", NAN, INF, [0.1], torch.tensor([0.1, 0.1]), -1]
ODD_EPS = [torch.full((3,), 0.1), torch.full((4, 1), 0.1), torch.tensor([0.1, NAN, 0.1, 0.1])]
ODD: dict[str, list[Any]] = {
    **dict.fromkeys(("steps", "restarts", "queries", "tries", "searches", "eot_iter", "batch_size"), ODD_COUNT),
    "targets": [-1, 2.5, "2", True],  # 0 is FAB without targets
    **dict.fromkeys(("step_size", "confidence", "decay", "alpha_max", "eta", "beta"), ODD_NUMBER),
    "c_init": [0, *ODD_NUMBER],
    "p_init": [0, *ODD_NUMBER],
    "loss": [3, None, "hope", ["ce"]],
    "version": [3, "hope", [], ["hope"], ["fab", "fab"], [3], {}],
    "norm": ["l_1", None, 2, ["l_inf"]],
    "attack": [3, None, "hope", "transfer"],
    "source": [3, None, "nano"],
    "generator": [3, "a", [3, 3, 3, 3], [torch.Generator()]],
    "start_BCHW": [3, [1], IMAGE[:2], IMAGE.numpy(), (IMAGE * 255).byte(), IMAGE * INF],
    "eps": [0, -0.1, NAN, INF, "a", None, [0.1] * 4, 1j, *ODD_EPS],
    "label": [None, LABEL[:3], LABEL - 100, LABEL.bool(), LABEL.int(), LABEL[:, None], torch.tensor(3)],
    "image": [None, IMAGE[0], (IMAGE * 255).byte(), IMAGE.long(), IMAGE > 0, IMAGE * 255, IMAGE - 1, IMAGE * NAN, IMAGE * 1j],
    "model": [3, None, "nano"],
}  # fmt: skip


class Watched:
    """Counts how often it is asked."""

    def __init__(self, model: Any = MODEL) -> None:
        self.model, self.calls = model, 0

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.calls += 1
        return self.model(image_BCHW)


def odd_input() -> list[Any]:
    everybody = {"eps", "label", "image", "model"}
    cases = []
    for name, attack in ATTACKS.items():
        takes = everybody | set(inspect.signature(attack).parameters)
        cases += [
            pytest.param(name, key, i, id=f"{name}-{key}-{i}") for key in ODD if key in takes for i in range(len(ODD[key]))
        ]
    return cases


@pytest.mark.parametrize(("name", "key", "number"), odd_input())
def test_odd_input_is_refused_before_any_work(name: str, key: str, number: int) -> None:
    """With a message, and without asking the model once: never half an attack, a torch traceback or a number."""
    model = Watched()
    with pytest.raises(TimaError) as found:
        attacked(name, **{"model": model, key: ODD[key][number]})
    assert model.calls == 0 and len(str(found.value)) > 25


@EVERY
def test_labels_that_the_model_does_not_have_are_refused_at_its_first_answer(name: str) -> None:
    """Only its answer says how many classes there are."""
    model = Watched()
    with pytest.raises(DataError, match="the model knows the classes 0 to 9"):
        attacked(name, label=LABEL + 10, model=model)
    assert model.calls == 1


@EVERY
def test_a_model_of_one_class_is_refused_and_one_of_two_is_attacked(name: str) -> None:
    with pytest.raises(TimaError, match="one class"):
        attacked(name, label=LABEL * 0, model=lambda image_BCHW: MODEL(image_BCHW)[:, :1])
    two = lambda image_BCHW: MODEL(image_BCHW)[:, :2]  # noqa: E731
    found = attacked(name, label=two(IMAGE).argmax(1), model=two, norm="l_2", eps=0.5)
    assert found.shape == IMAGE.shape and bool((found != IMAGE).any())


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_are_attacked_in_fp32_around_what_they_are(name: str, dtype: torch.dtype) -> None:
    image = IMAGE.to(dtype)
    found = attacked(name, image=image, label=MODEL(image.float()).argmax(1), norm="l_2", eps=0.4)
    assert found.dtype == torch.float32
    assert bool(((found.double() - image.double()).flatten(1).norm(dim=1) <= 0.4).all())


@EVERY
def test_eps_may_differ_from_image_to_image(name: str) -> None:
    eps = torch.tensor([0.1, 0.2, 0.4, 0.8])
    found = attacked(name, eps=eps, norm="l_2")
    assert bool(((found.double() - IMAGE.double()).flatten(1).norm(dim=1) <= eps.double()).all())


TARGETED = [name for name, attack in ATTACKS.items() if "targeted" in inspect.signature(attack).parameters]
LONGER: dict[str, dict[str, Any]] = {
    **{name: {"steps": 12} for name in ("pgd", "mi-fgsm", "apgd", "fab", "transfer")},
    **{"fgsm": {}, "cw": {"steps": 40, "searches": 6, "c_init": 0.1}, "square": {"queries": 150}, "noise": {"tries": 30}},
}


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
@pytest.mark.parametrize("name", TARGETED)
def test_a_target_is_approached_under_both_norms_and_by_random_numbers_of_ones_own(name: str, norm: str) -> None:
    """`autoattack` alone has no target: it is untargeted as published."""
    if name == "cw" and norm == "l_inf":
        return
    target, eps = (
        MODEL(IMAGE).topk(2, dim=1).indices[:, 1],
        torch.tensor([0.05, 0.1, 0.15, 0.2]) * (1 if norm == "l_inf" else 6),
    )

    def found(batch_size: int) -> Tensor:
        own = [torch.Generator().manual_seed(i) for i in range(4)]
        words = {**LONGER[name], "norm": norm, "targeted": True, "generator": own, "batch_size": batch_size}
        return attacked(name, label=target, eps=eps, **words)

    adv = found(4)
    offset = (adv.double() - IMAGE.double()).flatten(1)
    length = offset.abs().amax(1) if norm == "l_inf" else offset.norm(dim=1)
    assert bool((length <= eps.double()).all()) and 0 <= float(adv.min()) <= float(adv.max()) <= 1

    def ahead(image: Tensor) -> Tensor:
        logits = MODEL(image).detach()
        return logits.gather(1, target[:, None])[:, 0] - logits.scatter(1, target[:, None], -torch.inf).amax(1)

    assert bool((ahead(adv) > ahead(IMAGE)).all()), "some image is no nearer to its target"
    assert name == "noise" or bool((ahead(adv) > 0).any()), "no target was reached"
    torch.testing.assert_close(found(1), adv, atol=1e-5, rtol=0)


def test_autoattack_without_a_version_or_with_odd_counts() -> None:
    for version in (None, 3, [3], {"standard"}):
        with pytest.raises(RecipeError, match="version is one of standard, plus, rand, or a list of stages"):
            autoattack_stages(version)  # type: ignore[arg-type]
    for key in ("steps", "restarts", "targets", "queries", "eot_iter"):
        with pytest.raises(RecipeError, match=f"{key} must be a whole number from 1"):
            autoattack_stages("plus", **{key: 0})


@pytest.mark.parametrize(
    ("name", "params", "norm", "says"),
    [
        ("pgd", {"loss": 3}, "l_inf", "Attack 'pgd' under l_inf: There is no attack loss '3'"),
        ("apgd", {"loss": "hope"}, "l_inf", "Attack 'apgd-hope' under l_inf"),
        ("cw", {}, "l_inf", "under l_inf take pgd or apgd"),
        ("cw", {"c_init": 0}, "l_2", "c_init above 0"),
        ("fab", {"beta": 1}, "l_2", "beta between 0 and 1"),
    ],
)
def test_what_a_protocol_asks_for_is_refused_without_an_image(name: str, params: dict[str, Any], norm: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        check_stages(find_stages(name, params), norm)


def test_every_attack_as_it_comes_passes_the_check_without_an_image() -> None:
    for name in ATTACKS:
        params = {"source": MODEL} if name == "transfer" else {}
        check_stages(find_stages(name, params), "l_2")


@pytest.mark.parametrize("name", [n for n, attack in ATTACKS.items() if "restarts" in inspect.signature(attack).parameters])
def test_more_restarts_need_no_more_memory(name: str) -> None:
    def peak(restarts: int) -> int:
        sizes: list[int] = []

        def model(image_BCHW: Tensor) -> Tensor:
            sizes.append(len(image_BCHW))
            return MODEL(image_BCHW)

        attacked(name, model=model, eps=0.001, restarts=restarts, batch_size=2)
        return max(sizes)

    assert peak(1) == peak(12) == 2
