"""Visual prompt: a learned frame that is added to every image before the tower sees it.

Source: Bahng et al. 2022, arXiv 2203.17274; for adversarial robustness TeCoA, Mao et al., ICLR 2023, arXiv 2212.07016. The
frame belongs to the model: attacks see it, and it is added to adversarial images after the perturbation.

Shapes: `C` channels, `S` side of the image, `K` numbers in the frame.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tima.errors import ModelError

if TYPE_CHECKING:
    from tima.models.dual_encoder import DualEncoder

FILE = "visual_prompt.safetensors"


class PaddingPrompt(nn.Module):
    """A frame of `size` pixels, in units of normalised pixels (standard deviations), zero inside.

    Args:
        size: width of the frame in pixels.
        image_size: side of the model's grid in pixels.
        channels: of the images.

    Raises:
        ModelError: a frame without width, or one that covers the whole image.
    """

    place_K: Tensor

    def __init__(self, size: int, image_size: int, channels: int = 3) -> None:
        super().__init__()
        if not 0 < 2 * size < image_size:
            raise ModelError(
                f"A visual prompt of {size} pixels does not fit images of {image_size} pixels: it must have a width and leave "
                f"something free. At most {(image_size - 1) // 2} are possible."
            )
        self.size, self.shape = size, (channels, image_size, image_size)
        inside = torch.zeros(self.shape, dtype=torch.bool)
        inside[:, size:-size, size:-size] = True
        place_K = (~inside).flatten().nonzero()[:, 0]
        self.register_buffer("place_K", place_K, persistent=False)
        # one vector and not four strips: without a second dimension, weight decay leaves it alone
        self.value_K = nn.Parameter(torch.zeros(len(place_K)))

    def forward(self) -> Tensor:
        """The frame as an image `C x S x S`."""
        C, S, _ = self.shape
        return self.value_K.new_zeros(C * S * S).scatter(0, self.place_K, self.value_K).view(self.shape)


def save_prompt(prompt: PaddingPrompt | None, folder: str | Path) -> None:
    """Write `visual_prompt.safetensors` beside the model's weights, where there is a prompt."""
    from safetensors.torch import save_file

    if prompt is not None:
        # one entry: of several, the library writes the order as it comes, and the same prompt would have many hashes
        facts = {"padding_prompt": json.dumps({"size": prompt.size, "image_size": prompt.shape[-1]})}
        save_file({"value_K": prompt.value_K.detach().cpu().contiguous()}, Path(folder) / FILE, metadata=facts)


def load_prompt(model: "DualEncoder", folder: str | Path) -> "DualEncoder":
    """Give `model` the frozen prompt that lies in its folder, if one does; returns the model.

    Raises:
        ModelError: a damaged file, or the prompt of another model.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(folder).expanduser() / FILE
    if not file.is_file():
        return model
    try:
        with safe_open(file, framework="pt") as stored:
            size = int(json.loads((stored.metadata() or {})["padding_prompt"])["size"])
            value_K = stored.get_tensor("value_K")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read as a visual prompt ({error}). Copy the model again.") from error
    prompt = PaddingPrompt(size, model.image_size, len(model.mean_C11))
    if value_K.shape != prompt.value_K.shape or not bool(value_K.isfinite().all()):
        raise ModelError(f"{file} is no visual prompt for images of {model.image_size} pixels. Copy the model again.")
    with torch.no_grad():
        prompt.value_K.copy_(value_K)
    model.prompt = prompt.to(model.mean_C11.device).requires_grad_(False)
    return model
