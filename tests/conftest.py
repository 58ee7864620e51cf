"""Small models and data that every test can have: random weights, written by the tests themselves, no network."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torchvision_operators
from PIL import Image

from tima.data import ImageSet
from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder

torchvision_operators.declare_missing()  # before anything imports transformers
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads of several would wait for each other
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and for the processes that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A CLIP tokenizer learned from a few words."""
    from tima.pretrain.tokenizer import train_tokenizer

    words = ["a photo of a cat", "a photo of a dog", "a picture of the small tree", "sailing boat", "red apple", "guitar"]
    return train_tokenizer(words * 3, 700, tmp_path_factory.mktemp("tokenizer"))


def build_tiny_clip(tokenizer, *, seed: int = 0, hidden_act: str = "quick_gelu", image_size: int = 16) -> HuggingFaceEncoder:  # type: ignore[no-untyped-def]
    """A CLIPModel with two thin layers a tower; logit scale 20, so that a random model has gradients worth following."""
    from transformers import CLIPConfig, CLIPModel

    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, hidden_act=hidden_act)
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    text = shape | ids | dict(vocab_size=len(tokenizer), max_position_embeddings=77)
    vision = shape | dict(image_size=image_size, patch_size=8)
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24, logit_scale_init_value=3.0))
    with torch.no_grad():  # the library starts so small that every text and image embedding nearly coincide
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15, generator=torch.Generator().manual_seed(seed + len(name)))
    return HuggingFaceEncoder(model, tokenizer, mean=CLIP_MEAN, std=CLIP_STD, name="tiny")


@pytest.fixture
def tiny_clip(tokenizer) -> HuggingFaceEncoder:  # type: ignore[no-untyped-def]
    """A fresh tiny CLIP for each test."""
    return build_tiny_clip(tokenizer)


def png(array_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def make_image_set(n: int = 24, classes: int = 4, size: int = 16, seed: int = 0, name: str = "toy") -> ImageSet:
    """Pictures whose colour depends on the class, so that something can be learned from them."""
    rng = np.random.default_rng(seed)
    names = ["cat", "dog", "tree", "boat", "apple", "guitar", "car", "hat"][:classes]
    colours = np.random.default_rng(99).integers(30, 226, (8, 3))
    labels = [i % classes for i in range(n)]
    data = [png(np.clip(colours[y] + rng.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)) for y in labels]
    return ImageSet(name, names, torch.tensor(labels), data.__getitem__, lambda i: f"{name} #{i}", image_size=size)


def write_image_folder(images: ImageSet, root: Path) -> None:
    """`root/<class>/<index>.png`, the layout that `find_data` reads."""
    for i in range(len(images)):
        folder = root / images.class_names[int(images.label_B[i])]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(images.read(i))  # type: ignore[arg-type]


def write_world(tokenizer: Any, root: Path, n: int, classes: int) -> dict[str, str]:
    """A tiny model and a training set of `n` pictures on disk: the fields `model` and `data` of a recipe."""
    build_tiny_clip(tokenizer).save_pretrained(root / "model")
    write_image_folder(make_image_set(n=n, classes=classes), root / "data" / "train")
    return {"model": str(root / "model"), "data": str(root / "data")}


@pytest.fixture
def toy_set() -> ImageSet:
    return make_image_set()
