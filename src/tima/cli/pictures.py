"""Tensors to picture files."""

from PIL import Image
from torch import Tensor


def to_picture(image_CHW: Tensor) -> Image.Image:
    """Pixels in [0, 1] to an 8-bit picture."""
    return Image.fromarray((image_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def side_by_side(clean_CHW: Tensor, adv_CHW: Tensor, eps: float, side: int = 256) -> Image.Image:
    """Clean, perturbation (amplified so that eps fills the range, grey = unchanged), adversarial."""
    parts = [clean_CHW, (adv_CHW - clean_CHW) / (2 * eps) + 0.5, adv_CHW]
    sheet = Image.new("RGB", (3 * side + 20, side), "white")
    for i, part in enumerate(parts):
        sheet.paste(to_picture(part).resize((side, side), Image.Resampling.NEAREST), (i * (side + 10), 0))
    return sheet
