"""Published robust checkpoints: the files that the papers' authors share, put into the model they were tuned from.

    checkpoint:tecoa.pth.tar,openai/clip-vit-base-patch32

| file of | holds |
|---|---|
| TeCoA, PMG-AFT, TGA-ZSR, SAFT | `vision_encoder_state_dict`: the image tower under OpenAI's names |
| FARE, LEAF | a plain state dict: open_clip's image tower, or the whole model |
| AdvFLYP | `partial_state_dict`: the parameters that were tuned |

Files are read with `weights_only`: no code in them is run. What a file does not hold stays as it is in the base model, and a
file that fits the base model only in part is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tima.errors import ModelError
from tima.models.dual_encoder import DualEncoder
from tima.models.finite import check_finite
from tima.models.key_names import OUTSIDE, TOWERS, to_transformers

# where the weights stand in the dictionary of a file, in the order in which they are looked for
PLACES = ("vision_encoder_state_dict", "partial_state_dict", "model_state_dict", "state_dict", "model")
WRAPPERS = ("module.", "model.", "_orig_mod.", "clip_model.")


def load_published(source: str) -> DualEncoder:
    """Load `checkpoint:FILE,BASE`.

    Args:
        source: FILE as its authors published it; BASE any name that `load_model` takes, the model it was tuned from.

    Raises:
        ModelError: the file cannot be read, holds no weights, or weights of another architecture.
    """
    from tima.models.load import load_model

    text, comma, base = source.removeprefix("checkpoint:").partition(",")
    path = Path(text.strip()).expanduser()
    if not comma or not base.strip():
        raise ModelError(
            f"'{source}' names no base model. Write checkpoint:{text},BASE with the model that was tuned, such as "
            "openai/clip-vit-base-patch32."
        )
    weights = read_published(path)
    model = load_model(base.strip())
    own = model.backbone.state_dict()
    if not set(weights) <= set(own):  # OpenAI's names, into a transformers model
        weights = to_transformers(weights)
    wrong = [n for n, w in weights.items() if n not in own or own[n].shape != w.shape]
    if wrong:
        there = f"{tuple(own[wrong[0]].shape)} in the base model" if wrong[0] in own else "not a parameter of the base model"
        raise ModelError(
            f"{path} does not fit '{base.strip()}': {len(wrong)} of {len(weights)} tensors differ, first {wrong[0]} "
            f"{tuple(weights[wrong[0]].shape)}, {there}. Is it a checkpoint of another architecture?"
        )
    model.backbone.load_state_dict(weights, strict=False)
    model.name = path.name
    return check_finite(model.requires_grad_(False), str(path))


def read_published(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file under OpenAI's names (`visual.` before the image tower's), or under the names they have.

    Raises:
        ModelError: not there, not readable without running its code, or without weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Give the checkpoint file as its authors published it.")
    weights = _unwrapped(_weights_in(_read(path), path))
    image_names = {name.removeprefix("visual.") for name in OUTSIDE if name.startswith("visual.")}
    if not image_names & set(weights):
        return weights
    # a bare image tower; `positional_embedding` alone would be ambiguous, so the text tower's own names decide
    if any(name.startswith(("token_embedding.", "visual.")) for name in weights):
        return weights
    return {f"visual.{name}": value for name, value in weights.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path} cannot be read without running code that is in it, or is damaged ({first[:200]}). Nothing of it was "
            "loaded. Where you trust it, save its tensors again as safetensors."
        ) from error


def _weights_in(value: Any, path: Path) -> dict[str, Tensor]:
    """The first dictionary of tensors among the known places, or the file's own."""
    candidates = [value.get(place) for place in PLACES] + [value] if isinstance(value, Mapping) else []
    for candidate in candidates:
        if not isinstance(candidate, Mapping) or not candidate:
            continue
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in candidate.items()):
            return dict(candidate)
    keys = ", ".join(list(map(str, value))[:6]) if isinstance(value, Mapping) else type(value).__name__
    raise ModelError(f"{path} holds no weights under {', '.join(PLACES)} or at its top; it holds: {keys}.")


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that DataParallel, compilers and trainers put before every name, in fp32."""
    known = (*OUTSIDE, *TOWERS)
    while True:
        prefix = next((w for w in WRAPPERS if weights and all(n.startswith(w) for n in weights)), None)
        if prefix is None or any(n.startswith(known) for n in weights):
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    constants = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")  # transformers had the last
    return {name: value.float() for name, value in weights.items() if name.rpartition(".")[2] not in constants}
