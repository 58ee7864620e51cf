"""The 15 corruptions: range, determinism, growth with severity, and formulas by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tima.errors import DataError, RecipeError
from tima.models import ZeroShotClassifier
from tima.probes.corrupted import probe_corruptions
from tima.probes.corruptions import CORRUPTIONS, TABLES, corrupt, table_for
from tima.probes.corruptions.blur import glass_blur
from tima.probes.pictures import load_pixels

each = pytest.mark.parametrize("name", CORRUPTIONS)


def picture(side: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some detail, spread over most of the range."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.uniform(-1, 1, (side, side, 3)), (side / 24, side / 24, 0))
    return np.clip(120 + 60 * rough / rough.std(), 0, 255).astype(np.uint8)


def change(image: np.ndarray, name: str, severity: int) -> float:
    return float(np.mean([np.abs(corrupt(image, name, severity, index=i).astype(int) - image).mean() for i in range(4)]))


@each
@pytest.mark.parametrize("side", [32, 48, 72])
def test_changes_the_picture_and_keeps_its_form(name: str, side: int) -> None:
    image = picture(side)
    for severity in (1, 5):
        out = corrupt(image, name, severity, seed=1, index=2)
        assert out.dtype == np.uint8 and out.shape == image.shape
        assert (out != image).mean() > 0.005, f"severity {severity} changes next to nothing"
        assert np.array_equal(out, corrupt(image, name, severity, seed=1, index=2))


@each
@pytest.mark.parametrize("side", [32, 72])
def test_grows_with_severity(name: str, side: int) -> None:
    image = picture(side)
    # the first two published severities of the elastic transform are mostly its affine map, the others mostly its field
    first = 3 if name == "elastic_transform" and table_for(side) == "imagenet-c" else 1
    if name == "elastic_transform" and first == 1:
        pytest.skip("the published CIFAR-C severities of the elastic transform do not grow in mean change")
    assert change(image, name, 5) > change(image, name, first)


@each
def test_random_ones_draw_anew_for_each_image_and_seed(name: str) -> None:
    image = picture(32)
    first = corrupt(image, name, 5)
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(first, corrupt(image, name, 5, index=1)) != random
    assert np.array_equal(first, corrupt(image, name, 5, seed=1)) != random


def test_formulas_by_hand() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    grey[:16] = 200
    # mean 150: 150 +- 50 * 0.75 and 0.15
    assert np.unique(corrupt(grey, "contrast", 1)).tolist() == [112, 187]
    assert np.unique(corrupt(grey, "contrast", 5)).tolist() == [142, 157]
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0], red[..., 1] = 102, 51  # V = 0.4 becomes 0.7: all channels times 1.75
    assert corrupt(red, "brightness", 5)[0, 0].tolist() == [178, 89, 0]
    assert corrupt(np.zeros_like(red), "brightness", 2)[0, 0].tolist() == [25, 25, 25]
    flat = np.full((64, 64, 3), 128, np.uint8)
    noise = corrupt(flat, "gaussian_noise", 3).astype(float) / 255
    assert noise.std() == pytest.approx(0.08, rel=0.05)
    shot = corrupt(flat, "shot_noise", 5).astype(float) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.05)
    impulse = corrupt(flat, "impulse_noise", 5)
    assert (impulse != 128).mean() == pytest.approx(0.07, abs=0.01)
    assert set(np.unique(impulse)) == {0, 128, 255}


def test_glass_writes_one_pixel_over_the_other_as_the_published_script_does() -> None:
    image, reach = picture(24) / 255.0, 2
    got = glass_blur(image, (0.7, reach, 2), np.random.default_rng(5))
    rng, x = np.random.default_rng(5), ndimage.gaussian_filter(image, (0.7, 0.7, 0), mode="nearest")
    for _ in range(2):
        step = rng.integers(-reach, reach, (24, 24, 2))
        for h in range(24 - reach, reach, -1):
            for w in range(24 - reach, reach, -1):
                dx, dy = step[h, w]
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]  # views: the second assignment changes nothing
    assert np.allclose(got, ndimage.gaussian_filter(x, (0.7, 0.7, 0), mode="nearest"))


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "glass_blur", "zoom_blur", "pixelate", "elastic_transform"])
def test_what_moves_pixels_leaves_a_flat_picture_as_it_is(name: str) -> None:
    flat = np.full((32, 32, 3), 77, np.uint8)
    assert np.array_equal(corrupt(flat, name, 5), flat)


def test_tables_cover_every_corruption() -> None:
    assert all(list(table) == list(CORRUPTIONS) and all(len(c) == 5 for c in table.values()) for table in TABLES.values())
    assert (table_for(32), table_for(48), table_for(224)) == ("cifar-c", "cifar-c", "imagenet-c")


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="uint8"):
        corrupt(np.zeros((32, 32, 3)), "fog", 1)
    with pytest.raises(RecipeError, match="no corruption 'rain'"):
        corrupt(picture(32), "rain", 1)
    with pytest.raises(RecipeError, match="Severity 6"):
        corrupt(picture(32), "fog", 6)


def test_the_means_are_those_of_the_cells(tiny_clip, toy_set) -> None:  # type: ignore[no-untyped-def]
    said = ZeroShotClassifier(tiny_clip, toy_set.class_names)(load_pixels(toy_set)[0].float() / 255).argmax(1)
    toy_set = replace(toy_set, label_B=torch.where(torch.arange(24) % 4 == 0, (said + 1) % 4, said))  # 18 of 24 right
    names = ["contrast", "gaussian_noise"]
    found = probe_corruptions(tiny_clip, toy_set, corruptions=names, severities=(1, 5))
    cells = {n: [found.find("accuracy", group=n, severity=s).value for s in (1, 5)] for n in names}
    for name in names:
        assert found.find("mean accuracy", group=name).value == pytest.approx(np.mean(cells[name]))
    mean = found.find("mean accuracy", group="all corruptions")
    assert mean.value == pytest.approx(np.mean(list(cells.values()))) and mean.low <= mean.value <= mean.high
    clean = found.find("accuracy", group="clean").value
    assert clean == 0.75
    assert found.find("relative to clean").value == pytest.approx(mean.value / clean)
    assert found.settings["table"] == "cifar-c"
    again = probe_corruptions(tiny_clip, toy_set, corruptions=names, severities=(1, 5), batch_size=5)
    assert again.rows == found.rows


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in ("frost", "elastic_transform")])
def test_agrees_with_the_published_package_where_it_is_installed(name: str) -> None:
    """The other two differ and docs/probes.md says how."""
    published = pytest.importorskip("imagecorruptions", reason="pip install imagecorruptions-imaug")
    image = picture(224)

    def theirs(draw: int) -> np.ndarray:
        np.random.seed(draw)
        return np.asarray(published.corrupt(image.copy(), corruption_name=name, severity=3)).astype(np.uint8).astype(int)

    made = [corrupt(image, name, 3, index=i, table="imagenet-c").astype(int) for i in range(12)]
    if np.array_equal(made[0], made[1]):
        assert np.abs(made[0] - theirs(0)).mean() < 0.1
    else:
        ours, others = (np.mean([np.abs(x - image).mean() for x in found]) for found in (made, [theirs(i) for i in range(12)]))
        assert ours / others == pytest.approx(1, abs=0.25 if name == "fog" else 0.06)
