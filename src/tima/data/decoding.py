"""`decode`: an encoded picture to the model's input grid, by CLIP's preprocessing.

The same steps as transformers' `CLIPImageProcessor` on PIL (RGB; bicubic, antialiased, short side to S; centre crop), so
that numbers agree with what others measure. JPEGs are decoded in full for that reason, not at a reduced scale.
"""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MAX_PIXELS = 64_000_000  # a picture larger than this is refused: decompression bombs end up here too
# by content, whatever a file is called. Not among them: EPS, for which PIL starts Ghostscript on a program of the file's author
_FORMATS = ["AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"]


@cache
def readable() -> tuple[str, ...]:
    """PIL's names of the formats that are read; AVIF only where PIL was built with it."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def decode(source: bytes | Path, image_size: int, *, upright: bool = False, formats: Sequence[str] | None = None) -> Tensor:
    """Encoded picture to uint8 `3 x S x S`.

    Transparency is laid on white; 16-bit greys are scaled to 8.

    Args:
        source: the file's bytes or its path.
        image_size: `S`.
        upright: turn the picture as its EXIF orientation says. Off by default, because CLIP's own preprocessing and every
            published evaluation ignore that tag; on for photos that a person hands in.
        formats: PIL's names of the formats to accept; `readable()` by default. Fewer for bytes that a stranger hands in.

    Raises:
        OSError, ValueError or another error of PIL's readers: the picture cannot be read or is too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accepted = list(readable() if formats is None else formats)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=accepted) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
            rgb = to_rgb(ImageOps.exif_transpose(image) if upright else image)
    width, height = rgb.size
    if (width, height) != (image_size, image_size):
        short = min(width, height)
        width, height = image_size * width // short, image_size * height // short  # rounded down, as CLIP's processor does
        if width * height > MAX_PIXELS:
            raise ValueError(f"{rgb.width} x {rgb.height} pixels: far too long for its width to be resized")
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        rgb = rgb.crop((left, top, left + image_size, top + image_size))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of PIL's modes to RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range the file does not state")
    if image.mode.startswith("I"):  # PIL would clip 16-bit greys at 255: everything white
        grey = np.asarray(image).astype(np.int64)
        top = 65535 if image.mode != "I" or grey.max() > 255 else 255
        return Image.fromarray((grey.clip(0, top) * 255 / top).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
