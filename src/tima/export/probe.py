"""What an export is judged by: pictures, texts and our own answers to them, and the comparison that must hold.

Shapes: `B` images, `C` classes or channels, `D` embedding width, `H, W` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tima.data.decoding import decode
from tima.errors import ExportError
from tima.models import DualEncoder, encode_classes
from tima.models.zero_shot import prompts

CLASS_NAMES = ("cat", "dog", "small tree", "sailing boat", "red apple")
# of unit-norm embeddings and of normalised pixels. Logits are embeddings times the scale, and so is their tolerance: with a
# scale of 100 a rounding of fp32 in an embedding is some 1e-5 in a logit
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Probe:
    """Inputs and what our model answers.

    Attributes:
        pictures: RGB pictures; the first is on the model's grid already, the last has an odd overhang to crop.
        pixel_BCHW: the same on the grid, in [0, 1].
        class_names: what is asked, without the template.
        template: the one prompt with `{c}` that is asked with.
        image_BD: unit-norm image embeddings.
        text_CD: unit-norm prompt embeddings.
        logits_BC: our logits.
        scale: the model's logit scale.
    """

    pictures: list[Image.Image]
    pixel_BCHW: Tensor
    class_names: list[str]
    template: str
    image_BD: Tensor
    text_CD: Tensor
    logits_BC: Tensor
    scale: float

    @property
    def texts(self) -> list[str]:
        """The prompts, one a class."""
        return prompts(self.class_names, [self.template])

    @property
    def logits_tolerance(self) -> float:
        return TOLERANCE * max(1.0, self.scale)


@torch.no_grad()
def make_probe(
    model: DualEncoder, class_names: Sequence[str] = CLASS_NAMES, template: str = "a photo of a {c}.", seed: int = 0
) -> Probe:
    """Ask `model` about a few made pictures. They are smooth with some noise, so that resizing them is a fair test."""
    S = model.image_size
    sizes = ((S, S), (2 * S, 6 * S), (4 * S, 2 * S), (S, S + 1))
    rng = np.random.default_rng(seed)
    pictures = [_picture(rng, width, height) for width, height in sizes]
    pixel_BCHW = torch.stack([decode(_png(picture), S) for picture in pictures]).float() / 255
    image_BD = model.encode_image(pixel_BCHW.to(model.mean_C11.device))
    text_CD = encode_classes(model, list(class_names), [template])
    logits_BC = model.logits(image_BD, text_CD)
    if not bool(logits_BC.isfinite().all()):
        raise ExportError(f"'{model.name}' returns NaN or infinite logits: there is nothing to export. Check the checkpoint.")
    scale = float(model.logit_scale.detach())
    return Probe(pictures, pixel_BCHW, list(class_names), template, image_BD.cpu(), text_CD.cpu(), logits_BC.cpu(), scale)


def normalised(model: DualEncoder, pixel_BCHW: Tensor) -> Tensor:
    """Pixels in [0, 1] as the model's tower gets them."""
    return (pixel_BCHW - model.mean_C11.cpu()) / model.std_C11.cpu()


def compare(what: str, found: Tensor | np.ndarray, wanted: Tensor, tolerance: float) -> float:
    """The largest difference.

    Raises:
        ExportError: another shape, something that is not finite, or a difference above `tolerance`.
    """
    found = torch.as_tensor(found).detach().cpu().float()
    wanted = wanted.detach().cpu().float()
    if found.shape != wanted.shape:
        raise ExportError(f"{what} have the shape {tuple(found.shape)}, ours {tuple(wanted.shape)}. Nothing was kept.")
    worst = float((found - wanted).abs().max())
    if not worst <= tolerance:  # a NaN fails too
        raise ExportError(
            f"{what} differ from ours by {worst:.3g} at worst ({tolerance:.3g} allowed; ours reach "
            f"{float(wanted.abs().max()):.3g}). Nothing was kept."
        )
    return worst


def even_overhang(picture: Image.Image, image_size: int) -> bool:
    """Whether the centre crop leaves as much on both sides; where it cannot, libraries differ by one pixel."""
    short, long = sorted(picture.size)
    return (image_size * long // short - image_size) % 2 == 0


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy_HWC = np.asarray(coarse).astype(np.float64) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(noisy_HWC.clip(0, 255).round().astype(np.uint8))


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
