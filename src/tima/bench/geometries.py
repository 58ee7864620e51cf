"""CLIP's published sizes by name, and models of these sizes with random weights: to time or plan before any download.

Source of the sizes: Radford et al. 2021, arXiv 2103.00020, table 20; ViT-H/14: OpenCLIP, arXiv 2212.07143.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tima.bench.towers import Shape, shape_of_config
from tima.errors import ModelError

PREFIX = "random:"
VOCAB = 49408


@dataclass(frozen=True)
class Geometry:
    """Sizes of the two towers."""

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    embed_dim: int
    vocab: int = VOCAB


GEOMETRIES = {
    "ViT-B-32": Geometry(224, 32, 768, 12, 12, 512, 12, 8, 512),
    "ViT-B-16": Geometry(224, 16, 768, 12, 12, 512, 12, 8, 512),
    "ViT-L-14": Geometry(224, 14, 1024, 24, 16, 768, 12, 12, 768),
    "ViT-L-14-336": Geometry(336, 14, 1024, 24, 16, 768, 12, 12, 768),
    "ViT-H-14": Geometry(224, 14, 1280, 32, 16, 1024, 24, 16, 1024),
    "nano": Geometry(48, 8, 192, 6, 3, 192, 4, 3, 384, 11953),
    "tiny": Geometry(16, 8, 32, 2, 2, 32, 2, 2, 24, 11953),
    "small": Geometry(64, 8, 384, 6, 6, 256, 4, 4, 384, 11953),
}


def find_geometry(name: str) -> Geometry:
    """By name, with changes after it: `ViT-B-32@160` is 160 px, `ViT-B-32@160/6` six layers in the image tower.

    Raises:
        ModelError: no such name, or sizes that cannot be.
    """
    base, _, changes = name.removeprefix(PREFIX).partition("@")
    found = GEOMETRIES.get(base)
    if found is None:
        raise ModelError(f"There is no geometry '{base}'. Known are: {', '.join(GEOMETRIES)}.")
    side, _, layers = changes.partition("/")
    for word, value in (("pixels", side), ("layers", layers)):
        if value and not (value.isdecimal() and 0 < int(value) <= 4096):
            raise ModelError(f"'{name}': '{value}' is no number of {word}. Write NAME@PIXELS or NAME@PIXELS/LAYERS.")
    found = replace(found, image_size=int(side)) if side else found
    found = replace(found, layers=int(layers)) if layers else found
    if found.image_size % found.patch:
        raise ModelError(f"'{name}': {found.image_size} px is no multiple of the patch of {found.patch} px.")
    return found


def config_of(geometry: Geometry, tokenizer: Any = None) -> Any:
    """The transformers configuration."""
    from transformers import CLIPConfig

    def tower(width: int, layers: int, heads: int) -> dict[str, Any]:
        return dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads)

    g = geometry
    text = tower(g.text_width, g.text_layers, g.text_heads) | dict(vocab_size=g.vocab, max_position_embeddings=77)
    if tokenizer is not None:
        text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    vision = tower(g.width, g.layers, g.heads) | dict(image_size=g.image_size, patch_size=g.patch)
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=g.embed_dim)


def shape_named(name: str, text_tokens: int) -> Shape:
    """The sizes alone; nothing is built."""
    geometry = find_geometry(name)
    found = shape_of_config(config_of(geometry), text_tokens, geometry.embed_dim)
    assert found is not None
    return found


def write_random(name: str, folder: Path, seed: int = 0) -> Path:
    """A model of that geometry with random weights, as a Hugging Face folder; nano's tokenizer reads its texts."""
    from transformers import CLIPModel

    from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder
    from tima.models.hugging_face_files import load_tokenizer, no_bar
    from tima.models.load import nano_folder

    if not (nano_folder() / "config.json").is_file():
        raise ModelError(
            "Random models borrow the tokenizer of the embedded nano, and this installation has none. Reinstall tima."
        )
    from transformers import AutoConfig

    tokenizer = load_tokenizer(nano_folder(), AutoConfig.from_pretrained(nano_folder()))
    torch.manual_seed(seed)
    model = CLIPModel(config_of(find_geometry(name), tokenizer))
    with no_bar():
        HuggingFaceEncoder(model, tokenizer, mean=CLIP_MEAN, std=CLIP_STD, name=name).save_pretrained(folder)
    return folder
