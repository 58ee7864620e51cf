"""What an evaluation is given: any classifier, any grid, and input that cannot be meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, png
from evaluating import agreeing_set, counts, protocol_for
from PIL import Image
from torch import Tensor, nn

from tima.errors import DataError, EpsError, ModelError, RecipeError, ResultError, TimaError
from tima.evaluate import evaluate, evaluate_classifier
from tima.evaluation.attack import store_8bit
from tima.evaluation.grid import Resized, shared_side
from tima.models import ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder
from tima.results import load_sidecar, result_path


def linear(seed: int = 0, classes: int = 4) -> nn.Module:
    """A classifier that is nobody's dual encoder: one linear map of 3 x 8 x 8 pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))


def picture_tensors(model: Any, n: int = 12) -> tuple[Tensor, Tensor]:
    image = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return image, model(image).argmax(1)


# any classifier -----------------------------------------------------------------------------------------------------


def test_a_linear_classifier_is_broken_exactly_where_its_margin_says(tmp_path: Path) -> None:
    """For a linear map of two classes the smallest l_inf perturbation is |margin| / |w|_1 (away from the borders of [0, 1])."""
    model = linear(classes=2).double().float()
    image = 0.3 + 0.4 * torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(image)
    label = logits.argmax(1)
    weight = (model[1].weight[0] - model[1].weight[1]).detach().abs().sum()
    distance = (logits[:, 0] - logits[:, 1]).abs() / weight
    eps = float(distance.sort().values[[14, 15]].mean())
    protocol = protocol_for(eps=repr(eps), attack_params={"steps": 10})
    result = evaluate_classifier(
        model, (image, label), protocol, name="linear", data_name="noise", out=tmp_path, progress=False
    )
    arrays = load_sidecar(result_path(tmp_path, "noise", protocol))
    assert arrays["robust_EN"][0].tolist() == (distance > eps).tolist()
    assert counts(result) == [40, 25]
    assert (result.class_names, result.templates, result.model, result.grid) == (["0", "1"], [], "linear", 8)
    torch.testing.assert_close(arrays["margin_EN"][0], (logits[:, 0] - logits[:, 1]).abs())
    closest = (distance - eps) * weight  # what a full step along the gradient leaves of the margin
    standing = arrays["robust_EN"][0]
    torch.testing.assert_close(arrays["margin_EN"][1][standing], closest[standing], atol=1e-4, rtol=0)


def test_a_module_is_told_apart_by_its_weights_and_a_function_by_its_word(tmp_path: Path) -> None:
    one, other = linear(0), linear(1)
    data, protocol = picture_tensors(one), protocol_for(eps="1/255")
    words: dict[str, Any] = {"name": "m", "out": tmp_path, "progress": False}
    evaluate_classifier(one.train(), data, protocol, **words)
    assert one.training
    with pytest.raises(ResultError, match="another checkpoint"):
        evaluate_classifier(other, data, protocol, **words)
    with pytest.raises(RecipeError, match="checkpoint="):
        evaluate_classifier(lambda x: one(x), data, protocol, **words)
    by_word = {**words, "data_name": "again"}
    first = evaluate_classifier(lambda x: one(x), data, protocol, checkpoint="v1", **by_word)
    assert evaluate_classifier(lambda x: one(x), data, protocol, checkpoint="v1", **by_word) == first
    with pytest.raises(ResultError, match="another checkpoint"):
        evaluate_classifier(lambda x: one(x), data, protocol, checkpoint="v2", **by_word)


def test_a_defence_without_weights_is_another_model(tmp_path: Path) -> None:
    """The old numbers must not be taken for those of fewer bits, though all weights are the same."""

    class Rounded(nn.Module):
        def __init__(self, inner: nn.Module, bits: int) -> None:
            super().__init__()
            self.inner, self.bits = inner, bits

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x * 2**self.bits).round() / 2**self.bits)

    inner, protocol = linear(), protocol_for(eps="1/255")
    words: dict[str, Any] = {"name": "m", "out": tmp_path, "progress": False}
    first = evaluate_classifier(Rounded(inner, 3), picture_tensors(inner), protocol, **words)
    assert evaluate_classifier(Rounded(inner, 3).train(), picture_tensors(inner), protocol, **words) == first
    with pytest.raises(ResultError, match="another checkpoint"):
        evaluate_classifier(Rounded(inner, 2), picture_tensors(inner), protocol, **words)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image, label: ((image * 255).byte(), label), "torch.uint8 images.*Divide uint8"),
        (lambda image, label: (image * 255, label), r"reaches from .*must be in \[0, 1\]"),
        (lambda image, label: (image.index_fill(0, torch.tensor([0]), torch.nan), label), r"must be in \[0, 1\]"),
        (lambda image, label: (image[0], label), "N x C x H x W"),
        (lambda image, label: (image, label[:-1]), "12 images, labels"),
        (lambda image, label: (image, label.float()), "one whole number a label"),
        (lambda image, label: (image, label + 4), "there are 4 classes"),
    ],
)
def test_images_and_labels_that_cannot_be_meant(spoil: Any, message: str) -> None:
    model = linear()
    with pytest.raises(DataError, match=message):
        evaluate_classifier(model, spoil(*picture_tensors(model)), protocol_for(), name="m", progress=False)


def test_images_in_memory_that_have_changed_are_not_taken_for_those_attacked_before(tmp_path: Path) -> None:
    """Same labels, same weights, other pixels: the stored numbers are not theirs."""
    model, protocol = linear(), protocol_for(eps="1/255")
    image, label = picture_tensors(model)
    words: dict[str, Any] = {"name": "m", "out": tmp_path, "progress": False}
    first = evaluate_classifier(model, (image, label), protocol, **words)
    assert first.images_sha256 is not None and len(first.images_sha256) == 64
    assert evaluate_classifier(model, (image.double(), label), protocol, **words) == first  # the attack sees fp32
    other = image.clone()
    other[5, 0, 0, 0] = 1 - other[5, 0, 0, 0]
    with pytest.raises(DataError, match="other images than 'images' has now"):
        evaluate_classifier(model, (other, label), protocol, **words)


def test_class_names_that_do_not_match() -> None:
    model = linear()
    data = picture_tensors(model)
    with pytest.raises(DataError, match="The model gives 4 logits an image, but 'images' has 5 class names"):
        evaluate_classifier(model, data, protocol_for(), name="m", class_names=list("abcde"), progress=False)
    with pytest.raises(DataError, match="given twice"):
        evaluate_classifier(model, data, protocol_for(), name="m", class_names=list("abca"), progress=False)


def test_answers_that_are_no_logits() -> None:
    data = picture_tensors(linear())
    with pytest.raises(ModelError, match=r"must return logits B x C; .* \(1, 2, 2\)"):
        evaluate_classifier(lambda x: x.mean(1)[:, :2, :2], data, protocol_for(), name="m", progress=False)
    with pytest.raises(ModelError, match="NaN or infinite logits on 'images'"):
        evaluate_classifier(lambda x: linear()(x) * torch.nan, data, protocol_for(), name="m", progress=False)


def test_logits_that_become_nan_under_attack_lose_nothing(tmp_path: Path) -> None:
    model = linear()
    data, protocol = picture_tensors(model), protocol_for(eps="1/1020,8/255")
    clean = data[0]

    def fragile(x: Tensor) -> Tensor:
        far = max(float((image - clean).abs().amax((1, 2, 3)).amin()) for image in x.detach()) > 2 / 255
        return model(x) * (torch.nan if far else 1)

    words: dict[str, Any] = {"name": "m", "checkpoint": "1", "out": tmp_path, "progress": False}
    with pytest.raises(ModelError, match="NaN"):
        evaluate_classifier(fragile, data, protocol, **words)
    mended = evaluate_classifier(model.forward, data, protocol, **words)
    assert counts(mended) == counts(evaluate_classifier(model, data, protocol, name="m", progress=False))


@pytest.mark.parametrize("eps", ["0", "-1/255"])
def test_eps_must_be_above_zero(eps: str) -> None:
    with pytest.raises((EpsError, RecipeError), match=r"no attack|negative"):
        protocol_for(eps=eps)


def test_batch_size_must_be_one_at_least() -> None:
    model = linear()
    with pytest.raises(TimaError, match="batch_size 0"):
        evaluate_classifier(model, picture_tensors(model), protocol_for(), name="m", batch_size=0, progress=False)


# health -------------------------------------------------------------------------------------------------------------


def test_a_model_that_changes_its_answer_is_called_random() -> None:
    model = linear()
    data, protocol = picture_tensors(model), protocol_for(eps="1/255", health_probe=4)

    def noisy(x: Tensor) -> Tensor:
        return model(x) + 0.05 * torch.randn(len(x), 4)

    random = evaluate_classifier(noisy, data, protocol, name="m", progress=False)
    assert random.repeat_difference is not None and random.repeat_difference > 0.01
    health = random.robust[0].health
    assert health is not None and health.verdict == "suspicious"
    assert any("random" in reason and "rand" in reason for reason in health.reasons)
    sound = evaluate_classifier(model, data, protocol, name="m", progress=False)
    assert sound.repeat_difference == 0
    assert sound.robust[0].health is not None and not any("random" in why for why in sound.robust[0].health.reasons)


def test_health_gets_what_the_evaluation_found(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.results import Health

    calls: list[dict[str, Any]] = []

    def assess(logits_fn, image, label, eps, **words):  # type: ignore[no-untyped-def]
        answer = logits_fn(words["adversarial_BCHW"]).argmax(1)
        calls.append({"right": (answer == label).tolist(), "label": label, "eps": eps, "image": image, **words})
        return Health(verdict="reliable", probe_n=len(image))

    monkeypatch.setattr("tima.health.assess", assess)
    data = agreeing_set(tiny_clip)
    reference = build_tiny_clip(tiny_clip.tokenizer, seed=3)
    result = evaluate(tiny_clip, data, protocol_for(health_probe=10), reference=reference, progress=False)
    assert [call["eps"] for call in calls] == [row.eps for row in result.robust]
    for row, call in zip(result.robust, calls, strict=True):
        assert row.health is not None and row.health.probe_n == 10
        assert call["right"] == call["robust_B"].tolist()  # kept adversarial images show what was counted
        assert float((call["adversarial_BCHW"] - call["image"]).abs().max()) <= row.eps
        assert (call["norm"], call["classes"], call["standing_n"]) == ("l_inf", 6, row.n - row.already_broken)
        assert call["gradients"].images == row.backwards
        assert call["attack_fn"] is None and call["logit_scale"] == pytest.approx(float(tiny_clip.logit_scale))
        expected = ZeroShotClassifier(reference, data.class_names)(call["image"])
        torch.testing.assert_close(call["reference"](call["image"]), expected)
    assert evaluate(tiny_clip, data, protocol_for(), progress=False).robust[0].health is None


# the grid of eps ----------------------------------------------------------------------------------------------------


def test_one_square_size_is_found_and_others_are_not() -> None:
    images = make_image_set(6, size=20)
    assert shared_side(images) == 20
    read = images.read
    one_larger = png(np.zeros((21, 21, 3), dtype=np.uint8))
    images.read = lambda i: one_larger if i == 4 else read(i)
    assert shared_side(images) is None
    images.read = lambda i: b"damaged" if i == 4 else read(i)
    assert shared_side(images) == 20
    images.read = lambda i: png(np.zeros((20, 30, 3), dtype=np.uint8))
    assert shared_side(images) is None


@pytest.mark.parametrize(("own", "side"), [(8, 24), (24, 10)])
def test_resizing_is_pils_without_rounding(own: int, side: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (own, own, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    resized = Resized(lambda x: x, side)(image)
    assert float((resized[0].permute(1, 2, 0) * 255 - torch.from_numpy(expected.copy())).abs().max()) <= 1.5  # PIL rounds twice
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(Resized(lambda x: x, side)(image).sum(), image)
    assert float((gradient != 0).float().mean()) > 0.5


def test_eps_on_the_pictures_own_pixels(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data = agreeing_set(tiny_clip, size=8)
    results = {}
    for grid in ("data set", "model input"):
        protocol = protocol_for(pixel_grid=grid)
        results[grid] = evaluate(tiny_clip, data, protocol, out=tmp_path, gallery=4, progress=False)
        adv = load_sidecar(result_path(tmp_path, "toy", protocol))["gallery_adv"]
        assert adv.shape[-1] == results[grid].grid == {"data set": 8, "model input": 16}[grid]
    # on the small grid neighbouring pixels of the model's input cannot move apart: a weaker attacker
    assert sum(counts(results["data set"])[1:]) > sum(counts(results["model input"])[1:])
    mixed = agreeing_set(tiny_clip, 6)
    assert evaluate(tiny_clip, mixed, protocol_for(pixel_grid="data set"), progress=False).grid == 16


# 8 bits -------------------------------------------------------------------------------------------------------------


def test_8_bit_storage_stays_within_eps() -> None:
    image = torch.randint(0, 256, (3, 3, 6, 6), generator=torch.Generator().manual_seed(0)) / 255
    eps = 1.5 / 255
    stored = store_8bit((image + eps * torch.randn(image.shape).sign()).clamp(0, 1), image, eps, "l_inf")
    assert torch.equal((stored * 255).round(), stored * 255)
    moved = ((stored - image) * 255).round().abs()
    assert set(moved.unique().tolist()) == {0, 1}  # two levels would be more than eps


def test_below_half_a_level_nothing_survives_8_bits(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for(eps="0.4/255,3/255", adversarial_8bit=True)
    result = evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    small, large = result.robust
    assert small.attacks[0].broken > 0 and small.broken_8bit == 0
    assert large.broken_8bit is not None and 0 < large.broken_8bit <= large.attacks[0].broken
    assert arrays["broken_8bit_EN"].sum(1).tolist() == [0, large.broken_8bit]
    assert not bool((arrays["broken_8bit_EN"] & arrays["robust_EN"]).any())
    assert evaluate(tiny_clip, data, protocol_for(), progress=False).robust[0].broken_8bit is None
