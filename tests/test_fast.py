"""The attack model is the classifier: same logits and gradients; in bf16 it points the same way, and fp32 has the last word."""

import pytest
import torch
from conftest import build_tiny_clip

from tima.attacks import pgd
from tima.errors import ModelError
from tima.models import ZeroShotClassifier
from tima.models.fast import attack_model
from tima.models.fast_compile import CompiledTower, bucket
from tima.models.hugging_face import HuggingFaceEncoder

NAMES = ["cat", "dog", "small tree"]


def logits_and_gradient(logits_fn, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[no-untyped-def]
    x = pixels.clone().requires_grad_()
    logits = logits_fn(x)
    return logits.detach(), torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.zeros(len(x)).long()), x)[0]


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_fp32_is_the_classifier(tokenizer, hidden_act: str) -> None:  # type: ignore[no-untyped-def]
    classifier = ZeroShotClassifier(build_tiny_clip(tokenizer, hidden_act=hidden_act), NAMES)
    fast, pixels = attack_model(classifier), torch.rand(5, 3, 16, 16)
    expected, found = logits_and_gradient(classifier, pixels), logits_and_gradient(fast, pixels)
    assert fast.kind == "lean" and found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5 * float(expected[1].abs().max()), rtol=1e-4)
    assert torch.equal(fast.exact(pixels), classifier(pixels))


def test_bf16_gradients_have_the_signs_of_fp32(tiny_clip: HuggingFaceEncoder) -> None:
    classifier, pixels = ZeroShotClassifier(tiny_clip, NAMES), torch.rand(16, 3, 16, 16)
    (logits, gradient), (quick_logits, quick) = (
        logits_and_gradient(f, pixels) for f in (classifier, attack_model(classifier, "bf16"))
    )
    assert quick_logits.dtype == torch.float32 and not torch.equal(logits, quick_logits)
    torch.testing.assert_close(quick_logits, logits, atol=0.2, rtol=0)
    assert float((gradient.sign() == quick.sign()).float().mean()) > 0.97
    assert float(torch.cosine_similarity(gradient.flatten(1), quick.flatten(1)).min()) > 0.99


def test_weights_get_no_gradients_and_changes_are_seen(tiny_clip: HuggingFaceEncoder) -> None:
    classifier = ZeroShotClassifier(tiny_clip, NAMES)
    tiny_clip.requires_grad_(True)
    for precision in ("fp32", "bf16"):
        fast, pixels = attack_model(classifier, precision), torch.rand(2, 3, 16, 16)
        before = fast(pixels)
        assert not before.requires_grad
        with torch.no_grad():
            tiny_clip.backbone.visual_projection.weight.mul_(-1)
        torch.testing.assert_close(fast(pixels), -before, atol=1e-4, rtol=1e-3)  # embeddings turn round, texts stay
        tiny_clip.backbone.visual_projection.weight.data = -tiny_clip.backbone.visual_projection.weight.data
        fast.refresh()
        torch.testing.assert_close(fast(pixels), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_after_a_call_in_inference_mode(tiny_clip: HuggingFaceEncoder, precision: str) -> None:
    classifier = ZeroShotClassifier(tiny_clip, NAMES)
    pixels, label = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    fast, fresh = attack_model(classifier, precision), attack_model(classifier, precision)
    with torch.inference_mode():
        fast(pixels)
    assert torch.equal(pgd(fast, pixels, label, 0.02, random_start=False), pgd(fresh, pixels, label, 0.02, random_start=False))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_image_has_no_logits(tiny_clip: HuggingFaceEncoder, precision: str) -> None:
    assert attack_model(ZeroShotClassifier(tiny_clip, NAMES), precision)(torch.rand(0, 3, 16, 16)).shape == (0, len(NAMES))


def test_exact_is_fp32_even_inside_autocast_and_with_the_lean_tower_on(tiny_clip: HuggingFaceEncoder) -> None:
    classifier, pixels = ZeroShotClassifier(tiny_clip, NAMES), torch.rand(4, 3, 16, 16)
    expected = classifier(pixels)
    fast = attack_model(classifier, "bf16")
    tiny_clip.use_lean(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast.exact(pixels), expected)
    assert tiny_clip.use_lean(None) == torch.bfloat16


def test_an_attack_in_bf16_finds_what_fp32_calls_broken(tiny_clip: HuggingFaceEncoder) -> None:
    classifier, pixels = ZeroShotClassifier(tiny_clip, NAMES), torch.rand(24, 3, 16, 16)
    label = classifier(pixels).argmax(1)
    broken = []
    for model in (classifier, attack_model(classifier, "bf16")):
        found = pgd(model, pixels, label, 12 / 255, steps=5, stop_when_broken=True, generator=torch.Generator().manual_seed(0))
        broken.append(int((classifier(found).argmax(1) != label).sum()))
    assert broken[0] > 2 and abs(broken[0] - broken[1]) <= 1


@pytest.fixture
def siglip(tokenizer) -> HuggingFaceEncoder:  # type: ignore[no-untyped-def]
    """A tower that `lean.py` does not know."""
    from transformers import SiglipConfig, SiglipModel

    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = shape | dict(vocab_size=len(tokenizer), max_position_embeddings=16)
    torch.manual_seed(0)
    config = SiglipConfig(text_config=text, vision_config=shape | dict(image_size=16, patch_size=8))
    return HuggingFaceEncoder(SiglipModel(config), tokenizer, mean=[0.5] * 3, std=[0.5] * 3, name="siglip")


def test_other_towers_are_copied_in_bf16(siglip: HuggingFaceEncoder) -> None:
    classifier, pixels = ZeroShotClassifier(siglip, NAMES), torch.rand(8, 3, 16, 16)
    fast = attack_model(classifier, "bf16", compile=True)
    (logits, gradient), (quick_logits, quick) = (logits_and_gradient(f, pixels) for f in (classifier, fast))
    assert fast.kind == "shadow" and [note.split(":")[0] for note in fast.notes] == ["not compiled"]
    torch.testing.assert_close(quick_logits, logits, atol=0.2, rtol=0)
    assert float(torch.cosine_similarity(gradient.flatten(1), quick.flatten(1)).min()) > 0.98
    assert {p.dtype for p in siglip.parameters()} == {torch.float32}  # the model itself is as it was
    assert attack_model(classifier, "fp32").kind == "library"
    assert torch.equal(attack_model(classifier, "fp32")(pixels), classifier(pixels))


def test_steps_of_a_thousandth_reach_the_copy(siglip: HuggingFaceEncoder) -> None:
    """Normalised pixels near 1 are 1/128 apart in bf16: the first convolution reads them in fp32."""
    fast = attack_model(ZeroShotClassifier(siglip, NAMES), "bf16")
    seen = []
    fast.refresh()
    assert fast._shadow is not None and fast._shadow.copy is not None
    first = next(m for m in fast._shadow.copy.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0].clone(), module.weight.dtype)))
    bright = torch.full((1, 3, 16, 16), 0.95)
    fast(bright)
    fast(bright + 1e-3)
    assert seen[0][1] == torch.float32
    torch.testing.assert_close(seen[1][0] - seen[0][0], torch.full_like(bright, 2e-3), atol=1e-6, rtol=0)


def test_a_tower_that_cannot_be_copied_runs_under_autocast(siglip: HuggingFaceEncoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(model: object, dtype: object) -> None:
        raise RuntimeError("expected scalar type Float but found BFloat16")

    monkeypatch.setattr("tima.models.fast_shadow._cast_copy", refuse)
    classifier, pixels = ZeroShotClassifier(siglip, NAMES), torch.rand(3, 3, 16, 16)
    fast = attack_model(classifier, "bf16")
    torch.testing.assert_close(fast(pixels), classifier(pixels), atol=0.2, rtol=0)
    assert not torch.equal(fast(pixels), classifier(pixels))
    assert fast.notes == ["autocast in place of a copy in bfloat16: expected scalar type Float but found BFloat16"]


def test_unknown_precisions_are_refused(tiny_clip: HuggingFaceEncoder) -> None:
    with pytest.raises(ModelError, match="no attack precision 'fp16'"):
        attack_model(ZeroShotClassifier(tiny_clip, NAMES), "fp16")


def test_buckets_are_few_and_waste_less_than_half() -> None:
    assert [bucket(n, 100) for n in (100, 51, 50, 26, 25, 13, 12, 1, 0)] == [100, 100, 50, 50, 25, 25, None, None, None]
    assert bucket(1, 1) == 1 and bucket(0, 0) is None


def test_padding_changes_no_image_and_a_missing_compiler_is_recorded(tiny_clip: HuggingFaceEncoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    classifier, pixels = ZeroShotClassifier(tiny_clip, NAMES), torch.rand(5, 3, 16, 16)
    sizes: list[int] = []

    def eager(function, **_):  # type: ignore[no-untyped-def]
        return lambda weights, x: (sizes.append(len(x)), function(weights, x))[1]

    def broken(function, **_):  # type: ignore[no-untyped-def]
        def run(weights, x):  # type: ignore[no-untyped-def]
            raise RuntimeError("no compiler found\nlong story")

        return run

    expected = logits_and_gradient(classifier, pixels)
    for compiler, notes in ((eager, []), (broken, ["not compiled: no compiler found"])):
        monkeypatch.setattr(torch, "compile", compiler)
        fast = attack_model(classifier, compile=True)
        fast(torch.rand(12, 3, 16, 16))
        found = logits_and_gradient(fast, pixels)
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1], expected[1], atol=1e-5 * float(expected[1].abs().max()), rtol=1e-4)
        assert fast.notes == notes
        fast(pixels[:0]), fast(pixels[:1])  # too few to be padded
    assert sizes == [12, 6]


@pytest.mark.slow
def test_compiled_is_the_classifier_too(tiny_clip: HuggingFaceEncoder) -> None:
    classifier, pixels = ZeroShotClassifier(tiny_clip, NAMES), torch.rand(5, 3, 16, 16)
    fast = attack_model(classifier, compile=True)
    expected, found = logits_and_gradient(classifier, pixels), logits_and_gradient(fast, pixels)
    if fast.notes:
        pytest.skip(fast.notes[0])
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5 * float(expected[1].abs().max()), rtol=1e-4)
    assert isinstance(fast._compiled, CompiledTower) and fast._compiled._works
