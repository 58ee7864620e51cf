"""The baselines' losses against the published formulas in NumPy float64, and where their gradients may flow.

Embeddings are fixed numbers; the formulas are spelled out with exponentials, sums and logarithms only.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from test_methods import make_step
from torch import Tensor

from tima.config import train_recipe
from tima.methods import METHODS
from tima.methods.agft import Agft, AgftConfig
from tima.methods.baseline_terms import boosted_ce, expand_texts, kl_both
from tima.methods.fare import Fare
from tima.methods.ft_adv import FtAdv, FtAdvConfig
from tima.methods.laat import Laat, LaatConfig
from tima.methods.mart import Mart, MartConfig
from tima.methods.pmg_aft import PmgAft, PmgAftConfig
from tima.methods.trades import Trades, TradesConfig
from tima.train import train

S = 20.0  # the stub's logit scale


def arrays(step: Any) -> dict[str, Any]:
    """Every embedding of the step, computed in float64 NumPy from the stubs' weights."""

    def raw(model: Any, image: Tensor) -> np.ndarray:
        return image.flatten(1).double().numpy() @ model.weight.detach().double().numpy()

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).sum(1, keepdims=True))

    found = {
        "a": raw(step.student, step.adv_BCHW),
        "v": raw(step.student, step.image_BCHW),
        "v0": raw(step.teacher, step.image_BCHW),
        "a0": raw(step.teacher, step.adv_BCHW),
    }
    found |= {f"{name}n": unit(value) for name, value in found.items()}
    return found | {"t0": step.text0_CD.double().numpy(), "y": step.label_B.numpy()}


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * (np.log(p) - np.log(q))).sum(1)


def check(found: dict[str, Tensor], expected: dict[str, float]) -> None:
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=2e-5)


def test_fare() -> None:
    step = make_step()
    n = arrays(step)
    check(Fare().losses(step), {"feature": ((n["a"] - n["v0"]) ** 2).sum(1).mean()})
    target = Fare().attack_target(step)
    assert np.allclose(target.numpy(), n["v0"], rtol=1e-5) and not target.requires_grad
    output = Fare().attack_output(step.student, step.text_CD)(step.image_BCHW)
    assert np.allclose(output.detach().numpy(), n["v"], rtol=1e-5), "un-normalised, and no class text in it"


def test_pmg_aft() -> None:
    step = make_step()
    n = arrays(step)
    p_adv, p_clean, p0_adv = (softmax(S * n[name] @ n["t0"].T) for name in ("an", "vn", "a0n"))
    found = PmgAft(PmgAftConfig(w_teacher=0.5, w_clean=2)).losses(step)
    ce = -np.log(p_adv[range(4), n["y"]]).mean()
    check(found, {"ce": ce, "teacher": 0.5 * kl(p0_adv, p_adv).mean(), "clean": 2 * kl(p_clean, p_adv).mean()})
    found["teacher"].backward()
    assert step.teacher.weight.grad is None and float(step.student.weight.grad.abs().sum()) > 0


def test_trades() -> None:
    step = make_step(teacher=False)
    n = arrays(replace(step, teacher=make_step().teacher))
    p_adv, p_clean = (softmax(S * n[name] @ n["t0"].T) for name in ("an", "vn"))
    found = Trades(TradesConfig(beta=3)).losses(step)
    check(found, {"ce": -np.log(p_clean[range(4), n["y"]]).mean(), "kl": 3 * kl(p_clean, p_adv).mean()})
    target = Trades().attack_target(step)
    assert np.allclose(target.numpy(), S * n["vn"] @ n["t0"].T, rtol=1e-4, atol=1e-5) and not target.requires_grad
    assert Trades().attack_loss == "kl"


def test_mart() -> None:
    step = make_step(teacher=False)
    n = arrays(replace(step, teacher=make_step().teacher))
    p_adv, p_clean = (softmax(S * n[name] @ n["t0"].T) for name in ("an", "vn"))
    rows = range(4)
    others = p_adv.copy()
    others[rows, n["y"]] = -1
    bce = -np.log(p_adv[rows, n["y"]]) - np.log(1 - others.max(1))
    expected = {"bce": bce.mean(), "kl": 5 * (kl(p_clean, p_adv) * (1 - p_clean[rows, n["y"]])).mean()}
    check(Mart(MartConfig()).losses(step), expected)


def test_the_boosted_cross_entropy_stays_finite_where_a_wrong_class_has_all_the_probability() -> None:
    image_BD, text_CD = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = boosted_ce(image_BD, text_CD, torch.tensor([1]), 100.0)
    assert float(loss) == pytest.approx(400, rel=1e-6)  # -log p_y = 200, and 1 - p_wrong = p_y: 200 again


def test_agft() -> None:
    step = make_step()
    n = arrays(step)
    target, log_p = softmax(0.3 * 50 * n["v0n"] @ n["t0"].T), np.log(softmax(50 * n["an"] @ n["t0"].T))
    method = Agft(AgftConfig(scale=50, soften=0.3))
    check(method.losses(step), {"soft_ce": -(target * log_p).sum(1).mean()})
    assert np.allclose(method.attack_target(step).numpy(), target, atol=1e-6)
    output = method.attack_output(step.student, step.text0_CD)(step.image_BCHW)
    assert np.allclose(output.detach().numpy(), 50 * n["vn"] @ n["t0"].T, atol=1e-4)
    assert (Agft().config.scale, Agft().config.soften) == (180, 0.4)


def test_laat() -> None:
    step = make_step(teacher=False)
    n = arrays(replace(step, teacher=make_step().teacher))
    anchor = expand_texts(step.text0_CD).double().numpy()
    p = softmax(S * n["an"] @ anchor.T)
    expected = {"ce": -np.log(p[range(4), n["y"]]).mean(), "smooth": -0.5 * (n["vn"] * n["an"]).sum(1).mean()}
    method = Laat(LaatConfig(beta=0.5))
    check(method.losses(step), expected)
    output = method.attack_output(step.student, step.text0_CD)(step.image_BCHW)
    assert np.allclose(output.detach().numpy(), S * n["vn"] @ anchor.T, atol=1e-4), "the attack sees the anchors too"


def test_expansion_by_a_rotation_to_the_pole() -> None:
    """The paper's way: turn the mean to the pole, scale the polar angles, turn back."""
    generator = torch.Generator().manual_seed(3)
    text = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator).double() * 0.3 + torch.ones(5).double(), dim=-1)
    mean = (text.mean(0) / text.mean(0).norm()).numpy()
    pole = np.eye(5)[-1]
    u = (mean - pole) / np.linalg.norm(mean - pole)
    turn = np.eye(5) - 2 * np.outer(u, u)  # a reflection that exchanges mean and pole, its own inverse
    turned = text.numpy() @ turn
    angle = np.arccos(turned[:, -1])
    wide = angle * (np.pi / 2) / angle.max()
    rest = turned[:, :-1] / np.sin(angle)[:, None]
    expected = np.concatenate([np.sin(wide)[:, None] * rest, np.cos(wide)[:, None]], axis=1) @ turn
    found = expand_texts(text)
    assert np.allclose(found.numpy(), expected, atol=1e-10)
    assert float((found @ torch.from_numpy(mean)).min()) == pytest.approx(0, abs=1e-10), "the widest lies at a right angle"
    same = torch.nn.functional.normalize(torch.ones(4, 5), dim=-1)
    torch.testing.assert_close(expand_texts(same), same)


def test_the_kl_between_two_predictions_sends_gradients_into_both() -> None:
    first, second = (torch.randn(3, 4, generator=torch.Generator().manual_seed(i)).double().requires_grad_() for i in (1, 2))
    text = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(3)).double(), dim=-1)
    assert torch.autograd.gradcheck(lambda p, q: kl_both(p, q, text, 2.0), (first, second))
    kl_both(first, second, text, 2.0).backward()
    assert first.grad is not None and second.grad is not None
    assert float(first.grad.abs().sum()) > 0 and float(second.grad.abs().sum()) > 0


def test_ft_adv_starts_at_the_zero_shot_head_and_trains_it() -> None:
    step = make_step(teacher=False)
    method = FtAdv()
    own = method.prepare(step.text0_CD, step.scale)
    zero_shot = FtAdv(FtAdvConfig(head=False))
    assert zero_shot.prepare(step.text0_CD, step.scale) == {}
    torch.testing.assert_close(method.losses(step), zero_shot.losses(step))
    image = step.image_BCHW
    at_start, plain = (m.attack_output(step.student, step.text0_CD)(image) for m in (method, zero_shot))
    torch.testing.assert_close(at_start, plain)
    method.losses(step)["ce"].backward()
    assert own["head"].grad is not None and float(own["head"].grad.abs().sum()) > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_the_trainer(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """Two steps from a folder of pictures: what should train moves, what should not stays, bit for bit."""
    from tima.models import load_model

    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "clip")
    write_image_folder(make_image_set(24, 4), tmp_path / "toy" / "train")
    fields: dict[str, Any] = {"val_every": 2, "val_samples": 8, "held_out_classes": 0.25, "precision": "fp32", "workers": 0}
    recipe = train_recipe(
        None,
        (),
        method=name,
        model=str(tmp_path / "clip"),
        data=str(tmp_path / "toy"),
        steps=2,
        batch_size=6,
        lr=1e-3,
        **fields,
    )
    train(recipe, tmp_path / "run", progress=False)
    before, after = (load_model(place) for place in (tmp_path / "clip", tmp_path / "run"))
    moved = {
        part: any(
            not torch.equal(p, after.backbone.get_parameter(key)) for key, p in getattr(before, f"{part}_parameters")().items()
        )
        for part in ("image", "text")
    }
    assert moved == {"image": name != "zero-shot", "text": name in ("tima", "tima-v1")}
    train(recipe, tmp_path / "run", progress=False)  # complete: left as it is
