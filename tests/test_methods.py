"""The methods: which terms, with which weights, on which embeddings, at what cost; and their limits.

Shapes: `B` images, `C` classes, `D` embedding width.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from tima.attacks import pgd
from tima.errors import RecipeError, TrainingError
from tima.methods import METHODS, Method, Step, find_method, terms
from tima.methods.ft_clean import FtClean
from tima.methods.tecoa import TeCoA, TeCoAConfig
from tima.methods.tima import Tima, TimaConfig
from tima.methods.tima_v1 import TimaV1, TimaV1Config
from tima.models import encode_classes

B, C, D = 4, 5, 6
WEIGHTS = {"w_tam": "tam", "w_takd": "takd", "w_takd_clean": "takd_clean", "w_mhe": "mhe", "w_sc": "sc", "w_iakd": "iakd"} | {
    "w_feature": "feature"
}
FUNCTIONS = {"takd_clean": "takd", "sc": "semantic_consistency", "feature": "feature_distance", "tam": "margin_ce"}


class Encoder(nn.Module):
    """A stub of a dual encoder: a linear image tower that counts its calls."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, D, generator=torch.Generator().manual_seed(seed)) / 5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.seen: list[Tensor] = []

    @property
    def logit_scale(self) -> Tensor:
        return self.log_scale.exp()

    def encode_image(self, image_BCHW: Tensor, *, normalize: bool = True) -> Tensor:
        self.seen.append(image_BCHW)
        raw_BD = (image_BCHW.flatten(1) @ self.weight).float()
        return F.normalize(raw_BD, dim=-1) if normalize else raw_BD

    def logits(self, image_BD: Tensor, text_CD: Tensor) -> Tensor:
        return self.logit_scale * image_BD @ text_CD.T


def make_step(*, teacher: bool = True, text_trains: bool = True, same_texts: bool = False, attacked: bool = True) -> Any:
    """A step over stubs; typed Any, because the stubs are no DualEncoder."""
    generator = torch.Generator().manual_seed(7)
    image = torch.rand(B, 3, 4, 4, generator=generator)
    text0, text = (F.normalize(torch.randn(C, D, generator=generator), dim=-1) for _ in range(2))
    text = (text0 if same_texts else text).clone().requires_grad_(text_trains)
    adv = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1) if attacked else image
    return Step(
        student=Encoder(1),  # type: ignore[arg-type]
        teacher=Encoder(2) if teacher else None,  # type: ignore[arg-type]
        image_BCHW=image,
        adv_BCHW=adv,
        label_B=torch.tensor([2, 0, 4, 2]),
        text_CD=text,
        text0_CD=text0,
    )


def off(**on: float) -> dict[str, Any]:
    """Every weight and margin 0 but those given."""
    return {"w_takd": 0, "w_takd_clean": 0, "w_mhe": 0, "w_iakd": 0, "w_feature": 0, "kappa": 0} | on


# registry and settings --------------------------------------------------------------------------------------------


def test_registry() -> None:
    assert {"tima", "tima-v1", "tecoa", "ft-clean"} <= set(METHODS)
    assert all(method.name == name and method().config == method.Config() for name, method in METHODS.items())
    assert find_method("tima") is Tima
    with pytest.raises(RecipeError, match=r"no method 'timma'.*tima-v1"):
        find_method("timma")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_setting_says_where_it_comes_from(method: type[Method]) -> None:
    for name, field in method.Config.model_fields.items():
        assert field.description and any(word in field.description for word in ("known:", "our reading", "ours;")), name
    with pytest.raises(ValidationError, match="Extra inputs"):
        method.Config(no_such_setting=1)  # type: ignore[call-arg]


def test_the_stabiliser_is_off_and_marked_as_ours() -> None:
    field = TimaConfig.model_fields["w_feature"]
    assert field.default == 0 and field.description is not None and "OURS, not the paper's" in field.description


@pytest.mark.parametrize(
    "bad", [{"w_mhe": -1}, {"w_mhe": math.nan}, {"text_tower": "half"}, {"margin_sign": 2}, {"kd_scale": 0}]
)
def test_settings_that_cannot_be_meant(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TimaConfig(**bad)


def test_nothing_to_minimise_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing to minimise"):
        TimaConfig(**off(w_tam=0))
    with pytest.raises(ValidationError, match="nothing to minimise"):
        TimaV1Config(**off(w_tam=0) | {"w_mhe": 1, "text_tower": "none"})
    with pytest.raises(RecipeError, match="takes a TimaConfig, not a TeCoAConfig"):
        Tima(TeCoAConfig())


# which terms ------------------------------------------------------------------------------------------------------


def expected_terms(step: Any, c: Any, margin_CC: Tensor) -> dict[str, Tensor]:
    """The losses spelled out on the embeddings, with torch's probabilities in place of the package's terms."""
    s, y = 20.0 if c.kd_scale is None else c.kd_scale, step.label_B
    t, t0 = step.text_CD, step.text0_CD
    a_raw, v_raw, v0_raw = step.adv_BCHW.flatten(1), step.image_BCHW.flatten(1), step.image_BCHW.flatten(1)
    a_raw, v_raw, v0_raw = a_raw @ step.student.weight, v_raw @ step.student.weight, v0_raw @ step.teacher.weight
    a, v, v0 = (x / x.norm(dim=1, keepdim=True) for x in (a_raw, v_raw, v0_raw))

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum(1).mean()

    logits = torch.stack(
        [torch.stack([20 * (a[b] @ t[j] + (margin_CC[y[b], j] if j != y[b] else 0)) for j in range(C)]) for b in range(B)]
    )
    pairs = [(j, k) for j in range(C) for k in range(C) if j != k]
    cosines = torch.stack([torch.stack([x[j] @ x[k] for j, k in pairs]) for x in (t, t0)])
    sc = 1 - torch.corrcoef(cosines)[0, 1]
    return {
        "tam": -c.w_tam * logits.softmax(1)[range(B), y].log().mean(),
        "takd": c.w_takd * kl((s * v0 @ t.T).softmax(1), (s * a @ t.T).softmax(1)),
        "takd_clean": c.w_takd_clean * kl((s * v0 @ t.T).softmax(1), (s * v @ t.T).softmax(1)),
        "mhe": c.w_mhe * torch.stack([1 / (1 + (t[j] - t[k]).norm() ** c.alpha) for j, k in pairs]).mean(),
        "sc": c.w_mhe * getattr(c, "w_sc", 0.0) * sc,
        "iakd": c.w_iakd * kl((s * v0 @ t0.T).softmax(1), (s * v0 @ t.T).softmax(1)),
        "feature": c.w_feature * (a_raw - v0_raw).norm(dim=1).square().mean(),
    }


@pytest.mark.parametrize("kd_scale", [None, 5.0])
def test_tima_v1_is_the_sum_of_its_formulas(kd_scale: float | None) -> None:
    step = make_step()
    c = TimaV1Config(
        w_tam=0.9, kappa=0.2, w_takd=0.5, w_takd_clean=0.7, w_mhe=3, alpha=1.5, w_iakd=0.25, w_feature=0.1, kd_scale=kd_scale
    )
    distance_CC = torch.cdist(step.text_CD.detach(), step.text_CD.detach())
    expected = expected_terms(step, c, 0.2 * distance_CC / distance_CC.max())
    found = TimaV1(c).losses(step)
    assert set(found) == set(expected) - {"sc"}
    for name, term in found.items():
        assert term.shape == () and term.item() == pytest.approx(expected[name].item(), rel=2e-4), name


@pytest.mark.parametrize("kd_scale", [None, 5.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_tima_is_the_sum_of_its_formulas(sign: Any, kd_scale: float | None) -> None:
    step = make_step()
    c = TimaConfig(
        w_tam=0.9, kappa=0.2, m0=0.1, margin_sign=sign, w_takd=0.5, w_takd_clean=0.7,
        w_mhe=3, w_sc=2, w_iakd=0.25, w_feature=0.1, kd_scale=kd_scale,
    )  # fmt: skip
    cosine_CC = step.text0_CD @ step.text0_CD.T
    off_CC = cosine_CC[~torch.eye(C, dtype=torch.bool)]
    expected = expected_terms(step, c, 0.1 + sign * 0.2 * (cosine_CC - off_CC.min()) / (off_CC.max() - off_CC.min()))
    found = Tima(c).losses(step)
    assert set(found) == set(expected)
    for name, term in found.items():
        assert term.shape == () and term.item() == pytest.approx(expected[name].item(), rel=2e-4), name


@pytest.mark.parametrize("by", ["distance", "constant"])
def test_margin_by(by: Any) -> None:
    step = make_step()
    method = Tima(TimaConfig(margin_by=by, kappa=0.2, m0=0.1))
    margin = method.margin(step)
    assert margin is not None and torch.equal(margin, terms.asam_margin(step.text0_CD, 0.2, 0.1, by=by)[step.label_B])
    assert Tima(TimaConfig(margin_by="constant", m0=0)).margin(step) is None


def test_baselines_are_plain_cross_entropy() -> None:
    step = make_step(teacher=False)
    for method, image in ((TeCoA(), step.adv_BCHW), (FtClean(), step.image_BCHW)):
        image_BD = F.normalize(image.flatten(1) @ step.student.weight, dim=-1)
        expected = F.cross_entropy(20 * image_BD @ step.text0_CD.T, step.label_B)
        found = method.losses(step)
        assert list(found) == ["ce"] and found["ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert TeCoA.adversarial and not FtClean.adversarial
    assert not TeCoA().needs_teacher and TeCoA().text_tower == "none"


# limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Tima(TimaConfig(**off(m0=0))), TimaV1(TimaV1Config(**off()))], ids=["tima", "tima-v1"])
def test_all_weights_and_margins_zero_is_tecoa_bit_for_bit(method: Method) -> None:
    losses, gradients = [], []
    for m in (method, TeCoA()):
        step = make_step(teacher=False, same_texts=True, text_trains=False)
        (loss,) = m.losses(step).values()
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, step.student.weight)[0])
    assert torch.equal(losses[0], losses[1]) and torch.equal(gradients[0], gradients[1])
    assert not method.needs_teacher


def test_a_zero_margin_matrix_is_tecoa_bit_for_bit_too() -> None:
    step = make_step()
    arguments = step.adv_BD, step.text_CD, step.label_B, step.scale
    assert torch.equal(terms.margin_ce(*arguments, torch.zeros(B, C)), terms.margin_ce(*arguments))


@pytest.mark.parametrize("method", [Tima, TimaV1])
def test_text_tower_none_switches_the_text_half_off(method: Any) -> None:
    step = make_step(text_trains=False, same_texts=True)
    m = method(method.Config(text_tower="none"))
    assert set(m.losses(step)) == {"tam", "takd"}
    only_iakd = method(method.Config(**off(w_iakd=1), text_tower="none"))
    assert not only_iakd.needs_teacher and list(only_iakd.losses(make_step(teacher=False, text_trains=False))) == ["tam"]
    assert not terms.mhe(step.text_CD).requires_grad  # what was left out was a constant
    torch.stack(list(m.losses(step).values())).sum().backward()
    assert step.text_CD.grad is None and step.text0_CD.grad is None


# gradients --------------------------------------------------------------------------------------------------------


def gradient(term: Tensor, wrt: Tensor) -> Tensor | None:
    return torch.autograd.grad(term, wrt, retain_graph=True, allow_unused=True)[0]


def test_which_term_trains_which_tower() -> None:
    step = make_step()
    found = Tima(TimaConfig(w_takd_clean=1, w_feature=1)).losses(step)
    trains_image = {n for n, term in found.items() if gradient(term, step.student.weight) is not None}
    trains_text = {n for n, term in found.items() if gradient(term, step.text_CD) is not None}
    assert trains_image == {"tam", "takd", "takd_clean", "feature"}
    assert trains_text == {"tam", "mhe", "sc", "iakd"}
    total = torch.stack(list(found.values())).sum()
    assert gradient(total, step.teacher.weight) is None and gradient(total, step.teacher.log_scale) is None
    assert gradient(total, step.student.log_scale) is None  # s is frozen


def test_no_gradient_through_the_margin() -> None:
    step = make_step()
    found = TimaV1(TimaV1Config(kappa=0.2)).losses(step)["tam"]
    margin_BC = terms.tam_margin(step.text_CD, 0.2, step.label_B)
    expected = terms.margin_ce(step.adv_BD, step.text_CD, step.label_B, step.scale, margin_BC.detach())
    through = terms.margin_ce(step.adv_BD, step.text_CD, step.label_B, step.scale, margin_BC)
    assert torch.equal(gradient(found, step.text_CD), gradient(expected, step.text_CD))  # type: ignore[arg-type]
    assert not torch.allclose(gradient(found, step.text_CD), gradient(through, step.text_CD))  # type: ignore[arg-type]


# cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_term_of_weight_zero_is_not_computed(weight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = WEIGHTS[weight]
    everything: dict[str, Any] = {"w_takd_clean": 1.0, "w_feature": 1.0}
    assert name in Tima(TimaConfig(**everything)).losses(make_step())
    calls: list[Tensor] = []
    function = FUNCTIONS.get(name, name)
    original: Callable[..., Tensor] = getattr(terms, function)

    def counted(*args: Any) -> Tensor:
        calls.append(args[1])
        return original(*args)

    monkeypatch.setattr(terms, function, counted)
    step = make_step()
    found = Tima(TimaConfig(**everything | {weight: 0.0})).losses(step)
    assert set(found) == set(WEIGHTS.values()) - ({"mhe", "sc"} if weight == "w_mhe" else {name})
    # TAKD is called once for the image that is left, the others not at all
    assert len(calls) == (1 if function == "takd" else 0)
    if function == "takd":
        assert calls[0] is (step.clean_BD if name == "takd" else step.adv_BD)


@pytest.mark.parametrize(
    ("settings", "student", "teacher"),
    [
        ({}, ["adv"], 1),
        ({"w_takd_clean": 1}, ["adv", "clean"], 1),
        ({"w_takd_clean": 1, "w_feature": 1}, ["adv", "clean"], 1),
        ({"w_takd": 0, "w_takd_clean": 1, "w_tam": 0}, ["clean"], 1),
        ({"w_takd": 0, "w_iakd": 0}, ["adv"], 0),
        ({"w_takd": 0, "w_iakd": 1, "text_tower": "none"}, ["adv"], 0),
        ({"w_takd": 0, "w_iakd": 0, "w_feature": 1}, ["adv"], 1),
    ],
)
def test_towers_run_only_when_used_and_once(settings: dict[str, Any], student: list[str], teacher: int) -> None:
    step = make_step()
    method = Tima(TimaConfig(**settings))
    method.losses(step)
    names = ["adv" if image is step.adv_BCHW else "clean" for image in step.student.seen]
    assert sorted(names) == student
    assert len(step.teacher.seen) == teacher and all(image is step.image_BCHW for image in step.teacher.seen)
    assert method.needs_teacher == bool(teacher)


def test_without_attack_one_forward_pass_serves_both_names() -> None:
    step = make_step(teacher=False, attacked=False)
    FtClean().losses(step)
    assert step.adv_BD is not None and len(step.student.seen) == 1 and torch.equal(step.adv_BD, step.clean_BD)


def test_a_step_without_teacher_says_so() -> None:
    with pytest.raises(TrainingError, match="no teacher"):
        Tima().losses(make_step(teacher=False))


# the attack -------------------------------------------------------------------------------------------------------


# those that attack another loss or other anchors are in test_baselines.py
PLAIN_ATTACK = [m for name, m in METHODS.items() if name not in ("fare", "laat", "agft", "trades", "advflyp")]


@pytest.mark.parametrize("method", PLAIN_ATTACK, ids=lambda m: m.name)
def test_the_attack_sees_the_texts_detached_and_no_margin(method: type[Method]) -> None:
    step = make_step()
    m = method()
    assert m.attack_loss == "ce"
    image = step.image_BCHW.clone().requires_grad_()
    logits = m.attack_output(step.student, step.text_CD)(image)
    assert torch.allclose(logits, 20 * F.normalize(image.flatten(1) @ step.student.weight, dim=-1) @ step.text_CD.T, atol=1e-5)
    assert gradient(logits.sum(), step.text_CD) is None
    pixels = gradient(F.cross_entropy(logits, step.label_B), image)
    assert pixels is not None and pixels.abs().sum() > 0


# with real towers -------------------------------------------------------------------------------------------------


def test_the_attacks_logits_are_fp32_under_autocast(tiny_clip: Any) -> None:
    pixels, text_CD = torch.rand(2, 3, 16, 16), tiny_clip.encode_text(["cat", "dog"])
    with torch.autocast("cpu", torch.bfloat16):
        logits = Tima().attack_output(tiny_clip, text_CD)(pixels)
        image_BD = tiny_clip.encode_image(pixels)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, tiny_clip.logit_scale * (image_BD @ text_CD.T))  # no bf16 product in between


@pytest.mark.parametrize("tower", ["full", "projection", "none"])
def test_what_trains(tiny_clip: Any, tower: Any) -> None:
    names = set(Tima(TimaConfig(text_tower=tower)).trainable(tiny_clip))
    image = set(tiny_clip.image_parameters())
    assert names == image | set(tiny_clip.text_parameters(tower))
    assert (len(names) == len(image)) == (tower == "none") and "logit_scale" not in names
    assert set(TeCoA().trainable(tiny_clip)) == set(FtClean().trainable(tiny_clip)) == image


@pytest.mark.parametrize("method", [Tima, TimaV1])
def test_a_few_steps_on_real_towers_lower_the_loss(tiny_clip: Any, tokenizer: Any, method: type[TimaV1]) -> None:
    from conftest import build_tiny_clip

    teacher = build_tiny_clip(tokenizer).requires_grad_(False)
    m = method()
    names = ["cat", "dog", "tree", "boat"]
    tiny_clip.requires_grad_(False)
    params = {n: p.requires_grad_(True) for n, p in m.trainable(tiny_clip).items()}
    optimizer = torch.optim.SGD(params.values(), lr=0.003)
    image, label = torch.rand(4, 3, 16, 16), torch.arange(4)
    with torch.no_grad():
        text0 = encode_classes(teacher, names)
    history: list[float] = []
    for _ in range(6):
        text = encode_classes(tiny_clip, names)
        output = m.attack_output(tiny_clip, text)
        adv = pgd(output, image, label, 2 / 255, steps=2, generator=torch.Generator().manual_seed(0))
        step = Step(tiny_clip, teacher, image, adv, label, text, text0)
        loss = torch.stack(list(m.losses(step).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]
    assert all(p.grad is not None for p in params.values())
    assert all(p.grad is None for p in teacher.parameters()) and tiny_clip.backbone.logit_scale.grad is None
