"""Pictures of strangers: judged by their content and their header before a single pixel is decoded; and back to PNG.

Shapes: `C` channels, `H, W` pixels, `S` side of a model's input grid.
"""

import base64
import io
import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tima.data import decode
from tima.serve.limits import Limits
from tima.serve.problems import Problem

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_SCANS = 200  # of a JPEG. A progressive one has about ten; each costs a walk through all pixels for a few bytes of the file
MOST_PROFILES = 8  # of a PNG, which may have one. Each is unpacked by a factor of a thousand when the header is read
LARGE = 8_000_000  # pixels. Larger pictures are decoded one at a time: one of 40 million takes about a gigabyte on the way
_one_large = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """Encoded bytes that may be decoded. `width` and `height` are the header's, in pixels."""

    data: bytes
    format: str
    width: int
    height: int


def check_picture(data: bytes, limits: Limits) -> Picture:
    """What the header says, if that is acceptable. Not for the event loop: a crafted header takes seconds to read.

    Raises:
        Problem: 422 without a picture or for one made to cost time, 415 for another format, 413 for too many pixels.
    """
    if not data:
        raise Problem(422, "There is no picture.", where="image", do="Send a PNG, JPEG or WebP file.")
    kind = sniff(data)
    _check_parts(data, kind)
    try:
        if kind is None:
            raise UnidentifiedImageError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise _too_many_pixels("far too many", limits) from None
    except (OSError, SyntaxError, ValueError):
        raise Problem(
            415,
            "The file is no picture in a format that is taken here; its content decides, not its name.",
            where="image",
            do="Send a PNG, JPEG or WebP file.",
        ) from None
    if width * height > limits.pixels:
        raise _too_many_pixels(f"{width} x {height}", limits)
    return Picture(data, kind, width, height)


def sniff(data: bytes) -> str | None:
    """The format by the first bytes of the content, None for any other than `FORMATS`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def to_grid(picture: Picture, side: int) -> Tensor:
    """The picture on a model's grid as uint8 `3xSxS`, turned upright as its EXIF data says.

    Raises:
        Problem: 422, the content is damaged.
    """
    try:
        with _one_large if picture.width * picture.height > LARGE else nullcontext():
            return decode(picture.data, side, upright=True, formats=[picture.format])
    except Exception as error:  # a damaged file makes PIL's readers raise nearly anything
        raise Problem(
            422,
            f"The {picture.format} file is damaged or cannot be used ({type(error).__name__}).",
            where="image",
            do="Open it in a picture program, save it again, and send that.",
        ) from None


def png_base64(image_CHW: Tensor) -> str:
    """uint8 pixels as a PNG, in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_CHW.permute(1, 2, 0).numpy())).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _check_parts(data: bytes, kind: str | None) -> None:
    """Refuse files that a few bytes make expensive. Compressed data cannot hold these markers (JPEG), or not so often (PNG)."""
    marker, most, what = {"JPEG": (b"\xff\xda", MOST_SCANS, "scans"), "PNG": (b"iCCP", MOST_PROFILES, "colour profiles")}.get(
        kind or "", (b"", 0, "")
    )
    if marker and (found := data.count(marker)) > most:
        raise Problem(
            422,
            f"The {kind} file has {found:,} {what}; {most} are taken at most.",
            where="image",
            do="Open it in a picture program, save it again, and send that.",
        )


def _too_many_pixels(found: str, limits: Limits) -> Problem:
    return Problem(
        413,
        f"The picture has {found} pixels; {limits.pixels:,} are taken at most.",
        where="image",
        do="Make it smaller: models look at a few hundred pixels a side anyway.",
    )
