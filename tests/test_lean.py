"""The lean image tower is the library's tower: same embeddings, same gradients of pixels and of weights."""

import pytest
import torch
from conftest import build_tiny_clip

from tima.models import lean
from tima.models.hugging_face import HuggingFaceEncoder


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_embeddings_and_every_gradient_are_the_librarys(tokenizer, hidden_act: str) -> None:  # type: ignore[no-untyped-def]
    model = build_tiny_clip(tokenizer, hidden_act=hidden_act)
    assert lean.supports(model)
    pixels, direction = torch.rand(5, 3, 16, 16), torch.randn(5, 24)
    found = []
    for forward in (
        lambda x: model.encode_image(x, normalize=False),
        lambda x: lean.image_features(lean.gather_weights(model, torch.float32), x),
    ):
        x = pixels.clone().requires_grad_()
        features = forward(x)
        weights = [p.requires_grad_(True) for p in model.image_parameters().values()]
        found.append((features.detach(), torch.autograd.grad((features * direction).sum(), [x, *weights])))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    largest = max(float(a.abs().max()) for a in found[0][1])
    for name, a, b in zip(["pixels", *model.image_parameters()], found[0][1], found[1][1], strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * largest, name  # some are 0 by nature: a key's bias moves no softmax


def test_the_switch_follows_the_weights_and_changes_nothing_else(tiny_clip: HuggingFaceEncoder) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    tiny_clip.requires_grad_(False)
    plain = tiny_clip.encode_image(pixels)
    assert tiny_clip.use_lean(torch.float32) is None
    torch.testing.assert_close(tiny_clip.encode_image(pixels), plain, atol=1e-6, rtol=0)
    kept = tiny_clip._lean_weights()[0]
    assert tiny_clip._lean_weights()[0] is kept, "arranged once while the weights stand still"
    with torch.no_grad():
        tiny_clip.backbone.visual_projection.weight.mul_(-1)
    torch.testing.assert_close(tiny_clip.encode_image(pixels), -plain, atol=1e-6, rtol=0)
    weight = tiny_clip.backbone.vision_model.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)
    tiny_clip.encode_image(pixels)[:, 0].sum().backward()
    assert weight.grad is not None and float(weight.grad.abs().sum()) > 0
    assert tiny_clip.use_lean(None) == torch.float32
    tiny_clip.requires_grad_(False)
    assert torch.equal(tiny_clip.encode_image(pixels), -plain)


def test_bf16_points_where_fp32_points(tiny_clip: HuggingFaceEncoder) -> None:
    pixels = torch.rand(16, 3, 16, 16)
    tiny_clip.requires_grad_(False)
    exact, quick = (lean.image_features(lean.gather_weights(tiny_clip, t), pixels) for t in (torch.float32, torch.bfloat16))
    assert quick.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, quick).min()) > 0.999


def test_a_change_of_a_thousandth_reaches_the_embedding_in_bf16(tiny_clip: HuggingFaceEncoder) -> None:
    """Numbers near 1 are 1/128 apart in bf16, and steps of an attack are smaller: pixels are split into two of them."""
    weights, exact = (lean.gather_weights(tiny_clip, dtype) for dtype in (torch.bfloat16, torch.float32))
    bright = torch.full((1, 3, 16, 16), 0.9) + 0.05 * torch.rand(1, 3, 16, 16)
    patch_BNP = lean._patches(bright, 8, None)
    seen: list[torch.Tensor] = []
    for w in (weights, exact):
        w.patch_WP = torch.eye(patch_BNP.shape[-1], dtype=w.dtype)  # what arrives is then the pixels themselves
        seen.append(lean._embed(w, patch_BNP))
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=0)
    assert float((patch_BNP.bfloat16().float() - patch_BNP).abs().max()) > 1e-3, "one number alone would lose a step"


def test_a_share_of_the_patches_is_what_masking_gives(tiny_clip: HuggingFaceEncoder) -> None:
    """All patches in another order give the same answer; a subset depends on nothing outside it."""
    weights, pixels = lean.gather_weights(tiny_clip, torch.float32), torch.rand(2, 3, 16, 16)
    order = torch.tensor([[3, 1, 0, 2], [2, 3, 1, 0]])
    torch.testing.assert_close(lean.image_features(weights, pixels, order), lean.image_features(weights, pixels))
    keep = torch.tensor([[0, 3], [0, 3]])
    other = pixels.clone()
    other[:, :, :8, 8:] = 0.5  # patch 1 of the 2 x 2 grid
    torch.testing.assert_close(lean.image_features(weights, pixels, keep), lean.image_features(weights, other, keep))
    assert float((lean.image_features(weights, pixels) - lean.image_features(weights, other)).detach().abs().max()) > 1e-3


def test_other_towers_are_not_claimed(tiny_clip: HuggingFaceEncoder) -> None:
    tiny_clip.backbone.config.vision_config.hidden_act = "relu"
    assert not lean.supports(tiny_clip)
