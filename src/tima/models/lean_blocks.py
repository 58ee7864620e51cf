"""A transformer layer in as few operations as it takes; `lean.py` and `lean_text.py` build towers of it.

What the library computes at every call is folded into the weights: the attention's scale into the query, and the factor of
`quick_gelu`, which is `silu(1.702 x) / 1.702`, into the MLP, so that one fused kernel is left of each.

Shapes: `F` tokens in any arrangement, `N` tokens of an image, `W` width, `H` heads, `d` width of a head, `B` images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# name -> (function, factor of its input, divisor of its output), the two folded into the products before and after
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {"gelu": (F.gelu, 1.0), "quick_gelu": (F.silu, 1.702)}
Norm = tuple[Tensor, Tensor, float]
Linear = tuple[Tensor, Tensor]


@dataclass
class Block:
    """One layer's weights in the compute type, norms included."""

    norm1: Norm
    qkv: Linear
    out: Linear
    norm2: Norm
    up: Linear
    down: Linear


def gather_block(layer: Any, heads: int, activation: str, dtype: torch.dtype) -> Block:
    """Arrange the weights of a layer of transformers' CLIP. Gradients flow back to them where they are enabled."""
    a, factor = layer.self_attn, ACTIVATIONS[activation][1]
    scale = (a.q_proj.weight.shape[0] // heads) ** -0.5
    query = (a.q_proj.weight * scale, a.q_proj.bias * scale)
    (wk, bk), (wv, bv) = ((x.weight, x.bias) for x in (a.k_proj, a.v_proj))
    up, down = layer.mlp.fc1, layer.mlp.fc2
    if factor == 1.0:
        mlp = (up.weight, up.bias), (down.weight, down.bias)
    else:
        mlp = (up.weight * factor, up.bias * factor), (down.weight / factor, down.bias)
    return Block(
        norm1=gather_norm(layer.layer_norm1, dtype),
        qkv=(torch.cat([query[0], wk, wv]).to(dtype), torch.cat([query[1], bk, bv]).to(dtype)),
        out=(a.out_proj.weight.to(dtype), a.out_proj.bias.to(dtype)),
        norm2=gather_norm(layer.layer_norm2, dtype),
        up=(mlp[0][0].to(dtype), mlp[0][1].to(dtype)),
        down=(mlp[1][0].to(dtype), mlp[1][1].to(dtype)),
    )


def gather_norm(layer: Any, dtype: torch.dtype) -> Norm:
    return layer.weight.to(dtype), layer.bias.to(dtype), layer.eps


def norm(x_FW: Tensor, weights: Norm) -> Tensor:
    return F.layer_norm(x_FW, x_FW.shape[-1:], weights[0], weights[1], weights[2])


def mlp(x_FW: Tensor, block: Block, activation: str) -> Tensor:
    return F.linear(ACTIVATIONS[activation][0](F.linear(x_FW, *block.up)), *block.down)


def image_block(x_BNW: Tensor, block: Block, heads: int, activation: str, first_only: bool) -> Tensor:
    """One layer of an image tower; where `first_only`, of the first token alone, `B x W`: nobody reads the others."""
    attended = _attend(norm(x_BNW, block.norm1), block.qkv, heads, first_only)
    x_BNW = (x_BNW[:, 0] if first_only else x_BNW) + F.linear(attended, *block.out)
    return x_BNW + mlp(norm(x_BNW, block.norm2), block, activation)


def _attend(x_BNW: Tensor, qkv: Linear, heads: int, first_only: bool) -> Tensor:
    """Self-attention, of the first token alone where `first_only`: `B x N x W`, or `B x W`."""
    B, N, W = x_BNW.shape
    d = W // heads
    if first_only:
        weight, bias = qkv
        q_BH1d = F.linear(x_BNW[:, 0], weight[:W], bias[:W]).view(B, heads, 1, d)
        k_BHNd, v_BHNd = F.linear(x_BNW, weight[W:], bias[W:]).view(B, N, 2, heads, d).permute(2, 0, 3, 1, 4).contiguous()
        return attention(q_BH1d, k_BHNd, v_BHNd).reshape(B, W)
    # one copy here spares the three that the products would make
    q_BHNd, k_BHNd, v_BHNd = F.linear(x_BNW, *qkv).view(B, N, 3, heads, d).permute(2, 0, 3, 1, 4).contiguous()
    return attention(q_BHNd, k_BHNd, v_BHNd).transpose(1, 2).reshape(B, N, W)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`softmax(q k') v` of queries that are scaled already.

    On a GPU the fused kernel. On CPU the plain products: there the fused kernel's backward pass is several times slower in bf16
    (measured in docs/speed-training.md).
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v
