"""The models and images of the comparisons. Shapes: `N` images, `C` channels or classes, `H, W` pixels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tima import find_data, load_model
from tima.attacks import pgd
from tima.models import ZeroShotClassifier

HELD_OUT = 500  # images that the convolutional network is not trained on


@dataclass
class Subject:
    """A classifier and the images it gets right: wrong ones are broken before any attack and cost nobody time.

    Attributes:
        name: for tables and files.
        model: pixels in [0, 1] to logits, fp32.
        image_NCHW, label_N: the images that the clean model gets right.
        n: images drawn, the wrong ones included.
        fingerprint: of weights, images and labels.
    """

    name: str
    model: nn.Module
    image_NCHW: Tensor
    label_N: Tensor
    n: int
    fingerprint: str


def zero_shot_subject(source: str, data: str, n: int, seed: int = 0) -> Subject:
    """A dual encoder (a run folder, a model's folder, `nano`) as zero-shot classifier on `n` images of `data`."""
    model = load_model(source)
    images = find_data(data, image_size=model.image_size)
    classifier = ZeroShotClassifier(model, images.class_names, images.templates)
    image_NCHW, label_N = _pixels(images.sample(n, seed))
    *_, folder, name = ("", *Path(source).parts)
    return _right_ones(name if folder in ("", "runs") else f"{folder}-{name}", classifier, image_NCHW, label_N)


def random_vit_b_32(n: int, classes: int = 10, seed: int = 0) -> Subject:
    """CLIP's ViT-B/32 at 224 px with random weights on random images, labelled by itself: for speed, not for accuracies."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    shape: dict[str, Any] = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**shape, image_size=224, patch_size=32, projection_dim=512))
    encoder = TowerOnly(tower)
    classifier = ZeroShotClassifier(encoder, [f"class {i}" for i in range(classes)])
    image_NCHW = torch.rand(n, 3, 224, 224, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        label_N = torch.cat([classifier(part).argmax(1) for part in image_NCHW.split(16)])
    return _right_ones("vit-b-32", classifier, image_NCHW, label_N)


def TowerOnly(tower: nn.Module) -> Any:
    """A dual encoder whose texts are random directions: the text tower plays no part in an attack."""
    from tima.models.dual_encoder import DualEncoder
    from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder

    class Encoder(HuggingFaceEncoder):
        def __init__(self) -> None:
            DualEncoder.__init__(self, CLIP_MEAN, CLIP_STD)
            tower.config.vision_config, tower.config.model_type = tower.config, "clip"
            self.backbone, self.name, self.image_size, self.embed_dim = tower, "vit-b-32", 224, 512
            self.image_prefixes, self.text_prefixes, self.text_projection_prefixes = ("",), (), ()
            self._lean_dtype = self._lean_kept = self._lean_states = None
            self._compiled, self._recompute = {}, False
            self.eval().requires_grad_(False)

        @property
        def logit_scale(self) -> Tensor:
            return torch.tensor(100.0)

        def _image_features(self, normalised_BCHW: Tensor) -> Tensor:
            return self.backbone(pixel_values=normalised_BCHW).image_embeds

        def tokenize(self, texts: Any) -> dict[str, Tensor]:
            return {"number_C": torch.arange(len(texts))}

        def _text_features(self, tokens: Any) -> Tensor:
            return torch.randn(len(tokens["number_C"]), 512, generator=torch.Generator().manual_seed(0))

    return Encoder()


def conv_subject(
    folder: Path, n: int, *, data: str = "cifar10", epochs: int = 15, eps: float = 4 / 255, seed: int = 0
) -> Subject:
    """A small convolutional network, adversarially trained (Madry et al. 2018) on the images of `data` that are not attacked.

    Trained once and kept in `folder`. 500 images are held out; `n`, at most all of them, are attacked.
    """
    images = find_data(data, image_size=32)
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    network, file = conv_network(len(images.class_names)), folder / f"conv-{data}-{epochs}-{seed}.pt"
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
    else:
        train_conv(network, *_pixels(images.subset(drawn[HELD_OUT:].tolist())), epochs=epochs, eps=eps, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), file)
    network.eval().requires_grad_(False)
    return _right_ones("conv", network, *_pixels(images.subset(drawn[: min(n, HELD_OUT)].tolist())))


def conv_network(classes: int, width: int = 24) -> nn.Sequential:
    """Three convolutions without normalisation layers, 32 px."""
    torch.manual_seed(0)
    w = width
    return nn.Sequential(
        *(nn.Conv2d(3, w, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(2 * w, 2 * w, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2 * w * 64, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def train_conv(
    network: nn.Module, image_NCHW: Tensor, label_N: Tensor, *, epochs: int, eps: float, seed: int, batch: int = 128
) -> None:
    """Adam on images attacked by three steps of PGD, eps grown over the first third, with a cosine schedule."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(label_N) // batch)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in range(steps):
        if step % (len(label_N) // batch) == 0:
            order = torch.randperm(len(label_N), generator=generator)
        index = order[(step % (len(label_N) // batch)) * batch :][:batch]
        image_BCHW, label_B = image_NCHW[index], label_N[index]
        if torch.rand((), generator=generator) < 0.5:
            image_BCHW = image_BCHW.flip(-1)
        now = eps * min(1, (step + 1) / max(steps / 3, 1))
        adv_BCHW = pgd(network, image_BCHW, label_B, now, steps=3, keep_best=False, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(adv_BCHW), label_B).backward()
        optimizer.step()
        scheduler.step()


def _pixels(images: Any) -> tuple[Tensor, Tensor]:
    batch = images.collate(images.__getitems__(range(len(images))))
    return batch.image_BCHW.float() / 255, batch.label_B


def _right_ones(name: str, model: nn.Module, image_NCHW: Tensor, label_N: Tensor) -> Subject:
    model.eval().requires_grad_(False)
    with torch.no_grad():
        right_N = torch.cat([model(part).argmax(1) for part in image_NCHW.split(64)]) == label_N
    digest = hashlib.sha256()
    for tensor in (*model.state_dict().values(), image_NCHW, label_N):
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return Subject(name, model, image_NCHW[right_N], label_N[right_N], len(label_N), digest.hexdigest()[:16])
