"""CLIP's text tower for the one pass a training step makes over all class texts, where prompts begin alike.

The tower is causal: a token sees those before it. The tokens with which all prompts begin ("a photo of a") are therefore
computed once, and each prompt pays for what is its own. The function is the library's, and gradients reach its weights.

Shapes: `C` texts, `L` tokens of the longest, `P` that all share, `S = L - P`, `F = P + C S`, `W` width, `H` heads, `d` of one,
`D` embedding width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tima.models import lean
from tima.models.dual_encoder import DualEncoder
from tima.models.lean_blocks import ACTIVATIONS, Block, Linear, Norm, gather_block, gather_norm, mlp, norm


@dataclass
class TextWeights:
    """The text tower's weights; words, places and the last layers in fp32."""

    word_VW: Tensor
    position_NW: Tensor
    blocks: list[Block]
    norm_out: Norm
    projection_DW: Tensor
    heads: int
    activation: str
    eos: int
    dtype: torch.dtype
    recompute: bool = False


def supports(model: DualEncoder) -> bool:
    """Whether the text tower is a transformers `CLIPModel`'s, its texts padded at their end."""
    if not lean.supports(model):
        return False
    config: Any = model.backbone.config.text_config
    right = getattr(getattr(model, "tokenizer", None), "padding_side", "") == "right"
    return right and config.hidden_act in ACTIVATIONS and float(config.attention_dropout) == 0.0


def gather_text(model: DualEncoder, dtype: torch.dtype, recompute: bool = False) -> TextWeights:
    """Arrange the weights of a model that `supports` accepts."""
    clip, config = model.backbone, model.backbone.config.text_config
    tower, heads, activation = clip.text_model, int(config.num_attention_heads), config.hidden_act
    return TextWeights(
        word_VW=tower.embeddings.token_embedding.weight,
        position_NW=tower.embeddings.position_embedding.weight,
        blocks=[gather_block(layer, heads, activation, dtype) for layer in tower.encoder.layers],
        norm_out=gather_norm(tower.final_layer_norm, torch.float32),
        projection_DW=clip.text_projection.weight,
        heads=heads,
        activation=activation,
        eos=int(config.eos_token_id),
        dtype=dtype,
        recompute=recompute,
    )


def ends(id_CL: Tensor, eos: int) -> Tensor:
    """Where each text is read out: its first end token. Old configurations name 2, and mean the largest number."""
    return id_CL.argmax(1) if eos == 2 else (id_CL == eos).int().argmax(1)


def shared_tokens(id_CL: Tensor, end_C: Tensor) -> int:
    """How many tokens all texts begin with alike; an end token is nobody's but the text's own."""
    alike_L = (id_CL == id_CL[:1]).all(0)
    first = int(alike_L.int().cumprod(0).sum())
    return 0 if len(id_CL) == 1 else min(first, int(end_C.min()))


def text_features(w: TextWeights, id_CL: Tensor) -> Tensor:
    """Tokens to un-normalised embeddings `C x D`, fp32."""
    return F.linear(text_states(w, id_CL), w.projection_DW.float())


def text_states(w: TextWeights, id_CL: Tensor) -> Tensor:
    """Tokens to what the projection reads, `C x W`, fp32."""
    with torch.autocast(id_CL.device.type, enabled=False):
        end_C = ends(id_CL, w.eos)
        C, L = id_CL.shape
        P = shared_tokens(id_CL, end_C)
        S = L - P
        place_LW = w.position_NW[:L]
        own_CSW = w.word_VW[id_CL[:, P:]] + place_LW[P:]
        hidden_FW = torch.cat([w.word_VW[id_CL[0, :P]] + place_LW[:P], own_CSW.flatten(0, 1)]).to(w.dtype)
        for block in w.blocks:
            if w.recompute and torch.is_grad_enabled():
                hidden_FW = checkpoint(
                    _layer, hidden_FW, block, w.heads, w.activation, P, C, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden_FW = _layer(hidden_FW, block, w.heads, w.activation, P, C)
        row_C = P + torch.arange(C, device=id_CL.device) * S + (end_C - P)
        return norm(hidden_FW[row_C].float(), w.norm_out)


def _layer(x_FW: Tensor, block: Block, heads: int, activation: str, P: int, C: int) -> Tensor:
    x_FW = x_FW + F.linear(_attend(norm(x_FW, block.norm1), block.qkv, heads, P, C), *block.out)
    return x_FW + mlp(norm(x_FW, block.norm2), block, activation)


def _attend(x_FW: Tensor, qkv: Linear, heads: int, P: int, C: int) -> Tensor:
    """Causal attention: the shared tokens among themselves, each text's own over the shared ones and its own."""
    (f, W), d = x_FW.shape, x_FW.shape[1] // heads
    S = (f - P) // C
    q_HFd, k_HFd, v_HFd = F.linear(x_FW, *qkv).view(f, 3, heads, d).permute(1, 2, 0, 3).contiguous()
    own_q, own_k, own_v = (t[:, P:].reshape(heads, C, S, d) for t in (q_HFd, k_HFd, v_HFd))
    own_HCSS = own_q @ own_k.transpose(-1, -2) + _causal(S, x_FW)
    to_shared_HCSP = (q_HFd[:, P:] @ k_HFd[:, :P].transpose(-1, -2)).view(heads, C, S, P)
    weight = torch.cat([to_shared_HCSP, own_HCSS], -1).softmax(-1)
    from_shared_HFd = weight[..., :P].reshape(heads, C * S, P) @ v_HFd[:, :P]
    own_HFd = (weight[..., P:] @ own_v).reshape(heads, C * S, d) + from_shared_HFd
    shared = (q_HFd[:, :P] @ k_HFd[:, :P].transpose(-1, -2) + _causal(P, x_FW)).softmax(-1) @ v_HFd[:, :P]
    return torch.cat([shared, own_HFd], 1).transpose(0, 1).reshape(f, W)


def _causal(n: int, like: Tensor) -> Tensor:
    """0 where a token may look, minus infinity after it."""
    return torch.full((n, n), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


class KeptStates:
    """What a frozen tower hands to a projection that trains: computed once for each list of texts.

    Args:
        limit: bytes; what goes beyond it starts afresh.
    """

    def __init__(self, model: DualEncoder, dtype: torch.dtype, limit: int = 256 << 20) -> None:
        self.model, self.dtype, self.limit = model, dtype, limit
        self.kept: dict[bytes, Tensor] = {}
        self.stamp: tuple[int, ...] = ()

    def __call__(self, id_CL: Tensor) -> Tensor:
        """Tokens to `C x W`, a constant."""
        projection = self.model.text_parameters("projection")
        frozen = [p for name, p in self.model.text_parameters("full").items() if name not in projection]
        stamp = tuple(number for p in frozen for number in (p.data_ptr(), p._version))
        if stamp != self.stamp or sum(t.numel() * 4 for t in self.kept.values()) > self.limit:
            self.kept, self.stamp = {}, stamp
        key = str(tuple(id_CL.shape)).encode() + id_CL.cpu().numpy().tobytes()
        if key not in self.kept:
            with torch.no_grad():
                self.kept[key] = text_states(gather_text(self.model, self.dtype), id_CL)
        return self.kept[key]
