"""`tima.robustify`: every kind of data, the same class back, the original untouched, and refusals that say what is wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from exported import tiny_siglip, tiny_two_tower
from PIL import Image

import tima
from tima._robustify import Resized, _levels, _resizes_as_we_do
from tima.data import ImageSet, decode
from tima.data.in_memory import Encoded, as_image_set
from tima.errors import DataError, ModelError, RecipeError, TimaError
from tima.models import load_model
from tima.models.hugging_face import HuggingFaceEncoder, write_preprocessor

QUICK: dict[str, Any] = dict(steps=3, batch_size=8, val_samples=8, val_attack_steps=1, held_out_classes=0, progress=False)


class Processor:
    """What robustify needs of one; transformers' own classes have the same two attributes."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor


def clip_processor(tokenizer: Any, size: int = 16, **changes: Any) -> Any:
    import transformers

    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)  # the name that version 5 has for it
    settings = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size}) | changes
    return Processor(tokenizer, kind(**settings))


def siglip_processor(tokenizer: Any, size: int = 16) -> Any:
    import transformers

    kind = getattr(transformers, "SiglipImageProcessorPil", transformers.SiglipImageProcessor)
    made = kind(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Processor(tokenizer, made)


def pairs_of(images: ImageSet) -> list[tuple[Any, str]]:
    """The same pictures in every form that is taken, by turns."""
    found: list[tuple[Any, str]] = []
    for i in range(len(images)):
        data = images.read(i)
        picture = Image.open(io.BytesIO(data))  # type: ignore[arg-type]
        found.append(((data, picture, np.asarray(picture))[i % 3], images.class_names[int(images.label_B[i])]))
    return found


def dataset_of(images: ImageSet, named: bool = True) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        picture=datasets.Image(), label=datasets.ClassLabel(names=images.class_names) if named else datasets.Value("string")
    )
    labels = images.label_B.tolist()
    rows = {
        "picture": [{"bytes": images.read(i), "path": None} for i in range(len(images))],
        "label": labels if named else [images.class_names[label] for label in labels],
    }
    return datasets.Dataset.from_dict(rows, features=features)


# tuning -----------------------------------------------------------------------------------------------------------


def test_the_original_is_untouched_and_the_copy_is_tuned(tiny_clip: HuggingFaceEncoder) -> None:
    model = tiny_clip.backbone.train()
    model.logit_scale.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    tuned, record = tima.robustify(model, clip_processor(tiny_clip.tokenizer), make_image_set(24), method="tecoa", **QUICK)
    assert type(tuned) is type(model) and tuned is not model and tuned.training and not tuned.logit_scale.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training
    assert model.config.to_dict() == config
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("vision_model.", "visual_projection.")) for name in moved)
    assert record.recipe.method == "tecoa" and record.summary["steps"] == 3 and record.folder is None
    assert record.recipe.precision in ("fp32", "bf16")  # what `auto` became
    assert record.metrics[-1]["kind"] == "val" and "step 3 of 3 kept" in str(record)
    assert tima.robustify is tima.robustify and callable(tima.robustify)  # and not the module of that name


def test_training_makes_it_more_robust(tiny_clip: HuggingFaceEncoder) -> None:
    settings = QUICK | dict(steps=60, lr=3e-3, precision="fp32", augment="none", val_samples=40, val_every=60)
    images = make_image_set(96)
    _, record = tima.robustify(
        tiny_clip.backbone, clip_processor(tiny_clip.tokenizer), images, method="tecoa", eps="2/255", **settings
    )
    losses = [line["loss"] for line in record.metrics if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0] and record.recipe.eps == pytest.approx(2 / 255)


def test_half_precision_comes_back_as_it_went(tiny_clip: HuggingFaceEncoder) -> None:
    model = tiny_clip.backbone.half().eval()
    tuned, _ = tima.robustify(model, clip_processor(tiny_clip.tokenizer), make_image_set(24), **QUICK)
    assert {p.dtype for p in tuned.parameters()} == {p.dtype for p in model.parameters()} == {torch.float16}
    assert not tuned.training


@pytest.mark.parametrize("make", [tiny_siglip, tiny_two_tower], ids=["siglip", "two towers"])
def test_other_families(tokenizer: Any, make: Any) -> None:
    encoder = make(tokenizer)
    tuned, _ = tima.robustify(encoder.backbone, siglip_processor(tokenizer), make_image_set(24), method="tecoa", **QUICK)
    assert type(tuned) is type(encoder.backbone)
    own = dict(encoder.backbone.named_parameters())
    assert any(not torch.equal(p, own[name]) for name, p in tuned.named_parameters() if name.startswith("vision_model"))


def test_a_kept_run_is_a_run(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    images = make_image_set(24)
    processor = clip_processor(tiny_clip.tokenizer, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    tuned, record = tima.robustify(tiny_clip.backbone, processor, images, out=tmp_path / "run", **QUICK)
    assert record.folder == tmp_path / "run"
    loaded = load_model(tmp_path / "run")
    assert loaded.mean_C11.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert loaded.std_C11.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in loaded.backbone.state_dict().items())
    stamp = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    again, _ = tima.robustify(tiny_clip.backbone, processor, images, out=tmp_path / "run", **QUICK)
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == stamp  # finished, so not trained again
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), tuned.parameters(), strict=True))
    other = build_tiny_clip(tiny_clip.tokenizer, seed=1).backbone
    with pytest.raises(TimaError, match="holds a run with other settings"):
        tima.robustify(other, processor, images, out=tmp_path / "run", **QUICK)
    with pytest.raises(TimaError, match="holds a run with other settings"):
        tima.robustify(tiny_clip.backbone, processor, make_image_set(32), out=tmp_path / "run", **QUICK)


# data -------------------------------------------------------------------------------------------------------------


def test_the_same_pictures_in_every_form_train_the_same_model(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    images = make_image_set(24)
    images.class_names = sorted(images.class_names)  # folders and pairs are sorted
    write_image_folder(images, tmp_path / "data")
    order = sorted(range(24), key=lambda i: (int(images.label_B[i]), str(i)))  # as files in folders are
    same = images.subset(order)
    processor = clip_processor(tiny_clip.tokenizer)
    found = [
        tima.robustify(tiny_clip.backbone, processor, data, **QUICK)[0]
        for data in (same, pairs_of(same), dataset_of(same), dataset_of(same, named=False), str(tmp_path / "data"))
    ]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), other.parameters(), strict=True))


def test_pictures_are_resized_as_the_processor_does() -> None:
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (20, 60, 3), dtype=np.uint8))
    squash = siglip_processor(None).image_processor
    assert not _resizes_as_we_do(squash, 16) and _resizes_as_we_do(clip_processor(None).image_processor, 16)
    reader = Resized(Encoded([wide, wide.convert("L")]), squash)
    expected = np.asarray(wide.resize((16, 16), Image.Resampling(squash.resample)))
    np.testing.assert_array_equal(decode(reader(0), 16).permute(1, 2, 0).numpy(), expected)
    assert decode(reader(1), 16).shape == (3, 16, 16)  # grey pictures too
    np.testing.assert_array_equal(_levels(squash, [wide])[0].transpose(1, 2, 0), expected)


def test_a_dataset_dict_gives_its_training_split_and_a_stream_is_refused() -> None:
    datasets = pytest.importorskip("datasets")
    table = dataset_of(make_image_set(24))
    held = datasets.DatasetDict(train=table.select(range(8)), test=table)
    assert len(as_image_set(held, 16)) == 8
    with pytest.raises(DataError, match="no 'train'"):
        as_image_set(datasets.DatasetDict(test=table), 16)
    with pytest.raises(DataError, match="has no length"):
        as_image_set(table.to_iterable_dataset(), 16)
    with pytest.raises(DataError, match=r"it has: label \(ClassLabel"):
        as_image_set(table.remove_columns("picture"), 16)
    with pytest.raises(DataError, match="numbers without names"):
        as_image_set(table.cast_column("label", datasets.Value("int64")), 16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "is empty"),
        ([("a.png", 3)], "Item 0 of the data must be .* but is the label 3, a int"),
        ([("a.png", "cat"), "b.png"], "Item 1 of the data must be .* but is a str"),
        ([(np.zeros((4, 4, 3)), "cat")], r"Item 0 .* not a ndarray of float64 \(4, 4, 3\)"),
        ({"cat": []}, "dict cannot be used as training data"),
        (7, "int cannot be used"),
        (None, "got no data"),
        ("no-such-set", "was not found"),
    ],
)
def test_data_that_cannot_be_used(tiny_clip: HuggingFaceEncoder, data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tima.robustify(tiny_clip.backbone, clip_processor(tiny_clip.tokenizer), data, **QUICK)


# models and settings that do not fit ------------------------------------------------------------------------------


def test_what_is_no_dual_encoder_or_no_processor(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    images, tokenizer = make_image_set(8), tiny_clip.tokenizer
    processor = clip_processor(tokenizer)
    with pytest.raises(
        ModelError, match=r"takes a CLIPModel, SiglipModel, VisionTextDualEncoderModel .* not a CLIPVisionModel"
    ):
        tima.robustify(tiny_clip.backbone.vision_model, processor, images)
    with pytest.raises(ModelError, match="lacks an image_processor"):
        tima.robustify(tiny_clip.backbone, tokenizer if hasattr(tokenizer, "tokenizer") else Processor(tokenizer, None), images)
    with pytest.raises(ModelError, match="makes pictures of 3 x 24 x 24, the model takes 3 x 16 x 16"):
        tima.robustify(tiny_clip.backbone, clip_processor(tokenizer, size=24), images)
    with pytest.raises(ModelError, match=r"does not bring pixels to \[0, 1\]"):
        tima.robustify(tiny_clip.backbone, clip_processor(tokenizer, rescale_factor=1.0), images)
    small = tiny_clip.backbone
    small.config.text_config.vocab_size = 5
    with pytest.raises(ModelError, match="do not belong together"):
        tima.robustify(small, processor, images)


def test_settings_are_checked(tiny_clip: HuggingFaceEncoder) -> None:
    processor, images = clip_processor(tiny_clip.tokenizer), make_image_set(8)
    with pytest.raises(RecipeError, match="learning_rate: there is no such setting"):
        tima.robustify(tiny_clip.backbone, processor, images, learning_rate=1e-3)
    with pytest.raises(RecipeError, match="visual prompt is no part of a Hugging Face model"):
        tima.robustify(tiny_clip.backbone, processor, images, prompt={"size": 2})


def test_a_real_processor_from_a_folder(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    tiny_clip.save_pretrained(tmp_path)
    write_preprocessor(tmp_path, 16, [0.5] * 3, [0.5] * 3)
    tuned, _ = tima.robustify(tiny_clip.backbone, AutoProcessor.from_pretrained(tmp_path), make_image_set(24), **QUICK)
    assert type(tuned).__name__ == "CLIPModel"


def test_a_kept_run_knows_its_pictures_and_its_normalisation(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same labels, other pixels: the stored model answers for other data, so it is not handed out."""
    images, processor = make_image_set(24), clip_processor(tiny_clip.tokenizer)
    turned = [(Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))), name) for data, name in (  # type: ignore[arg-type]
        (images.read(i), images.class_names[int(images.label_B[i])]) for i in range(len(images))
    )]  # fmt: skip
    tima.robustify(tiny_clip.backbone, processor, pairs_of(images), out=tmp_path / "run", **QUICK)
    with pytest.raises(TimaError, match="holds a run with other settings"):
        tima.robustify(tiny_clip.backbone, processor, turned, out=tmp_path / "run", **QUICK)
    with pytest.raises(TimaError, match="holds a run with other settings"):
        other = clip_processor(tiny_clip.tokenizer, image_mean=[0.1, 0.2, 0.3])
        tima.robustify(tiny_clip.backbone, other, pairs_of(images), out=tmp_path / "run", **QUICK)
    monkeypatch.chdir(tmp_path)  # the same folder under another name is the same run
    assert tima.robustify(tiny_clip.backbone, processor, pairs_of(images), out="run", **QUICK).record.folder == Path("run")


def test_ten_pictures_leave_one_to_validate_with(tiny_clip: HuggingFaceEncoder) -> None:
    """2 % of ten pictures is one, which may be of a held-out class: then the set of seen classes had nothing."""
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 256, (20, 24, 3), dtype=np.uint8), ("cat", "dog", "ship", "car", "tree")[i % 5]) for i in range(10)
    ]
    settings = QUICK | {"held_out_classes": 0.1, "steps": 1, "batch_size": 2}
    record = tima.robustify(tiny_clip.backbone, clip_processor(tiny_clip.tokenizer), pairs, **settings).record
    assert record.summary["val"]["seen"]["n"] >= 1 and record.summary["val"]["unseen"]["n"] >= 1
    assert record.summary["train_images"] >= 2
    images, held = make_image_set(24, classes=4), torch.randperm(4, generator=torch.Generator().manual_seed(1))[:2]
    is_held_B = torch.isin(images.label_B, held)
    for part_B, message in (
        (is_held_B, "has 0 pictures of the 2 classes"),
        (~is_held_B, "no pictures of the held-out classes"),
    ):
        some = images.subset(part_B.nonzero().flatten())  # the class list still names all four
        with pytest.raises(DataError, match=message):
            tima.robustify(tiny_clip.backbone, clip_processor(tiny_clip.tokenizer), some, **settings)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV"])
def test_pictures_in_modes_that_png_lacks(mode: str) -> None:
    level_HWC = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(level_HWC).convert("RGB")
    picture = picture.convert(mode) if mode != "LAB" else Image.new("LAB", (16, 16), (128, 128, 128))
    images = as_image_set([(picture, "cat"), (picture, "dog")], 16)
    assert np.array_equal(decode(images.read(0), 16).numpy(), np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
