"""The model that learns: built anew, or one that is there already; and how it is kept."""

from pathlib import Path
from typing import Any

import torch

from tima._files import atomic_folder
from tima.errors import ModelError, TrainingError
from tima.models import lean, load_model, nano_folder
from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder
from tima.pretrain.recipe import PretrainRecipe, Shape
from tima.pretrain.tokenizer import train_tokenizer


def find_tokenizer(recipe: PretrainRecipe, out: Path, texts: list[str]) -> Any:
    """The run's tokenizer: what it started with, else the one the recipe names, else one learned from `texts`.

    Learning is not repeatable to the last merge: the library breaks ties between equally frequent pairs at random. So it
    happens once a run, and a recipe that names a tokenizer gives the same weights anywhere.
    """
    from transformers import AutoTokenizer

    own = out / "tokenizer"
    if (own / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(own)
    if recipe.tokenizer is None:
        return train_tokenizer(texts, recipe.shape.vocab_size, own)
    tokenizer = AutoTokenizer.from_pretrained(nano_folder() if recipe.tokenizer == "nano" else recipe.tokenizer)
    tokenizer.save_pretrained(own)
    return tokenizer


def build_student(shape: Shape, tokenizer: Any, embed_dim: int, seed: int) -> HuggingFaceEncoder:
    """A small `CLIPModel` with random weights, projecting into the teacher's space."""
    from transformers import CLIPConfig, CLIPModel

    def tower(width: int, layers: int) -> dict[str, Any]:
        return dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64)

    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    text = tower(shape.text_width, shape.text_layers) | special
    text |= dict(vocab_size=len(tokenizer), max_position_embeddings=shape.context_length, hidden_act="gelu")
    vision = tower(shape.vision_width, shape.vision_layers) | dict(
        image_size=shape.image_size, patch_size=shape.patch_size, hidden_act="gelu"
    )
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed_dim)
    model = CLIPModel(config)
    model.set_attn_implementation("eager")
    return HuggingFaceEncoder(model, tokenizer, mean=CLIP_MEAN, std=CLIP_STD, name="student")


def start_student(start: str, out: Path, embed_dim: int) -> HuggingFaceEncoder:
    """The model that the recipe starts from. The run keeps a copy of it: it goes on from the same text tower anywhere.

    Raises:
        ModelError: it is no `CLIPModel` that `lean` can run, or it does not embed into the teacher's space.
    """
    own = out / "start"
    if not (own / "config.json").is_file():
        found = load_model(start)
        if not isinstance(found, HuggingFaceEncoder) or not lean.supports(found):
            raise ModelError(f"start '{start}' is no CLIPModel of transformers. Name one, or leave start out to begin anew.")
        if found.embed_dim != embed_dim:
            raise ModelError(
                f"start '{start}' embeds into {found.embed_dim} dimensions, the teacher into {embed_dim}. "
                "Take a model that was distilled from this teacher, or leave start out to begin anew."
            )
        with atomic_folder(own) as folder:
            found.save_pretrained(folder)
    student = load_model(own)
    assert isinstance(student, HuggingFaceEncoder)
    student.backbone.set_attn_implementation("eager")
    return student


def save(student: HuggingFaceEncoder, out: Path) -> Path:
    """The model as float16 safetensors in Hugging Face `CLIPModel` format.

    Raises:
        TrainingError: a weight is not finite or beyond what float16 holds (65504).
    """
    largest = torch.finfo(torch.float16).max
    for name, p in student.backbone.named_parameters():
        if not bool((p.detach().abs() <= largest).all()):  # NaN compares false
            raise TrainingError(f"{name} has values that float16 cannot hold. Train again with a smaller lr.")
    for tower in (student.backbone.config.text_config, student.backbone.config.vision_config):
        tower.dtype = None  # a model that was loaded in fp32 has it written there, and the file is float16
    with atomic_folder(out / "model") as folder:
        student.backbone.half()
        student.save_pretrained(folder)
        student.backbone.float()
    return out / "model"
