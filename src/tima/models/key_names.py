"""Names of CLIP's parameters: OpenAI's (open_clip uses the same) to transformers' and back, exactly.

The two differ in names, in the attention's three projections (one stacked matrix there, three here), and in the two output
projections (`x @ P` there, a linear layer's transposed weight here). Nothing else is touched, so a round trip is the identity.
Shapes: `W` width of a tower, `D` embedding width.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tima.errors import ModelError

# (OpenAI, transformers), outside the blocks
OUTSIDE = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
TRANSPOSED = ("visual.proj", "text_projection")
INSIDE = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's and open_clip's names to those of `CLIPModel`; text towers kept apart (`text.`, open_clip's custom text) too.

    Raises:
        ModelError: a name that OpenAI's CLIP with a vision transformer does not have.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("text.")
        if name in OUTSIDE:
            found[OUTSIDE[name]] = value.T.contiguous() if name in TRANSPOSED else value
            continue
        tower = next((root for root in TOWERS if name.startswith(root)), None)
        match = re.fullmatch(r"(\d+)\.(.+?)[._](weight|bias)", name.removeprefix(tower)) if tower else None
        if tower is None or match is None:
            raise ModelError(f"'{name}' is no parameter of OpenAI's CLIP with a vision transformer.")
        layer, part, kind = match.groups()
        root = f"{TOWERS[tower]}{layer}."
        if part == "attn.in_proj" and len(value) % len(PROJECTIONS) == 0:
            # (3W, W) is query, key and value one over the other
            for projection, rows in zip(PROJECTIONS, value.chunk(3), strict=True):
                found[f"{root}self_attn.{projection}.{kind}"] = rows.contiguous()
        elif part in INSIDE:
            found[f"{root}{INSIDE[part]}.{kind}"] = value
        else:
            raise ModelError(f"'{name}' is no parameter of OpenAI's CLIP with a vision transformer.")
    return found


def to_openai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of `CLIPModel` to OpenAI's and open_clip's.

    Raises:
        ModelError: a name that `CLIPModel` does not have, or a projection without its two companions.
    """
    outside = {new: old for old, new in OUTSIDE.items()}
    inside = {new: old for old, new in INSIDE.items()}
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in outside:
            found[outside[name]] = value.T.contiguous() if outside[name] in TRANSPOSED else value
            continue
        tower = next((old for old, new in TOWERS.items() if name.startswith(new)), None)
        match = re.fullmatch(r"(\d+)\.(.+)\.(weight|bias)", name.removeprefix(TOWERS[tower])) if tower else None
        if tower is None or match is None:
            if name.endswith("position_ids"):  # a constant of older versions
                continue
            raise ModelError(f"'{name}' is no parameter of transformers' CLIPModel.")
        layer, part, kind = match.groups()
        if part.startswith("self_attn.") and part.endswith(PROJECTIONS):
            if part.endswith("q_proj"):
                names = [f"{TOWERS[tower]}{layer}.self_attn.{projection}.{kind}" for projection in PROJECTIONS]
                if missing := [other for other in names if other not in weights]:
                    raise ModelError(f"'{missing[0]}' is missing beside '{name}'.")
                found[f"{tower}{layer}.attn.in_proj_{kind}"] = torch.cat([weights[other] for other in names])
            continue
        if part not in inside:
            raise ModelError(f"'{name}' is no parameter of transformers' CLIPModel.")
        found[f"{tower}{layer}.{inside[part]}.{kind}"] = value
    return found
