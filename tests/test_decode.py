"""`decode`: CLIP's own preprocessing on ordinary pictures, sense on strange ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from processors import CLIPImageProcessorPil
from torch import Tensor

from tima.data import BadImage, ImageSet, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise on them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "size", [(32, 32), (33, 47), (47, 33), (31, 97), (97, 31), (300, 301), (641, 333), (20, 20), (7, 11), (32, 45), (500, 375)]
)
def test_equals_clips_image_processor(size: tuple[int, int], kind: str) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False)
    data = encoded(photo(*size), kind)
    with Image.open(io.BytesIO(data)) as image:
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = decode(data, 32).float() / 255
    assert (ours - theirs).abs().max() <= 1 / 255 + 1e-6


def test_equals_clips_image_processor_on_a_large_jpeg() -> None:
    """At a reduced JPEG scale (`draft`) it would be off by several levels."""
    data = encoded(photo(1200, 900), "JPEG", quality=90)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_normalize=False)
    with Image.open(io.BytesIO(data)) as image:
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    assert (decode(data, 64).float() / 255 - theirs).abs().max() <= 1 / 255 + 1e-6


def test_pictures_of_the_right_size_pass_through(tmp_path: Path) -> None:
    image = photo(24, 24)
    (tmp_path / "x.png").write_bytes(encoded(image))
    for source in (encoded(image), tmp_path / "x.png"):
        out = decode(source, 24)
        assert out.dtype == torch.uint8 and out.is_contiguous()
        assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(image))


def flat(mode: str, value: object, size: int = 16) -> Image.Image:
    return Image.new(mode, (size, size), value)  # type: ignore[arg-type]


def palette(transparent: bool) -> bytes:
    image = flat("RGB", (200, 10, 10)).convert("P", palette=Image.Palette.ADAPTIVE)
    return encoded(image, transparency=0) if transparent else encoded(image)


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        pytest.param(encoded(flat("RGB", (200, 10, 10))), (200, 10, 10), id="rgb"),
        pytest.param(encoded(flat("L", 99)), (99, 99, 99), id="grey"),
        pytest.param(encoded(flat("1", 1)), (255, 255, 255), id="one bit"),
        pytest.param(encoded(flat("RGBA", (200, 10, 10, 255))), (200, 10, 10), id="rgba opaque"),
        pytest.param(encoded(flat("RGBA", (200, 10, 10, 0))), (255, 255, 255), id="rgba transparent is white"),
        pytest.param(encoded(flat("RGBA", (0, 0, 0, 51))), (204, 204, 204), id="rgba half transparent"),
        pytest.param(encoded(flat("LA", (40, 0))), (255, 255, 255), id="grey with alpha"),
        pytest.param(palette(False), (200, 10, 10), id="palette"),
        pytest.param(palette(True), (255, 255, 255), id="palette with a transparent colour"),
        pytest.param(
            encoded(flat("RGB", (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255), id="rgb with a transparent colour"
        ),
        pytest.param(encoded(flat("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0), id="cmyk"),
        pytest.param(encoded(flat("I;16", 32896)), (128, 128, 128), id="16 bit png"),
        pytest.param(encoded(flat("I;16", 65535), "TIFF"), (255, 255, 255), id="16 bit tiff"),
        pytest.param(encoded(flat("I", 200), "TIFF"), (200, 200, 200), id="32 bit integers of 8 bit range"),
        pytest.param(encoded(flat("I", 65535), "TIFF"), (255, 255, 255), id="32 bit integers of 16 bit range"),
        pytest.param(encoded(flat("RGB", (200, 10, 10)), "WEBP", lossless=True), (200, 10, 10), id="webp"),
        pytest.param(encoded(flat("RGB", (200, 10, 10)), "BMP"), (200, 10, 10), id="bmp"),
        pytest.param(
            encoded(flat("P", 0), "GIF", save_all=True, append_images=[flat("P", 1)]), (0, 0, 0), id="first frame of a gif"
        ),
        pytest.param(encoded(flat("YCbCr", (128, 128, 128)), "TIFF"), (128, 128, 128), id="ycbcr"),
    ],
)
def test_every_mode_comes_out_as_rgb(data: bytes, rgb: tuple[int, int, int]) -> None:
    out = decode(data, 12)
    assert out.shape == (3, 12, 12)
    assert (out.flatten(1).float().mean(1) - torch.tensor(rgb, dtype=torch.float)).abs().max() <= 1


def test_16_bit_greys_keep_their_gradations() -> None:
    ramp = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    out = decode(encoded(Image.fromarray(ramp)), 16)
    assert np.array_equal(out[0].numpy(), (ramp / 257).round().astype(np.uint8))


def half_white(orientation: int) -> bytes:
    """Left half white, right half black, with an EXIF tag that says how to turn it."""
    array = np.zeros((16, 16, 3), np.uint8)
    array[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(array), "PNG", exif=exif)


def test_exif_orientation_is_ignored_as_clip_does_unless_upright_is_asked_for() -> None:
    turned = half_white(6)  # to be shown rotated by 90 degrees clockwise: the left half goes to the top
    as_stored, upright = decode(turned, 16), decode(turned, 16, upright=True)
    assert as_stored[:, :, :4].min() == 255 and as_stored[:, :, 12:].max() == 0
    assert upright[:, :4].min() == 255 and upright[:, 12:].max() == 0
    assert torch.equal(decode(half_white(1), 16, upright=True), as_stored)
    no_tag = encoded(photo(16, 16))
    assert torch.equal(decode(no_tag, 16, upright=True), decode(no_tag, 16))


def claiming(side: int) -> bytes:
    """A small PNG whose header claims `side x side` pixels: what a decompression bomb looks like before it is unpacked."""
    data = encoded(flat("L", 0))
    header = data[12:16] + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("side", [8_001, 9_000, 12_000, 30_000, 2_000_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    images = ImageSet("x", ["a"], torch.tensor([0]), lambda i: claiming(side), lambda i: "bomb.png")
    bad = images[0][0]
    assert isinstance(bad, BadImage) and bad.where == "bomb.png" and "pixels" in bad.why


def test_a_sliver_does_not_blow_up_when_its_short_side_is_enlarged() -> None:
    with pytest.raises(ValueError, match="far too long"):
        decode(encoded(Image.new("L", (60_000, 1))), 224)
    assert decode(encoded(Image.new("L", (400, 1))), 8).shape == (3, 8, 8)


def test_floating_point_pixels_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        decode(encoded(Image.new("F", (8, 8)), "TIFF"), 8)


@pytest.mark.parametrize("keep", [0, 1, 8, 20, 60, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_never_end_a_run(kind: str, keep: float) -> None:
    whole = encoded(photo(40, 40), kind)
    part = whole[: int(keep if keep >= 1 else keep * len(whole))]
    item = ImageSet("x", ["a"], torch.tensor([0]), lambda i: part, str, image_size=16)[0][0]
    assert isinstance(item, BadImage) or (isinstance(item, Tensor) and item.shape == (3, 16, 16))
    if keep in (0, 1, 8):
        assert isinstance(item, BadImage)


def test_damaged_bytes_never_end_a_run() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF"):
        whole = np.frombuffer(encoded(photo(24, 24), kind), np.uint8)
        for _ in range(20):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            item = ImageSet("x", ["a"], torch.tensor([0]), [broken.tobytes()].__getitem__, str, image_size=16)[0][0]
            assert isinstance(item, (BadImage, Tensor))


def test_colour_profiles_do_not_stop_a_picture() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(photo(20, 20), "JPEG", icc_profile=profile), 16).shape == (3, 16, 16)


def test_a_program_in_a_pictures_clothes_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL hands EPS, whatever it is called, to Ghostscript, which runs it."""
    from PIL import EpsImagePlugin

    def run(*words: object, **options: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    data = encoded(photo(32, 32), "EPS")
    (tmp_path / "cat.jpg").write_bytes(data)
    for source in (data, tmp_path / "cat.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'):
        with pytest.raises(OSError, match="cannot identify"):
            decode(source, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", "PCX", "ICO"])
def test_the_formats_of_the_docs_are_read(kind: str) -> None:
    assert decode(encoded(photo(32, 32), kind), 32).shape == (3, 32, 32)
