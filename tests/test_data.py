"""Readers, the table of data sets, and what a set does with what it has read."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_image_set, png
from PIL import Image
from torch import Tensor

from tima.data import BadImage, ImageSet, find_data, known_sets
from tima.data.augment import augment
from tima.data.image_folder import read_image_folder
from tima.data.parquet import read_parquet
from tima.data.table import EMBEDDED, embedded_folder
from tima.errors import DataError

NAMES = ["cat", "dog"]


def picture(value: int, size: int = 20) -> bytes:
    return png(np.full((size, size, 3), value, np.uint8))


def write_folder(root: Path, classes: dict[str, int], suffix: str = ".png") -> Path:
    for value, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i}{suffix}").write_bytes(picture(40 * value + i))
    return root


def write_parquet(
    file: Path,
    labels: list[int | None] | list[str],
    names: list[str] | None = NAMES,
    images: list[bytes | None] | None = None,
    label_column: str = "label",
    as_struct: bool = True,
) -> Path:
    cells = images if images is not None else [picture(10 * i) for i in range(len(labels))]
    column = [{"bytes": c, "path": None} for c in cells] if as_struct else cells
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if as_struct else pa.binary()
    features = {"image": {"_type": "Image"}, label_column: {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    label_kind = pa.string() if labels and isinstance(labels[0], str) else pa.int64()
    schema = pa.schema([("image", kind), (label_column, label_kind)], metadata=metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([pa.array(column, kind), pa.array(labels, label_kind)], schema=schema), file)
    return file


def brightness(images: ImageSet) -> list[int]:
    return [int(images[i][0].float().mean()) if isinstance(images[i][0], Tensor) else -1 for i in range(len(images))]  # type: ignore[union-attr]


# ImageFolder ---------------------------------------------------------------------------------------------------------


def test_plain_image_folder(tmp_path: Path) -> None:
    images = read_image_folder(write_folder(tmp_path / "pets", {"dog": 2, "polar_bear": 1}), image_size=16)
    assert images.name == "pets"
    assert images.class_names == ["dog", "polar bear"]
    assert images.label_B.tolist() == [0, 0, 1]
    assert brightness(images) == [0, 1, 40]
    assert images[2][0].shape == (3, 16, 16) and images[2][0].dtype == torch.uint8  # type: ignore[union-attr]


def test_split_image_folder_takes_the_evaluation_split_unless_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets" / "train", {"cat": 3, "dog": 3})
    write_folder(tmp_path / "pets" / "val", {"cat": 1, "dog": 1})
    assert len(find_data(str(tmp_path / "pets"))) == 2
    assert len(find_data(f"{tmp_path / 'pets'}:train")) == 6
    assert len(find_data(str(tmp_path / "pets"), "train")) == 6
    with pytest.raises(DataError, match=r"no split 'test'; it has: train, val"):
        read_image_folder(tmp_path / "pets", "test")


def test_a_class_named_train_is_no_split(tmp_path: Path) -> None:
    images = find_data(str(write_folder(tmp_path / "vehicles", {"bus": 1, "car": 1, "train": 2})))
    assert images.class_names == ["bus", "car", "train"]


def test_classnames_and_templates_beside_the_folders(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"n01": 1, "n02": 1})
    (root / "classnames.txt").write_text("Tabby Cat\nhound_dog\n\n", encoding="utf-8-sig")
    (root / "zeroshot_classification_templates.txt").write_text("a {c}\n\nthe {c}\n")
    images = find_data(str(root))
    assert images.class_names == ["Tabby Cat", "hound_dog"]
    assert images.templates == ("a {c}", "the {c}")
    (root / "classnames.txt").write_text("cat\n")
    with pytest.raises(DataError, match="1 lines for 2 class folders"):
        find_data(str(root))
    (root / "classnames.txt").write_bytes(b"caf\xe9\ndog\n")
    with pytest.raises(DataError, match=r"classnames\.txt cannot be read as UTF-8"):
        find_data(str(root))


def test_a_blank_line_among_the_class_names_does_not_shift_the_labels(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"a": 1, "b": 1, "c": 1})
    (root / "classnames.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match="class 1 has an empty name"):
        find_data(str(root))


def test_a_text_file_among_the_pictures_is_quarantined_and_stays_so_in_subsets(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    (root / "cat" / "notes.txt").write_text("hello")
    (root / "cat" / ".DS_Store").write_text("hidden files are nobody's pictures")
    images = find_data(str(root))
    assert len(images) == 4
    for derived in (images, images.sample(2, 0), images.subset([0]), images.keep_classes([0]), images.at_size(8)):
        assert [Path(bad.where).name for bad in derived.quarantine] == ["notes.txt"]
        assert "'.txt' is not a picture format" in derived.quarantine[0].why


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 1})
    (root / "unicorn").mkdir()
    with pytest.raises(DataError, match=r"unicorn: this class has no pictures"):
        find_data(str(root))


def test_class_folders_with_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"given twice.*classes 0 and 1.*rename"):
        find_data(str(write_folder(tmp_path / "bears", {"Polar_bear": 1, "polar bear": 1})))


# parquet -------------------------------------------------------------------------------------------------------------


def test_parquet_with_names_in_its_metadata(tmp_path: Path) -> None:
    images = find_data(str(write_parquet(tmp_path / "pets" / "test.parquet", [0, 1, 1]).parent), image_size=16)
    assert (images.name, images.class_names, images.label_B.tolist()) == ("pets", NAMES, [0, 1, 1])
    assert brightness(images) == [0, 10, 20]
    assert images.label_B.dtype == torch.long


def test_one_parquet_file_and_plain_bytes_and_other_column_names(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [1, 0], label_column="fine_label", as_struct=False)
    assert find_data(str(file)).label_B.tolist() == [1, 0]


def test_classnames_file_takes_precedence_and_must_fit(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "pets" / "test.parquet", [0, 1]).parent
    (folder / "classnames.txt").write_text("tabby\nhound\n")
    assert find_data(str(folder)).class_names == ["tabby", "hound"]
    (folder / "classnames.txt").write_text("tabby\nhound\nhorse\n")
    with pytest.raises(DataError, match=r"classnames\.txt has 3 names, the parquet file's own list 2"):
        find_data(str(folder))


def test_several_files_and_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "data" / "train-00000-of-00002.parquet", [0, 1], images=[picture(1), picture(2)])
    second = tmp_path / "pets" / "data" / "train-00001-of-00002.parquet"
    write_parquet(second, [1, 0], images=[picture(3), b"broken"])
    write_parquet(tmp_path / "pets" / "data" / "test-00000-of-00001.parquet", [0])
    assert len(find_data(str(tmp_path / "pets"))) == 1
    train = find_data(f"{tmp_path / 'pets'}:train", image_size=16)
    assert train.label_B.tolist() == [0, 1, 1, 0]
    assert brightness(train) == [1, 2, 3, -1]
    bad = train[3][0]
    assert isinstance(bad, BadImage) and bad.where == f"{second}, row 1"
    with pytest.raises(DataError, match=r"no split 'val'; it has: test, train"):
        find_data(str(tmp_path / "pets"), "val")


def test_label_out_of_range_names_file_and_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "test-0.parquet", [0, 1])
    write_parquet(tmp_path / "pets" / "test-1.parquet", [1, 7])
    with pytest.raises(DataError, match=r"test-1\.parquet, row 1: label 7 is out of range.*2 classes \(0 to 1\)"):
        find_data(str(tmp_path / "pets"))
    write_parquet(tmp_path / "hidden" / "test.parquet", [0, -1])
    with pytest.raises(DataError, match=r"row 1: label -1 is out of range"):
        find_data(str(tmp_path / "hidden"))


@pytest.mark.parametrize(
    ("labels", "message"), [([0, None, 1], "row 1: the label is missing"), (["cat", "dog"], "label is 'cat'")]
)
def test_labels_that_are_none(tmp_path: Path, labels: list[int | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_parquet(write_parquet(tmp_path / "test.parquet", labels))


def test_parquet_without_names_or_columns_or_sense(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no class names\. Put a classnames\.txt"):
        read_parquet(write_parquet(tmp_path / "test.parquet", [0], names=None))
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"no image column.*found picture, label"):
        read_parquet(tmp_path / "other.parquet")
    pq.write_table(pa.table({"image": [b""], "target": [0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"no label column.*found image, target"):
        read_parquet(tmp_path / "other.parquet")
    write_parquet(tmp_path / "set" / "test-0.parquet", [0])
    (tmp_path / "set" / "test-1.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"test-1\.parquet: not a readable parquet file"):
        read_parquet(tmp_path / "set")
    with pytest.raises(DataError, match="holds no images"):
        read_parquet(write_parquet(tmp_path / "empty.parquet", []))


# find_data -----------------------------------------------------------------------------------------------------------


def test_missing_set_lists_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMA_DATA", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unicorns").mkdir()
    with pytest.raises(DataError) as caught:
        find_data("unicorns")
    for place in (tmp_path / "unicorns", tmp_path / "one" / "unicorns", tmp_path / "two" / "unicorns"):
        assert str(place) in str(caught.value)
    assert "is there, but holds neither" in str(caught.value)
    assert "TIMA_DATA" in str(caught.value) and "cifar10" in str(caught.value)


def test_tima_data_is_searched_past_a_folder_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data" / "pets" / "test", {"cat": 1, "dog": 1})
    monkeypatch.setenv("TIMA_DATA", os.pathsep.join([str(tmp_path / "nowhere"), str(tmp_path / "data")]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    assert len(find_data("pets")) == 2
    assert len(find_data("pets:test")) == 2
    with pytest.raises(DataError, match="under 'val'"):
        find_data("pets:val")


def test_a_file_that_is_no_parquet_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match=r"x\.txt \(is a file, but no \.parquet, \.csv or \.tar\)"):
        find_data(str(tmp_path / "x.txt"))


# ImageSet ------------------------------------------------------------------------------------------------------------


def test_a_corrupt_picture_says_where_and_why_and_is_never_fatal(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    whole = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "1.png").write_text("I am no picture")
    images = find_data(str(root), image_size=16).preload()
    batch = images.collate(images.__getitems__(range(4)))
    assert batch.image_BCHW.shape == (2, 3, 16, 16)
    assert batch.index_B.tolist() == [1, 2] and batch.label_B.tolist() == [0, 1]
    assert [Path(bad.where).parts[-2:] for bad in batch.bad] == [("cat", "0.png"), ("dog", "1.png")]
    assert all(bad.why for bad in batch.bad) and "identify" in batch.bad[1].why
    nothing = images.collate([images[0], images[3]])
    assert nothing.image_BCHW.shape == (0, 3, 16, 16) and len(nothing.bad) == 2


@pytest.mark.parametrize("error", [OSError("x"), KeyError("x"), IndexError("x"), TypeError("x"), MemoryError("x"), EOFError()])
def test_whatever_a_reader_of_pictures_raises_is_quarantined(error: Exception) -> None:
    def read(index: int) -> bytes:
        raise error

    images = ImageSet("x", NAMES, torch.tensor([0, 1]), read, lambda i: f"row {i}")
    bad = images[1][0]
    assert isinstance(bad, BadImage) and bad.where == "row 1" and type(error).__name__ in bad.why


def test_rows_without_bytes_are_quarantined(tmp_path: Path) -> None:
    images = read_parquet(write_parquet(tmp_path / "test.parquet", [0, 1], images=[picture(1), None]))
    bad = images[1][0]
    assert isinstance(bad, BadImage) and "no image bytes" in bad.why


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "empty"), (["cat", " "], "class 1 has an empty name"), (["cat", "Cat "], "given twice"), ("cat", "not one string")],
)
def test_class_lists_that_cannot_be_used(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet("x", names, torch.tensor([0]), lambda i: b"", str)


@pytest.mark.parametrize(
    ("templates", "message"), [((), "empty"), (("a {c}", "a photo"), "'a photo' has no '{c}'"), ("a {c}", "not one string")]
)
def test_templates_that_cannot_be_used(templates: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet("x", NAMES, torch.tensor([0]), lambda i: b"", str, templates=templates)


def test_subset_keeps_order_labels_captions_and_pictures() -> None:
    images = make_image_set(8)
    images.caption_B = [f"caption {i}" for i in range(8)]
    for source in (images, make_image_set(8).preload()):
        chosen = source.subset(torch.tensor([5, 0, 5]))
        assert chosen.label_B.tolist() == [1, 0, 1]
        assert torch.equal(chosen[0][0], source[5][0]) and torch.equal(chosen[1][0], source[0][0])  # type: ignore[arg-type]
    chosen = images.subset([5, 0])
    assert chosen.caption_B == ["caption 5", "caption 0"]
    assert chosen.where(0) == "toy #5"
    assert chosen.subset([1]).where(0) == "toy #0"


def test_keep_classes_renumbers_in_the_order_given() -> None:
    images = make_image_set(12, classes=4)
    kept = images.keep_classes([3, 1])
    assert kept.class_names == [images.class_names[3], images.class_names[1]]
    assert len(kept) == 6
    for i in range(len(kept)):
        old = int(kept.where(i).split("#")[1])
        assert kept.class_names[int(kept.label_B[i])] == images.class_names[int(images.label_B[old])]


def test_sample_is_a_function_of_the_seed() -> None:
    images = make_image_set(40)
    drawn = [images.where and images.sample(10, seed).where for seed in (0, 0, 1)]
    lists = [[where(i) for i in range(10)] for where in drawn]
    assert lists[0] == lists[1] != lists[2]
    numbers = [int(text.split("#")[1]) for text in lists[0]]
    assert numbers == sorted(set(numbers))
    assert images.sample(40, 0) is images and images.sample(99, 0) is images
    torch.manual_seed(5)
    assert [images.sample(10, 0).where(i) for i in range(10)] == lists[0]  # the global generator has no say
    with pytest.raises(DataError, match="at least one"):
        images.sample(0, 0)


def test_preload_keeps_to_its_limit_and_changes_nothing() -> None:
    images = make_image_set(6, size=16)
    before = [images[i][0] for i in range(6)]
    assert images.preload(limit_bytes=6 * 3 * 16 * 16 - 1).decoded is None
    assert images.preload(limit_bytes=6 * 3 * 16 * 16).decoded is not None
    assert all(torch.equal(a, images[i][0]) for i, a in enumerate(before))  # type: ignore[arg-type]
    images.read = lambda i: b"gone"
    assert isinstance(images[0][0], Tensor)
    assert images.at_size(8).decoded is None


def test_sets_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    folder = find_data(str(write_folder(tmp_path / "pets", {"cat": 2, "dog": 2})), image_size=16)
    table = read_parquet(write_parquet(tmp_path / "test.parquet", [0, 1]), image_size=16)
    for images in (folder, table, folder.sample(2, 0), table.keep_classes([1])):
        copy = pickle.loads(pickle.dumps(images))
        assert torch.equal(copy[0][0], images[0][0]) and copy.where(0) == images.where(0)


def test_loader_with_workers_yields_batches(tmp_path: Path) -> None:
    images = find_data(str(write_folder(tmp_path / "pets", {"cat": 3, "dog": 3})), image_size=16)
    loader = torch.utils.data.DataLoader(images, batch_size=4, collate_fn=images.collate, num_workers=1)
    assert [batch.label_B.tolist() for batch in loader] == [[0, 0, 0, 1], [1, 1]]


# augment -------------------------------------------------------------------------------------------------------------


def test_augment_stays_in_range_and_takes_its_chances_from_the_generator() -> None:
    image_BCHW = torch.rand(8, 3, 16, 16)
    out = [augment(image_BCHW, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert out[0].shape == image_BCHW.shape
    assert out[0].min() >= 0 and out[0].max() <= 1
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])
    state = torch.get_rng_state()
    augment(image_BCHW, torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


# the embedded sets ---------------------------------------------------------------------------------------------------

COUNTS = {"cifar10": (2000, 10), "groceries": (1486, 14), "fashion-mnist": (1000, 10), "quickdraw": (1500, 100)}
PRESENT = [
    (name, split)
    for name in EMBEDDED
    for split in ("train", "val", "test")
    if (embedded_folder() / name / f"{split}.parquet").is_file()
]


def test_the_table_names_what_is_embedded() -> None:
    assert [entry.name for entry in known_sets()] == list(EMBEDDED)
    assert {entry.domain for entry in known_sets()} == {"train", "zero-shot"}


@pytest.mark.parametrize(("name", "split"), PRESENT)
def test_embedded_set(name: str, split: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIMA_DATA", raising=False)
    images = find_data(f"{name}:{split}", image_size=32)
    assert images.name == name
    if name in COUNTS:
        assert (len(images), len(images.class_names)) == COUNTS[name]
    present = images.label_B.unique()
    assert len(present) >= (len(images.class_names) if name in COUNTS else 2), "every class of an evaluation set has pictures"
    assert all(label == label.strip() and "_" not in label for label in images.class_names)
    assert all("{c}" in template for template in images.templates)
    some = range(0, len(images), max(1, len(images) // 200))
    bad = [item for item, _, _ in images.__getitems__(some) if isinstance(item, BadImage)]
    assert not bad
    assert (embedded_folder() / "LICENSES.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), PRESENT)
def test_every_picture_of_an_embedded_set_decodes(name: str, split: str) -> None:
    images = find_data(f"{name}:{split}", image_size=32)
    assert not [item for item, _, _ in images.__getitems__(range(len(images))) if isinstance(item, BadImage)]


def test_pictures_of_the_embedded_captions_decode() -> None:
    file = embedded_folder() / "pictures" / "captions.parquet"
    if not file.is_file():
        pytest.skip("the embedded captions are not there")
    table = pq.read_table(file)
    captions = table.column("caption").to_pylist()
    assert captions and all(isinstance(c, str) and c.strip() for c in captions)
    for row in range(0, len(captions), max(1, len(captions) // 50)):
        with Image.open(io.BytesIO(table.column("image")[row].as_py()["bytes"])) as image:
            image.load()


def write_arrow(file: Path, table: pa.Table) -> None:
    """As `datasets.save_to_disk` does: an Arrow stream."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def test_folders_that_datasets_save_to_disk_writes(tmp_path: Path) -> None:
    """Layout as the library writes it: `<split>/data-*.arrow` for a DatasetDict, `data-*.arrow` for a Dataset."""
    write_parquet(tmp_path / "source.parquet", [0, 1, 1], ["cat", "dog"])
    table = pq.read_table(tmp_path / "source.parquet")
    write_arrow(tmp_path / "both" / "train" / "data-00000-of-00002.arrow", table.slice(0, 2))
    write_arrow(tmp_path / "both" / "train" / "data-00001-of-00002.arrow", table.slice(2))
    write_arrow(tmp_path / "both" / "test" / "data-00000-of-00001.arrow", table)
    write_arrow(tmp_path / "one" / "data-00000-of-00001.arrow", table)
    train = find_data(str(tmp_path / "both"), "train", 8)
    assert train.label_B.tolist() == [0, 1, 1] and train.class_names == ["cat", "dog"]
    assert train.where(2).endswith("data-00001-of-00002.arrow, row 0")
    assert len(find_data(f"{tmp_path / 'both'}:test", None, 8)) == len(find_data(str(tmp_path / "one"), None, 8)) == 3
    assert isinstance(train[0][0], torch.Tensor)
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a readable arrow file"):
        find_data(str(tmp_path / "one"), None, 8)
