"""Tiny models of every family, and a run folder with stored results, for tests of models and exports."""

import json
from pathlib import Path
from typing import Any

import torch
from conftest import build_tiny_clip, make_image_set

from tima.evaluate import evaluate
from tima.models.hugging_face import HuggingFaceEncoder
from tima.protocols import load_protocol

HALF = [0.5] * 3
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def tiny_siglip(tokenizer: Any, length: int = 64, **text_settings: Any) -> HuggingFaceEncoder:
    """A SigLIP whose texts are `length` tokens, by default as many as the pipeline makes."""
    from transformers import SiglipConfig, SiglipModel

    text = SMALL | dict(vocab_size=len(tokenizer), max_position_embeddings=length, projection_size=32) | text_settings
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=SMALL | dict(image_size=16, patch_size=8)))
    _spread(model)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    return HuggingFaceEncoder(model, tokenizer, mean=HALF, std=HALF, name="siglip")


def tiny_two_tower(tokenizer: Any, length: int = 40) -> HuggingFaceEncoder:
    """Two towers of other models, side by side."""
    from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

    config = VisionTextDualEncoderConfig(
        vision_config=ViTConfig(**SMALL, image_size=16, patch_size=8).to_dict(),
        text_config=BertConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=length).to_dict(),
        projection_dim=24,
    )
    model = VisionTextDualEncoderModel(config)
    _spread(model)
    return HuggingFaceEncoder(model, tokenizer, mean=HALF, std=HALF, name="two towers")


def make_run(folder: Path, tokenizer: Any) -> HuggingFaceEncoder:
    """A finished run: model, recipe, summary and one result that was really measured. Returns the model."""
    from tima.config import TrainRecipe, dump

    model = build_tiny_clip(tokenizer)
    model.save_pretrained(folder / "model")
    (folder / "recipe.yaml").write_text(dump(TrainRecipe(method="tecoa", model="openai/clip-vit-base-patch32", eps="2/255")))
    summary = {"method": "tecoa", "recipe_sha256": "ab" * 32, "best_step": 7, "train_images": 123, "eps": 2 / 255}
    (folder / "summary.json").write_text(json.dumps(summary))
    protocol = load_protocol("demo").override(samples=12, eps=["1/255", "4/255"], attack_params={"steps": 2})
    evaluate(model, make_image_set(24), protocol, out=folder, progress=False)
    return model


def _spread(model: torch.nn.Module) -> None:
    """The libraries start so small that all embeddings nearly coincide, and then any comparison would pass."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15, generator=torch.Generator().manual_seed(len(name)))
