"""CLIP's vision transformer in as few operations as it takes, for the passes that adversarial training repeats.

The same weights and the same function as the library's model, arranged for speed: query, key and value in one product, the
patch embedding as one, mean and standard deviation folded into it, plain attention (on CPU the fused kernel's bf16 backward
is several times slower), matrices cast to the compute type once and not at every call. Measured by `benchmarks/`.

Shapes: `B` images, `C` channels, `H, W` pixels, `N` tokens, `K` patches kept, `W` width, `D` embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.models.dual_encoder import DualEncoder

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
Norm = tuple[Tensor, Tensor, float]


@dataclass
class Block:
    """One layer's weights in the compute type, norms included."""

    norm1: Norm
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    norm2: Norm
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


@dataclass
class LeanWeights:
    """A tower's weights as the forward pass wants them. Gradients flow back to the model's own where they are enabled."""

    patch: tuple[Tensor, Tensor]  # fp32: in bf16 a pixel near 1 would lose changes below 1/512
    first_W: Tensor
    position_NW: Tensor
    norm_in: Norm
    blocks: list[Block]
    norm_out: Norm
    projection_DW: Tensor
    heads: int
    patch_size: int
    activation: str
    dtype: torch.dtype


def supports(model: DualEncoder) -> bool:
    """Whether the image tower is a transformers `CLIPModel`'s with an activation known here."""
    backbone = getattr(model, "backbone", None)
    config: Any = getattr(backbone, "config", None)
    if getattr(config, "model_type", "") != "clip" or not hasattr(backbone, "vision_model"):
        return False
    if any(".lora_" in name for name, _ in model.backbone.named_parameters()):  # adapters that are not merged would be left out
        return False
    return config.vision_config.hidden_act in ACTIVATIONS and float(config.vision_config.attention_dropout) == 0.0


def gather_weights(model: DualEncoder, dtype: torch.dtype) -> LeanWeights:
    """Arrange the weights of a model that `supports` accepts. Cheap beside one forward pass of a batch."""
    clip, config = model.backbone, model.backbone.config.vision_config
    tower = clip.vision_model
    patch_OCHW = tower.embeddings.patch_embedding.weight.float()
    # conv((x - mean) / std) = conv'(x) + b
    folded_OCHW = patch_OCHW / model.std_C11
    shift_O = -(folded_OCHW * model.mean_C11).sum((1, 2, 3))

    def norm(layer: Any) -> Norm:
        return layer.weight.to(dtype), layer.bias.to(dtype), layer.eps

    def linear(*layers: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([x.weight for x in layers]).to(dtype), torch.cat([x.bias for x in layers]).to(dtype)

    blocks = []
    for layer in tower.encoder.layers:
        a = layer.self_attn
        qkv, out = linear(a.q_proj, a.k_proj, a.v_proj), linear(a.out_proj)
        up, down = linear(layer.mlp.fc1), linear(layer.mlp.fc2)
        blocks.append(Block(norm(layer.layer_norm1), qkv, out, norm(layer.layer_norm2), up, down))
    position_NW = tower.embeddings.position_embedding.weight.float()
    return LeanWeights(
        patch=(folded_OCHW.flatten(1), shift_O),
        first_W=tower.embeddings.class_embedding.float(),
        position_NW=position_NW,
        norm_in=(tower.pre_layrnorm.weight.float(), tower.pre_layrnorm.bias.float(), tower.pre_layrnorm.eps),
        blocks=blocks,
        norm_out=(tower.post_layernorm.weight.float(), tower.post_layernorm.bias.float(), tower.post_layernorm.eps),
        projection_DW=clip.visual_projection.weight.float(),
        heads=int(config.num_attention_heads),
        patch_size=int(config.patch_size),
        activation=config.hidden_act,
        dtype=dtype,
    )


class KeptWeights:
    """The weights of the last call, arranged anew when the model's have changed; no gradient reaches them."""

    def __init__(self, model: DualEncoder, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.refresh()

    def refresh(self) -> None:
        """Arrange them now. Calls do so themselves when torch knows of a change; `p.data` hides one."""
        # kept for later calls with gradients, which tensors of inference mode cannot take part in
        with torch.inference_mode(False), torch.no_grad():
            self.weights: LeanWeights = _detached(gather_weights(self.model, self.dtype))
        self.stamp = weights_stamp(self.model)

    def __call__(self) -> LeanWeights:
        if self.stamp != weights_stamp(self.model):
            self.refresh()
        return self.weights


def weights_stamp(model: DualEncoder) -> tuple[int, ...]:
    """Changes when a weight of the image tower does: its place in memory or torch's count of in-place writes."""
    return tuple(number for p in model.image_parameters().values() for number in (p.data_ptr(), p._version))


def _detached(value: Any) -> Any:
    """The same without gradients: a weight that is in the right type already is the parameter itself."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _detached(getattr(value, field.name)) for field in fields(value)})
    return value


def image_features(w: LeanWeights, image_BCHW: Tensor, keep_BK: Tensor | None = None) -> Tensor:
    """Pixels in [0, 1] to un-normalised embeddings `B x D` in fp32.

    Args:
        keep_BK: indices of the patches to see, row by row of the grid; None sees all.
    """
    with torch.autocast(image_BCHW.device.type, enabled=False):
        return _image_features(w, image_BCHW.float(), keep_BK)


def _image_features(w: LeanWeights, image_BCHW: Tensor, keep_BK: Tensor | None) -> Tensor:
    hidden_BNW = F.linear(_patches(image_BCHW, w.patch_size, keep_BK), *w.patch)
    place_NW = w.position_NW[1:]
    hidden_BNW = hidden_BNW + (place_NW if keep_BK is None else place_NW[keep_BK])
    first_B1W = (w.first_W + w.position_NW[0]).expand(len(image_BCHW), 1, -1)
    hidden_BNW = _norm(torch.cat([first_B1W, hidden_BNW], dim=1), w.norm_in).to(w.dtype)
    activation = ACTIVATIONS[w.activation]
    for number, block in enumerate(w.blocks):
        # of the last layer only the first token is read: the others need no query, no output and no MLP
        last = number == len(w.blocks) - 1
        attended_BNW = _attend(_norm(hidden_BNW, block.norm1), block.qkv, w.heads, last)
        hidden_BNW = (hidden_BNW[:, :1] if last else hidden_BNW) + F.linear(attended_BNW, *block.out)
        hidden_BNW = hidden_BNW + F.linear(activation(F.linear(_norm(hidden_BNW, block.norm2), *block.up)), *block.down)
    return F.linear(_norm(hidden_BNW[:, 0].float(), w.norm_out), w.projection_DW)


def _patches(image_BCHW: Tensor, side: int, keep_BK: Tensor | None) -> Tensor:
    """`B x N x (C side side)`, the order of a convolution's weights."""
    B, C, H, W = image_BCHW.shape
    grid = image_BCHW.reshape(B, C, H // side, side, W // side, side).permute(0, 2, 4, 1, 3, 5)
    patch_BNP = grid.reshape(B, (H // side) * (W // side), C * side * side)
    return patch_BNP if keep_BK is None else patch_BNP.gather(1, keep_BK[:, :, None].expand(-1, -1, patch_BNP.shape[-1]))


def _norm(x_BNW: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(x_BNW, x_BNW.shape[-1:], norm[0], norm[1], norm[2])


def _attend(x_BNW: Tensor, qkv: tuple[Tensor, Tensor], heads: int, first_only: bool) -> Tensor:
    """Self-attention, of the first token alone where `first_only`: `B x N x W`, or `B x 1 x W`."""
    B, N, W = x_BNW.shape
    if first_only:
        weight, bias = qkv
        q = F.linear(x_BNW[:, :1], weight[:W], bias[:W]).view(B, 1, heads, W // heads).transpose(1, 2)
        k, v = F.linear(x_BNW, weight[W:], bias[W:]).view(B, N, 2, heads, W // heads).permute(2, 0, 3, 1, 4)
    else:
        q, k, v = F.linear(x_BNW, *qkv).view(B, N, 3, heads, W // heads).permute(2, 0, 3, 1, 4)
    weight_BHNN = ((q * (W // heads) ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
    return (weight_BHNN @ v).transpose(1, 2).reshape(B, 1 if first_only else N, W)
