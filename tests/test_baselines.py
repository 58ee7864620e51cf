"""The baselines' losses against the published formulas in NumPy float64, and where their gradients may flow.

Embeddings are fixed numbers; the formulas are spelled out with exponentials, sums and logarithms only.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from test_methods import D, Encoder, make_step
from torch import Tensor, nn

from tima.attacks import pgd
from tima.config import recipes_folder, train_recipe
from tima.errors import TrainingError
from tima.methods import METHODS
from tima.methods.advflyp import AdvFlyp, AdvFlypConfig
from tima.methods.agft import Agft, AgftConfig
from tima.methods.baseline_terms import attention_map, boosted_ce, contrastive_rows, expand_texts, kl_both
from tima.methods.comp_tga import CompTga, CompTgaConfig
from tima.methods.fare import Fare
from tima.methods.ft_adv import FtAdv, FtAdvConfig
from tima.methods.laat import Laat, LaatConfig
from tima.methods.mart import Mart, MartConfig
from tima.methods.pmg_aft import PmgAft, PmgAftConfig
from tima.methods.tga_zsr import TgaZsr, TgaZsrConfig
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


# attention ----------------------------------------------------------------------------------------------------------


class PatchEncoder(Encoder):
    """A stub whose image is a 2 x 2 grid of patches of 2 x 2 pixels, each through one linear map."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.patch = nn.Parameter(torch.randn(12, D, generator=torch.Generator().manual_seed(seed + 50)))
        self.passes = 0

    def encode_patches(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += 1
        cells = image_BCHW.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(image_BCHW), 4, 12)
        return image_BCHW.flatten(1) @ self.weight, cells @ self.patch


def patch_step() -> Any:
    step = make_step()
    return replace(step, student=PatchEncoder(1), teacher=PatchEncoder(2), extra_CD={"negative": step.text0_CD.roll(1, 0)})


def enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, pixel centres at halves: the slow way, one pixel after the other."""
    side, out = len(grid), np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = (min(max((k + 0.5) * side / size - 0.5, 0), side - 1) for k in (i, j))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
            top = grid[y0, x0] * (1 - x + x0) + grid[y0, x1] * (x - x0)
            low = grid[y1, x0] * (1 - x + x0) + grid[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


def maps(model: PatchEncoder, image: Tensor, text_BD: np.ndarray, over: str) -> np.ndarray:
    """`B x P` in float64, written out."""
    first, patches = (t.detach().double().numpy() for t in model.encode_patches(image))
    found = []
    for b in range(len(image)):
        if over == "channels":
            unit = patches[b] / np.linalg.norm(patches[b], axis=1, keepdims=True)
        else:
            unit = patches[b] / np.linalg.norm(np.vstack([first[b], patches[b]]), axis=0)
        score = unit @ text_BD[b]
        found.append(enlarge(((score - score.min()) / (score.max() - score.min())).reshape(2, 2), 4).ravel())
    return np.stack(found)


@pytest.mark.parametrize("over", ["channels", "tokens"])
def test_tga_zsr(over: str) -> None:
    step = patch_step()
    text = step.text0_CD.double().numpy()[step.label_B.numpy()]
    found = TgaZsr(TgaZsrConfig(w_refine=0.5, w_constrain=2, normalize=over)).losses(step)
    assert (step.student.passes, step.teacher.passes, len(step.student.seen)) == (2, 1, 0), "one pass an image, class token too"
    adv, clean, fixed = (
        maps(model, image, text, over)
        for model, image in ((step.student, step.adv_BCHW), (step.student, step.image_BCHW), (step.teacher, step.image_BCHW))
    )
    p_adv = softmax(S * arrays(step)["an"] @ step.text0_CD.double().numpy().T)
    expected = {
        "ce": -np.log(p_adv[range(4), step.label_B.numpy()]).mean(),
        "refine": 0.5 * np.sqrt(((adv - fixed) ** 2).sum(1)).mean(),
        "constrain": 2 * np.sqrt(((clean - fixed) ** 2).sum(1)).mean(),
    }
    check(found, expected)
    (found["refine"] + found["constrain"]).backward()
    assert step.teacher.patch.grad is None and float(step.student.patch.grad.abs().sum()) > 0


def test_comp_tga_multiplies_by_what_the_denial_leaves() -> None:
    step = patch_step()
    label = step.label_B.numpy()
    text, denial = (t.double().numpy()[label] for t in (step.text0_CD, step.extra_CD["negative"]))
    found = CompTga(CompTgaConfig(w_refine=1, w_constrain=0)).losses(step)
    adv, fixed = (
        maps(model, image, text, "channels") * (1 - maps(model, image, denial, "channels"))
        for model, image in ((step.student, step.adv_BCHW), (step.teacher, step.image_BCHW))
    )
    assert set(found) == {"ce", "refine"}, "a weight of 0 costs nothing"
    assert float(found["refine"].detach()) == pytest.approx(np.sqrt(((adv - fixed) ** 2).sum(1)).mean(), rel=2e-5)
    shipped = CompTga().config
    assert (shipped.w_refine, shipped.w_constrain) == (0.10, 0.07) and "not" in shipped.negative
    assert (TgaZsr().config.w_refine, TgaZsr().config.w_constrain) == (0.08, 0.05)


def test_a_map_without_contrast_is_0_and_its_gradient_finite() -> None:
    patch = torch.ones(1, 4, 3, requires_grad=True)
    found = attention_map(torch.ones(1, 3), patch, torch.tensor([[1.0, 0, 0]]), 4)
    assert float(found.detach().abs().max()) == 0
    found.sum().backward()
    assert patch.grad is not None and bool(patch.grad.isfinite().all())


def test_patches_of_clip_lie_on_the_grid_and_share_the_space_of_the_image(tiny_clip: Any) -> None:
    """Without position embeddings, exchanging two patches of the picture exchanges their embeddings and nothing else."""
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        tiny_clip.backbone.vision_model.embeddings.position_embedding.weight.zero_()
        first, patches = tiny_clip.encode_patches(image)
        torch.testing.assert_close(first, tiny_clip.encode_image(image, normalize=False))
        assert patches.shape == (2, 4, 24)
        other = image.clone()
        other[:, :, :8, 8:], other[:, :, 8:, :8] = image[:, :, 8:, :8], image[:, :, :8, 8:]  # row by row: patches 1 and 2
        first_other, exchanged = tiny_clip.encode_patches(other)
    torch.testing.assert_close(first_other, first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exchanged, patches[:, [0, 2, 1, 3]], atol=1e-5, rtol=1e-5)
    assert float((patches[:, 1] - patches[:, 2]).detach().abs().max()) > 1e-3


def test_patches_of_dinov2_towers_and_none_of_others(tokenizer: Any) -> None:
    import transformers as hf

    from tima.errors import ModelError
    from tima.models.hugging_face import HuggingFaceEncoder

    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8)
    text = hf.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    towers = [hf.Dinov2Config(**shape), hf.Dinov2WithRegistersConfig(num_register_tokens=3, **shape), hf.ViTConfig(**shape)]
    for vision in towers:
        config = hf.VisionTextDualEncoderConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=24)
        model = hf.VisionTextDualEncoderModel(config)
        encoder = HuggingFaceEncoder(model, tokenizer, mean=(0.5,) * 3, std=(0.5,) * 3, name="dual")
        if vision.model_type == "vit":
            with pytest.raises(ModelError, match="no patch embeddings"):
                encoder.encode_patches(torch.rand(1, 3, 16, 16))
            continue
        with torch.no_grad():
            first, patches = encoder.encode_patches(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
            same = encoder.encode_image(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), normalize=False)
        torch.testing.assert_close(first, same)
        assert patches.shape == (2, 4, 24)


# captions -----------------------------------------------------------------------------------------------------------

CAPTIONS = ["a cat asleep", "two dogs", "a cat asleep", "boats at noon"]


class Reader(Encoder):
    """A stub whose text tower gives each text a direction of its own, and counts the texts."""

    def encode_text(self, texts: list[str], *, normalize: bool = True) -> Tensor:
        self.read = list(texts)
        seeds = [sum(map(ord, text)) for text in texts]
        rows = torch.stack([torch.randn(D, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return torch.nn.functional.normalize(rows, dim=-1)


def caption_step() -> Any:
    return replace(make_step(), student=Reader(1), captions=CAPTIONS)


@pytest.mark.parametrize("same", ["positives", "negatives"])
def test_advflyp(same: str) -> None:
    step = caption_step()
    n = arrays(step)
    text = step.caption_BD.double().numpy()
    assert step.student.read == ["a cat asleep", "two dogs", "boats at noon"], "each different text once"
    logits = S * n["an"] @ text.T
    rows, columns = np.log(softmax(logits)), np.log(softmax(logits.T))
    right = np.eye(4)
    if same == "positives":
        right = np.array([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1.0]])
    p, p0, p_clean = (softmax(S * n[name] @ text.T) for name in ("an", "a0n", "vn"))
    distance = sum(np.sqrt(((n["an"] - n[name]) ** 2).sum(1)).mean() for name in ("a0n", "vn"))
    expected = {
        "contrastive": -(right * (rows + columns)).sum(1).mean() / 2,
        "feature": 3 * distance,
        "logit": 0.5 * (kl(p, p0).mean() + kl(p, p_clean).mean()),
    }
    method = AdvFlyp(AdvFlypConfig(w_feature=3, w_logit=0.5, same_caption=same))
    found = method.losses(step)
    check(found, expected)
    sum(found.values()).backward()
    assert step.teacher.weight.grad is None and float(step.student.weight.grad.abs().sum()) > 0
    assert (AdvFlyp().config.w_feature, AdvFlyp().config.w_logit) == (1, 1)


def test_the_attack_of_advflyp_climbs_the_contrastive_loss_of_the_batch() -> None:
    step = caption_step()
    method = AdvFlyp()
    output = method.attack_output(step.student, method.attack_texts(step))
    target = method.attack_target(step)

    def loss(image: Tensor) -> float:
        return float(contrastive_rows(output(image), target).detach().sum())

    generator = torch.Generator().manual_seed(0)
    adv = pgd(output, step.image_BCHW, target, 0.05, steps=5, loss=method.attack_loss, keep_best=False, generator=generator)
    noise = (step.image_BCHW + 0.05 * (2 * torch.rand(adv.shape, generator=generator) - 1)).clamp(0, 1)
    assert loss(adv) > loss(step.image_BCHW) + 1 and loss(adv) > loss(noise) + 1
    assert float((adv - step.image_BCHW).abs().max()) <= 0.05 + 1e-7


def test_contrastive_rows_by_hand() -> None:
    """Two pairs; logits (1, 0 / 0, 3): rows give log(1 + e^-1) and log(1 + e^-3), and so do the columns."""
    found = contrastive_rows(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.eye(2))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))])
    skewed = contrastive_rows(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.eye(2))
    assert skewed.tolist() == pytest.approx(  # row 0 sees the 2, column 1 sees it too, column 0 and row 1 do not
        [(math.log(1 + math.exp(2)) + math.log(2)) / 2, (math.log(2) + math.log(1 + math.exp(2))) / 2]
    )


def test_a_step_without_captions_says_so() -> None:
    with pytest.raises(TrainingError, match="needs_captions"):
        _ = make_step().caption_BD


def test_captions_come_from_the_set_or_from_class_names() -> None:
    from tima.train_batch import TrainBatch, captions_of

    images = make_image_set(4, 4)
    index = torch.tensor([2, 0])
    assert captions_of(images, index, ["a {c}."], seed=0) == ["a tree.", "a cat."]
    images.caption_B = ["my cat", " ", "an old tree ", "x"]
    assert captions_of(images, index, ["a {c}."], seed=0) == ["an old tree", "my cat"]
    assert captions_of(images, torch.tensor([1]), ["a {c}."], seed=0) == ["a dog."], "an empty caption is none"
    picked = {captions_of(make_image_set(4, 4), torch.tensor([0]), ["a {c}.", "one {c}."], seed)[0] for seed in range(20)}
    assert picked == {"a cat.", "one cat."}
    batch = TrainBatch(torch.arange(5)[:, None], torch.arange(5), list("abcde"))
    assert [(p.label_B.tolist(), p.captions) for p in batch.parts(2)] == [([0, 1, 2], ["a", "b", "c"]), ([3, 4], ["d", "e"])]


# recipes ------------------------------------------------------------------------------------------------------------

PUBLISHED = sorted(p.stem for p in recipes_folder().glob("*-vit-*.yaml"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_are_valid_and_say_where_they_come_from(name: str) -> None:
    recipe = train_recipe(name)
    method = METHODS[recipe.method]
    method(method.Config(**recipe.method_config))
    header = [line for line in (recipes_folder() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    text = " ".join(line.lstrip("# ") for line in header)
    assert "Source: " in text and "arXiv" in text, "where the settings come from"
    assert "Reported" in text, "the paper's figures, or that they are not stated"
    assert f"tima train --recipe {name} " in text
    warm = round(recipe.warmup * recipe.steps)
    assert warm == pytest.approx(1400 if recipe.optimizer == "adamw" else 1000, abs=2)


# the rest -----------------------------------------------------------------------------------------------------------


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
    assert moved == {"image": name != "zero-shot", "text": name in ("tima", "tima-v1", "tima-plus")}
    train(recipe, tmp_path / "run", progress=False)  # complete: left as it is
