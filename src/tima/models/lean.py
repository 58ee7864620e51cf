"""CLIP's vision transformer in as few operations as it takes, for the passes that adversarial training repeats.

The same weights and the same function as the library's model, arranged for speed: query, key and value in one product, the
patch embedding as one, the standard deviation folded into it, constant factors folded into weights (`lean_blocks.py`),
matrices cast to the compute type once and not at every call. Measured by `benchmarks/`.

Shapes: `B` images, `C` channels, `H, W` pixels, `N` tokens, `K` patches kept, `W` width, `D` embedding width, `P` patch inputs.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tima.models.dual_encoder import DualEncoder
from tima.models.lean_blocks import ACTIVATIONS, Block, Norm, gather_block, gather_norm, image_block, norm


@dataclass
class LeanWeights:
    """A tower's weights as the forward pass wants them. Gradients flow back to the model's own where they are enabled."""

    mean_C11: Tensor
    patch_WP: Tensor
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
    recompute: bool = False


def supports(model: DualEncoder) -> bool:
    """Whether the image tower is a transformers `CLIPModel`'s with an activation known here."""
    backbone = getattr(model, "backbone", None)
    config: Any = getattr(backbone, "config", None)
    if getattr(config, "model_type", "") != "clip" or not hasattr(backbone, "vision_model"):
        return False
    if any(".lora_" in name for name, _ in model.backbone.named_parameters()):  # adapters that are not merged would be left out
        return False
    return config.vision_config.hidden_act in ACTIVATIONS and float(config.vision_config.attention_dropout) == 0.0


def gather_weights(model: DualEncoder, dtype: torch.dtype, recompute: bool = False) -> LeanWeights:
    """Arrange the weights of a model that `supports` accepts. Cheap beside one forward pass of a batch.

    Args:
        recompute: keep one activation a layer and compute the others again in the backward pass (gradient checkpointing).
    """
    clip, config = model.backbone, model.backbone.config.vision_config
    tower, heads, activation = clip.vision_model, int(config.num_attention_heads), config.hidden_act
    patch_OCHW = tower.embeddings.patch_embedding.weight.float() / model.std_C11  # conv((x - m) / s) = conv'(x - m)
    return LeanWeights(
        mean_C11=model.mean_C11,
        patch_WP=patch_OCHW.flatten(1).to(dtype),
        first_W=tower.embeddings.class_embedding.float(),
        position_NW=tower.embeddings.position_embedding.weight.float(),
        norm_in=gather_norm(tower.pre_layrnorm, torch.float32),
        blocks=[gather_block(layer, heads, activation, dtype) for layer in tower.encoder.layers],
        norm_out=gather_norm(tower.post_layernorm, torch.float32),
        projection_DW=clip.visual_projection.weight.float(),
        heads=heads,
        patch_size=int(config.patch_size),
        activation=activation,
        dtype=dtype,
        recompute=recompute,
    )


class KeptWeights:
    """The weights of the last call, arranged anew when the model's have changed; no gradient reaches them."""

    def __init__(self, model: DualEncoder, dtype: torch.dtype, recompute: bool = False) -> None:
        self.model, self.dtype, self.recompute = model, dtype, recompute
        self.refresh()

    def refresh(self) -> None:
        """Arrange them now. Calls do so themselves when torch knows of a change; `p.data` hides one."""
        # kept for later calls with gradients, which tensors of inference mode cannot take part in
        with torch.inference_mode(False), torch.no_grad():
            self.weights: LeanWeights = _detached(gather_weights(self.model, self.dtype, self.recompute))
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
    hidden_BNW = _embed(w, _patches(image_BCHW - w.mean_C11, w.patch_size, keep_BK))
    place_NW = w.position_NW[1:]
    hidden_BNW = hidden_BNW + (place_NW if keep_BK is None else place_NW[keep_BK])
    first_B1W = (w.first_W + w.position_NW[0]).expand(len(image_BCHW), 1, -1)
    hidden_BNW = norm(torch.cat([first_B1W, hidden_BNW], dim=1), w.norm_in).to(w.dtype)
    for number, block in enumerate(w.blocks):
        rest = (block, w.heads, w.activation, number == len(w.blocks) - 1)
        if w.recompute and torch.is_grad_enabled():
            hidden_BNW = checkpoint(image_block, hidden_BNW, *rest, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_BNW = image_block(hidden_BNW, *rest)
    return F.linear(norm(hidden_BNW.float(), w.norm_out), w.projection_DW)


def _embed(w: LeanWeights, patch_BNP: Tensor) -> Tensor:
    """Patches to tokens, fp32.

    One bf16 number near 1 would lose changes below 1/512, so in bf16 a pixel is the sum of two, the second what the first has
    lost: two fast products in place of one slow. Gradients need only one: both would be the same.
    """
    if w.dtype == torch.float32:
        return F.linear(patch_BNP, w.patch_WP)
    coarse_BNP = patch_BNP.to(w.dtype)
    fine_BNP = (patch_BNP - coarse_BNP).detach().to(w.dtype)
    return F.linear(coarse_BNP, w.patch_WP).float() + F.linear(fine_BNP, w.patch_WP.detach())


def _patches(image_BCHW: Tensor, side: int, keep_BK: Tensor | None) -> Tensor:
    """`B x N x (C side side)`, the order of a convolution's weights."""
    B, C, H, W = image_BCHW.shape
    grid = image_BCHW.reshape(B, C, H // side, side, W // side, side).permute(0, 2, 4, 1, 3, 5)
    patch_BNP = grid.reshape(B, (H // side) * (W // side), C * side * side)
    return patch_BNP if keep_BK is None else patch_BNP.gather(1, keep_BK[:, :, None].expand(-1, -1, patch_BNP.shape[-1]))
