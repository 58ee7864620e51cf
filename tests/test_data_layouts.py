"""Each publisher's layout, written small by the tests as its description says, and read back."""

import json
import pickle
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import png
from scipy.io import savemat
from torch import Tensor

from tima.data import ImageSet, find_data
from tima.data.field import field_sets
from tima.data.layouts import LAYOUTS, recognise
from tima.data.layouts.layout import ppm
from tima.data.retrieval import find_captions
from tima.data.safe_pickle import safe_load
from tima.errors import DataError
from tima.probes.captions import read_captions


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIMA_DATA", str(tmp_path))


def picture(file: Path, value: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(np.full((12, 12, 3), value, np.uint8)))
    return file


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def values(images: ImageSet) -> list[int]:
    """The grey value of every picture; -1 where it cannot be read."""
    items = [images[i][0] for i in range(len(images))]
    return [int(item.float().mean()) if isinstance(item, Tensor) else -1 for item in items]


# CIFAR -----------------------------------------------------------------------------------------------------------------


def write_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
        rows = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
        batch = {b"data": rows, b"labels": [1, 0, 1], b"filenames": [b"a.png", b"b.png", b"c.png"], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072}, 2))
    return folder


def test_cifar10_rows_are_planes_of_red_green_and_blue(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    images = find_data("cifar10-full", image_size=32)
    assert (images.name, images.class_names, images.label_B.tolist()) == ("cifar10-full", ["airplane", "automobile"], [1, 0, 1])
    row = pickle.loads((folder / "test_batch").read_bytes())[b"data"][2]
    got = images[2][0]
    for c in range(3):
        for y, x in ((0, 0), (3, 7), (31, 31)):
            assert int(got[c, y, x]) == int(row[1024 * c + 32 * y + x])  # type: ignore[index]
    assert images.where(2) == f"{folder / 'test_batch'}, row 2"
    train = find_data("cifar10-full", "train", 32)
    assert len(train) == 15 and train.where(14) == f"{folder / 'data_batch_5'}, row 2"
    with pytest.raises(DataError, match="no split 'val': CIFAR-10 is read as test, train"):
        find_data("cifar10-full", "val")
    assert recognise(tmp_path)[1] == folder, "torchvision's root holds the folder"  # type: ignore[index]


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = np.zeros((2, 3072), np.uint8)
    for name in ("train", "test"):
        batch = {"data": rows, "fine_labels": [2, 0], "coarse_labels": [0, 0]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = ["apple", "aquarium_fish", "baby"]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["x"]}, protocol=2))
    images = find_data(str(folder))
    assert images.class_names == ["apple", "aquarium fish", "baby"] and images.label_B.tolist() == [2, 0]


class Python2(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, which is what the published batches are."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined,type-arg]

    def save_text(self, value: str | bytes) -> None:
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)  # type: ignore[attr-defined]

    dispatch[str] = dispatch[bytes] = save_text


def test_batches_that_python_2_wrote(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    rows = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)
    with (folder / "test_batch").open("wb") as file:
        Python2(file, 2).dump({"data": rows, "labels": [0, 1], "filenames": ["a", "b"], "batch_label": "testing batch 1 of 1"})
    assert b"_codecs" not in (folder / "test_batch").read_bytes()
    images = find_data("cifar10-full", image_size=32)
    assert images.label_B.tolist() == [0, 1]
    assert np.array_equal(images[1][0].numpy().reshape(-1), rows[1])  # type: ignore[union-attr]
    (tmp_path / "x").write_bytes(pickle.dumps(np.arange(3, dtype=">i4"), 2))
    assert safe_load(tmp_path / "x").tolist() == [0, 1, 2] and np.dtype("i4").byteorder == "=", (
        "NumPy's own types are untouched"
    )


class Harm:
    """What a malicious pickle looks like: a function call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:  # type: ignore[type-arg]
        return self.call


def touch(path: str) -> None:
    Path(path).write_text("run")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    import os

    folder = write_cifar10(tmp_path)
    mark = tmp_path / "harmed"
    for harm in (Harm(os.system, f"touch {mark}"), Harm(touch, str(mark)), Harm(eval, f"open({str(mark)!r}, 'w')")):
        (folder / "test_batch").write_bytes(pickle.dumps({b"data": harm, b"labels": []}, protocol))
        with pytest.raises(DataError, match=r"test_batch holds the name \S+, which .* It was not run"):
            find_data(str(folder))
        assert not mark.exists()
        pickle.loads(pickle.dumps(Harm(touch, str(mark)), protocol))  # an ordinary load would have run it
        assert mark.exists()
        mark.unlink()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{"a": 1}], dtype=object),
        Harm(np.dtype, "O"),
        Harm(np.fromfile, "/etc/passwd", np.uint8),
        np.ma.masked_array([1], mask=[True]),
        Harm(getattr, "x", "upper"),
        sys.stdout.__class__,
    ],
    ids=["object array", "object dtype", "fromfile", "subclass", "getattr", "class"],
)
def test_only_plain_values_and_numeric_arrays_are_read(tmp_path: Path, value: object) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(DataError, match="It was not run"):
        safe_load(tmp_path / "x")


def test_plain_pickles_are_read_whole(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "text"], "b": (np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros((0, 4), np.float32))}
    for protocol in (2, 3, 4, 5):
        (tmp_path / "x").write_bytes(pickle.dumps(value, protocol))
        found = safe_load(tmp_path / "x")
        assert found["a"] == value["a"] and found["b"][0].dtype == np.int16
        assert np.array_equal(found["b"][0], value["b"][0]) and found["b"][1].shape == (0, 4)
    (tmp_path / "x").write_bytes(b"\x80\x02}q\x00(no pickle")
    with pytest.raises(DataError, match="damaged"):
        safe_load(tmp_path / "x")


def test_cifar_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, 2))
    with pytest.raises(DataError, match="2 pictures have no label each"):
        find_data(str(folder))
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((2, 99), np.uint8), b"labels": [0, 0]}, 2))
    with pytest.raises(DataError, match="no pictures of 32 x 32"):
        find_data(str(folder))
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        find_data(str(folder), "train")


# STL-10, lists, MATLAB ---------------------------------------------------------------------------------------------------


def test_stl10_is_stored_column_by_column(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    image_NHWC = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    for split in ("test", "train"):
        image_NHWC.transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        np.array([2, 1], np.uint8).tofile(folder / f"{split}_y.bin")
    text(folder / "class_names.txt", "airplane\nbird\n")
    images = find_data("stl10", image_size=96)
    assert images.label_B.tolist() == [1, 0] and images.class_names == ["airplane", "bird"]
    assert np.array_equal(images[1][0].permute(1, 2, 0).numpy(), image_NHWC[1])  # type: ignore[union-attr]
    assert images.where(1) == f"{folder / 'test_X.bin'}, picture 1"
    np.array([1], np.uint8).tofile(folder / "test_y.bin")
    with pytest.raises(DataError, match=r"2 pictures of 96 px and 0 bytes more, test_y\.bin 1 labels"):
        find_data("stl10")


def test_food101(tmp_path: Path) -> None:
    folder = tmp_path / "food-101"
    text(folder / "meta" / "classes.txt", "apple_pie\nbaby_back_ribs\n")
    text(folder / "meta" / "test.txt", "baby_back_ribs/7\napple_pie/1\n")
    text(folder / "meta" / "train.json", json.dumps({"apple_pie": ["apple_pie/2"], "baby_back_ribs": []}))
    for i, name in enumerate(("baby_back_ribs/7", "apple_pie/1", "apple_pie/2")):
        picture(folder / "images" / f"{name}.jpg", 10 * i)
    images = find_data("food101", image_size=8)
    assert images.class_names == ["apple pie", "baby back ribs"] and images.label_B.tolist() == [1, 0]
    assert values(images) == [0, 10] and values(find_data("food101", "train", 8)) == [20]
    assert images.templates == field_sets()["food101"].templates
    text(folder / "meta" / "test.txt", "soup/7\n")
    with pytest.raises(DataError, match=r"'soup/7\.jpg' does not begin with a class"):
        find_data("food101")


def test_pets(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    text(
        folder / "annotations" / "test.txt",
        "# a comment\nAbyssinian_201 1 1 1\namerican_bulldog_203 2 2 1\nAbyssinian_9 1 1 1\n",
    )
    text(folder / "annotations" / "trainval.txt", "american_bulldog_1 2 2 1\nAbyssinian_2 1 1 1\n")
    for i, name in enumerate(("Abyssinian_201", "american_bulldog_203", "american_bulldog_1")):
        picture(folder / "images" / f"{name}.jpg", 10 * i)
    images = find_data("pets", image_size=8)
    assert images.class_names == ["Abyssinian", "american bulldog"] and images.label_B.tolist() == [0, 1, 0]
    assert values(images) == [0, 10, -1], "a listed picture that is missing is said when its turn comes"
    assert find_data("pets", "train").label_B.tolist() == [1, 0]
    text(folder / "annotations" / "test.txt", "Abyssinian_201 1 1\n")
    with pytest.raises(DataError, match="every line must be"):
        find_data("pets")


def test_dtd(tmp_path: Path) -> None:
    folder = tmp_path / "dtd-r1.0.1" / "dtd"
    for i, split in enumerate(("test", "train", "val")):
        text(folder / "labels" / f"{split}1.txt", f"zigzagged/z_{i}.jpg\nbanded/b_{i}.jpg\n")
        picture(folder / "images" / "zigzagged" / f"z_{i}.jpg", i)
        picture(folder / "images" / "banded" / f"b_{i}.jpg", 100 + i)
    for i, split in enumerate(("test", "train", "val")):
        images = find_data("dtd", split, 8)
        assert images.class_names == ["banded", "zigzagged"] and images.label_B.tolist() == [1, 0]
        assert values(images) == [i, 100 + i]


def test_fgvc_aircraft(tmp_path: Path) -> None:
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    text(data / "variants.txt", "707-320\nA340-300\n")
    text(data / "images_variant_test.txt", "0034309 A340-300\n0034958 707-320\n")
    picture(data / "images" / "0034309.jpg", 1)
    picture(data / "images" / "0034958.jpg", 2)
    images = find_data("fgvc-aircraft", image_size=8)
    assert images.class_names == ["707-320", "A340-300"] and images.label_B.tolist() == [1, 0] and values(images) == [1, 2]
    with pytest.raises(DataError, match=r"fgvc-aircraft cannot be read .*images_variant_train.txt"):
        find_data("fgvc-aircraft", "train")
    text(data / "images_variant_test.txt", "0034309 Zeppelin\n")
    with pytest.raises(DataError, match=r"'Zeppelin' is no line of variants\.txt"):
        find_data("fgvc-aircraft")


def test_sun397_names_read_as_words(tmp_path: Path) -> None:
    folder = tmp_path / "SUN397"
    text(folder / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    text(folder / "Testing_01.txt", "/a/apartment_building/outdoor/sun_b.jpg\n")
    picture(folder / "a" / "abbey" / "sun_a.jpg", 1)
    picture(folder / "a" / "apartment_building" / "outdoor" / "sun_b.jpg", 2)
    images = find_data("sun397", image_size=8)
    assert images.class_names == ["abbey", "outdoor apartment building"]
    assert images.label_B.tolist() == [1] and values(images) == [2]
    everything = find_data("sun397:all", image_size=8)
    assert everything.label_B.tolist() == [0, 1] and values(everything) == [1, 2]
    with pytest.raises(DataError, match=r"Training_01.txt is missing.*sun397:all"):
        find_data("sun397", "train")


def test_eurosat(tmp_path: Path) -> None:
    for i, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        picture(tmp_path / "eurosat" / "2750" / name / f"{name}_1.jpg", i)
    images = find_data("eurosat", image_size=8)
    assert images.class_names == ["fields of annual crops", "forest", "a sea or lake"] and values(images) == [0, 1, 2]
    assert len(find_data("eurosat", "train")) == 3, "without splits all of it may be trained on"


def test_flowers102(tmp_path: Path) -> None:
    folder = tmp_path / "flowers-102"
    for number in range(1, 5):
        picture(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 1]])})
    savemat(folder / "setid.mat", {"trnid": np.array([[2]]), "valid": np.array([[4]]), "tstid": np.array([[3, 1]])})
    images = find_data("flowers102", image_size=8)
    assert [images.class_names[int(y)] for y in images.label_B] == ["blackberry lily", "passion flower"]
    assert values(images) == [3, 1] and len(images.class_names) == 102
    assert find_data("flowers102", "val").label_B.tolist() == [0]
    (folder / "imagelabels.mat").write_bytes(b"MATLAB 5.0 no more")
    with pytest.raises(DataError, match=r"imagelabels\.mat is no readable MATLAB file"):
        find_data("flowers102")


def cars_annotations(rows: list[tuple[int, str]]) -> np.ndarray:
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    return np.array([(np.array([[3]]), np.array([[c]], np.uint8), np.array([name])) for c, name in rows], dtype=kind)[None]


def test_stanford_cars(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([["AM General Hummer SUV 2000", "Acura RL  Sedan 2012"]], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": cars_annotations([(2, "00001.jpg"), (1, "00002.jpg")])})
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": cars_annotations([(1, "00001.jpg")])})
    picture(folder / "cars_test" / "00001.jpg", 1)
    picture(folder / "cars_test" / "00002.jpg", 2)
    picture(folder / "cars_train" / "00001.jpg", 3)
    images = find_data("stanford-cars", image_size=8)
    assert images.class_names == ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    assert images.label_B.tolist() == [1, 0] and values(images) == [1, 2]
    assert values(find_data("stanford-cars", "train", 8)) == [3], "one annotation is a list too"


def test_pcam(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "pcam"
    folder.mkdir()
    stem = "camelyonpatch_level_2_split_test"
    image_NHWC = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    with h5py.File(folder / f"{stem}_x.h5", "w") as file:
        file["x"] = image_NHWC
    with h5py.File(folder / f"{stem}_y.h5", "w") as file:
        file["y"] = np.array([1, 0, 1], np.uint8).reshape(3, 1, 1, 1)
    images = find_data("pcam", image_size=96)
    assert images.label_B.tolist() == [1, 0, 1]
    assert np.array_equal(images[2][0].permute(1, 2, 0).numpy(), image_NHWC[2])  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"split_valid_x\.h5 is missing"):
        find_data("pcam", "val")


def test_pcam_without_h5py_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "pcam").mkdir()
    for kind in "xy":
        (tmp_path / "pcam" / f"camelyonpatch_level_2_split_test_{kind}.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install h5py.*--shards"):
        find_data("pcam")


# folders of classes ------------------------------------------------------------------------------------------------------


def test_caltech101_and_256_leave_the_background_out(tmp_path: Path) -> None:
    one = tmp_path / "caltech101" / "101_ObjectCategories"
    for i, name in enumerate(("BACKGROUND_Google", "Faces", "Faces_easy", "accordion", "yin_yang")):
        picture(one / name / "image_0001.jpg", i)
    images = find_data("caltech101", image_size=8)
    assert images.class_names == ["faces of people", "close-up face", "accordion", "yin yang"] and values(images) == [
        1,
        2,
        3,
        4,
    ]
    other = tmp_path / "caltech256" / "256_ObjectCategories"
    for i, name in enumerate(("001.ak47", "002.american-flag", "145.motorbikes-101", "257.clutter")):
        picture(other / name / "001_0001.jpg", i)
    images = find_data("caltech256", image_size=8)
    assert images.class_names == ["ak47", "american flag", "motorbikes"] and values(images) == [0, 1, 2]


CRANES = "n02012849 crane\nn03126707 crane\n"
MAPPING = CRANES + "n02113186 Cardigan, Cardigan Welsh corgi\nn02963159 cardigan\nn01440764 tench, Tinca tinca\n"


def write_imagenet(root: Path) -> Path:
    folder = root / "imagenet"
    for i, wnid in enumerate(("n02963159", "n01440764", "n02113186", "n03126707", "n02012849")):
        picture(folder / "val" / wnid / f"ILSVRC2012_val_0000000{i}.JPEG", i)
        picture(folder / "train" / wnid / f"{wnid}_1.JPEG", 100 + i)
    text(folder / "LOC_synset_mapping.txt", MAPPING)
    return folder


def test_imagenet_names_its_classes_apart(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    images = find_data("imagenet", image_size=8)
    assert images.class_names == ["tench", "crane bird", "Cardigan Welsh corgi", "cardigan", "construction crane"]
    assert values(images) == [1, 4, 2, 0, 3]
    assert values(find_data("imagenet", "train", 8)) == [101, 104, 102, 100, 103]
    with pytest.raises(DataError, match="no split 'val'"):  # else a run would be chosen by what is reported
        find_data("imagenet", "val")
    text(folder / "LOC_synset_mapping.txt", "n01440764 tench\n")
    with pytest.raises(DataError, match=r"no name for n02012849\. Put a file"):
        find_data("imagenet")
    text(folder / "classnames.txt", "a\nb\nc\nd\ne\n")
    assert find_data("imagenet").class_names == list("abcde")


def test_imagenet_names_from_the_developers_kit(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    (folder / "LOC_synset_mapping.txt").unlink()
    kit = folder / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    kit.parent.mkdir(parents=True)
    rows = [line.split(" ", 1) for line in MAPPING.splitlines()]
    synsets = np.array(
        [(i, w, n) for i, (w, n) in enumerate(rows)], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    )
    savemat(kit, {"synsets": synsets[:, None]})
    assert find_data("imagenet").class_names[:2] == ["tench", "crane bird"]


def test_an_unnamed_folder_of_wordnet_ids_is_not_taken_for_imagenet(tmp_path: Path) -> None:
    write_imagenet(tmp_path).rename(tmp_path / "imagenette")
    images = find_data(str(tmp_path / "imagenette"))
    assert images.name == "imagenette" and len(images) == 5


def test_imagenet_v2_folders_are_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    for label in range(12):
        picture(folder / str(label) / "x.jpeg", label)
    text(folder / "classnames.txt", "".join(f"class {c}\n" for c in range(12)))
    images = find_data("imagenet-v2", image_size=8)
    assert images.label_B.tolist() == values(images) == list(range(12)), "10 comes after 9, not after 1"
    (folder / "classnames.txt").unlink()
    with pytest.raises(DataError, match="class 11 has no name"):
        find_data("imagenet-v2")
    text(tmp_path / "imagenet" / "LOC_synset_mapping.txt", "".join(f"n{c:08d} thing {c}, other\n" for c in range(12)))
    assert find_data("imagenet-v2").class_names == [f"thing {c}" for c in range(12)], "ImageNet lies beside it"


def test_imagenet_relatives_read_their_names_beside_the_pictures(tmp_path: Path) -> None:
    for name, wnids in (("imagenet-a", ("n01498041", "n02012849")), ("imagenet-r", ("n01443537", "n01498041"))):
        for i, wnid in enumerate(wnids):
            picture(tmp_path / name / wnid / "x.jpg", i)
    text(tmp_path / "imagenet-a" / "README.txt", "ImageNet-A\n\nn01498041 stingray\nn02012849 crane\n")
    text(tmp_path / "imagenet-r" / "README.txt", "n01443537 goldfish\nn01498041 stingray\n")
    assert find_data("imagenet-a").class_names == ["stingray", "crane bird"]
    assert find_data("imagenet-r").class_names == ["goldfish", "stingray"]
    assert recognise(tmp_path / "imagenet-r")[0].name == "imagenet-r"  # type: ignore[index]
    write_imagenet(tmp_path)
    picture(tmp_path / "imagenet-sketch" / "n01440764" / "sketch_0.JPEG", 7)
    images = find_data("imagenet-sketch", image_size=8)
    assert images.class_names == ["tench"] and values(images) == [7]


def test_tiny_imagenet_takes_the_publishers_validation_as_its_test(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    text(folder / "wnids.txt", "n02012849\nn01443537\n")
    text(folder / "words.txt", "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn00000001\tother\n")
    picture(folder / "train" / "n02012849" / "images" / "n02012849_0.JPEG", 1)
    picture(folder / "train" / "n01443537" / "images" / "n01443537_0.JPEG", 2)
    text(folder / "val" / "val_annotations.txt", "val_0.JPEG\tn02012849\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t0\t0\t1\t1\n")
    picture(folder / "val" / "images" / "val_0.JPEG", 3)
    picture(folder / "val" / "images" / "val_1.JPEG", 4)
    images = find_data("tiny-imagenet", image_size=8)
    assert images.class_names == ["goldfish", "crane bird"] and images.label_B.tolist() == [1, 0] and values(images) == [3, 4]
    assert values(find_data("tiny-imagenet", "train", 8)) == [2, 1]
    with pytest.raises(DataError, match="no split 'val'"):
        find_data("tiny-imagenet", "val")


# captions ----------------------------------------------------------------------------------------------------------------


def test_flickr8k(tmp_path: Path) -> None:
    folder = tmp_path / "flickr8k"
    picture(folder / "Flicker8k_Dataset" / "a.jpg", 1)
    picture(folder / "Flicker8k_Dataset" / "b.jpg", 2)
    text(folder / "Flickr8k.token.txt", "a.jpg#0\tA child .\na.jpg#1\tA girl .\nb.jpg#0\tA dog .\n")
    text(folder / "Flickr_8k.testImages.txt", "b.jpg\na.jpg\n")
    text(folder / "Flickr_8k.devImages.txt", "c.jpg\n")
    found = find_captions("flickr8k", image_size=8)
    assert found is not None
    assert found[1] == [["A dog ."], ["A child .", "A girl ."]] and values(found[0]) == [2, 1]
    assert read_captions("flickr8k", 8).captions == found[1]
    with pytest.raises(DataError, match=r"c\.jpg has no caption"):
        find_captions("flickr8k", "val")
    with pytest.raises(DataError, match=r"captions and no classes.*tima probe retrieval --data flickr8k"):
        find_data("flickr8k")


def test_flickr30k_and_coco_by_karpathys_splits(tmp_path: Path) -> None:
    row = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "One ."}, {"raw": " Two ."}]}
    text(tmp_path / "flickr30k" / "dataset_flickr30k.json", json.dumps({"images": [row, {**row, "split": "train"}]}))
    picture(tmp_path / "flickr30k" / "flickr30k-images" / "a.jpg", 5)
    found = find_captions(str(tmp_path / "flickr30k"), image_size=8)
    assert found is not None and found[1] == [["One .", "Two ."]] and values(found[0]) == [5]
    content = {
        "images": [{"id": 7, "file_name": "COCO_val2014_7.jpg"}, {"id": 8, "file_name": "COCO_val2014_8.jpg"}],
        "annotations": [
            {"image_id": 8, "caption": "A cat."},
            {"image_id": 7, "caption": "A bus.\n"},
            {"image_id": 8, "caption": "Cat."},
        ],
    }
    text(tmp_path / "coco" / "annotations" / "captions_val2014.json", json.dumps(content))
    picture(tmp_path / "coco" / "val2014" / "COCO_val2014_7.jpg", 7)
    picture(tmp_path / "coco" / "val2014" / "COCO_val2014_8.jpg", 8)
    found = find_captions("coco", image_size=8)
    assert found is not None and found[1] == [["A bus."], ["A cat.", "Cat."]] and values(found[0]) == [7, 8]
    with pytest.raises(DataError, match=r"dataset_coco\.json is missing"):
        find_captions("coco", "val")
    text(
        tmp_path / "coco" / "dataset_coco.json",
        json.dumps({"images": [{**row, "filepath": "val2014", "filename": "COCO_val2014_8.jpg"}]}),
    )
    found = find_captions("coco", image_size=8)
    assert found is not None and found[1] == [["One .", "Two ."]] and values(found[0]) == [8]


# all of them ---------------------------------------------------------------------------------------------------------------


def test_every_set_of_the_table_but_no_other_has_a_layout() -> None:
    assert sorted(layout.name for layout in LAYOUTS) == sorted(field_sets())
    for layout in LAYOUTS:
        entry = field_sets()[layout.name]
        assert layout.splits[0] == next(iter(entry.splits)), layout.name
        assert set(layout.splits) <= {*entry.splits, "train", "val"}, layout.name
        assert layout.source.startswith("http")


def test_names_beside_the_files_replace_the_publishers_and_must_fit(tmp_path: Path) -> None:
    for i, name in enumerate(("AnnualCrop", "SeaLake")):
        picture(tmp_path / "eurosat" / "2750" / name / "1.jpg", i)
    text(tmp_path / "eurosat" / "2750" / "classnames.txt", "crops\nwater\n")
    assert find_data("eurosat").class_names == ["crops", "water"]
    text(tmp_path / "eurosat" / "2750" / "classnames.txt", "crops\n")
    with pytest.raises(DataError, match="1 lines for 2 classes of EuroSAT"):
        find_data("eurosat")


def test_sets_of_every_kind_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    write_imagenet(tmp_path)
    for name in ("cifar10-full", "imagenet"):
        images = find_data(name, image_size=8)
        copy = pickle.loads(pickle.dumps(images))
        assert torch.equal(copy[1][0], images[1][0]) and copy.where(1) == images.where(1)  # type: ignore[arg-type]


def test_ppm_is_a_picture() -> None:
    import io

    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(ppm(array)))), array)
