"""torch's operation counter, with the attention kernel of CPUs that it does not know. Shapes: `B` images, `T` texts."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tima.models import DualEncoder

ATTENTION = ("bmm", "baddbmm", "attention")


def _attention_forward(query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **words: Any) -> int:
    batch, heads, queries, width = query_shape
    keys, out = key_shape[2], value_shape[3]
    return int(2 * batch * heads * queries * keys * (width + out))


def _attention_backward(_grad: Any, query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **words: Any) -> int:
    # five products, as torch counts its other kernels: the fused kernel forms the scores again instead of keeping them
    batch, heads, queries, width = query_shape
    keys, out = key_shape[2], value_shape[3]
    return int(2 * batch * heads * queries * keys * (3 * width + 2 * out))


def counter() -> FlopCounterMode:
    """A context that counts operations; `get_total_flops()` says how many so far."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )


def attention_share(found: FlopCounterMode) -> float:
    """Share of the operations counted in products of tokens with tokens."""
    counts = found.get_flop_counts().get("Global", {})
    total = sum(counts.values())
    part = sum(n for op, n in counts.items() if any(word in str(op) for word in ATTENTION))
    return part / total if total else 0.0


def counted_image(model: DualEncoder, batch: int = 2) -> dict[str, float]:
    """Operations an image through the image tower as it is set: forward, backward to the pixels, and attention's share."""
    side = model.image_size
    channels = len(model.mean_C11)
    image_BCHW = torch.rand(batch, channels, side, side, device=model.mean_C11.device).requires_grad_(True)
    with counter() as forward:
        embedding_BD = model.encode_image(image_BCHW, normalize=False)
    with counter() as backward:
        torch.autograd.grad(embedding_BD.sum(), image_BCHW)
    return {
        "forward": forward.get_total_flops() / batch,
        "backward_input": backward.get_total_flops() / batch,
        "attention_share": attention_share(forward),
    }


def counted_text(model: DualEncoder, texts: list[str]) -> dict[str, float]:
    """Operations a text, and the tokens that the longest one takes."""
    tokens = model.tokenize(texts)
    with counter() as forward, torch.no_grad():
        model.encode_text(tokens)
    return {"forward": forward.get_total_flops() / len(texts), "tokens": float(tokens["input_ids"].shape[1])}
