"""Sets of the Hugging Face library (saved folders, so that no hub is needed) and CSV files."""

import pickle
import sys
from pathlib import Path

import pytest
from test_data_layouts import picture, text, values

from tima.data import find_data
from tima.data.csv_file import read_csv
from tima.errors import DataError


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)


def saved(tmp_path: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    datasets = pytest.importorskip("datasets")
    files = [str(picture(tmp_path / "p" / f"{i}.png", 10 * i)) for i in range(3)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict({"image": files, "label": [1, 0, 1]}, features=kinds)
    held = datasets.DatasetDict({s: table.select(range(3 - i)) for i, s in enumerate(splits)}) if splits else table
    held.save_to_disk(str(tmp_path / "pets"))
    return tmp_path / "pets"


def test_a_saved_dictionary_of_splits(tmp_path: Path) -> None:
    folder = saved(tmp_path, ("train", "validation"))
    images = find_data(f"hf:{folder}", image_size=8)
    assert (images.class_names, images.label_B.tolist(), values(images)) == (["cat", "dog"], [1, 0], [0, 10])
    assert values(find_data(f"hf:{folder}:train", image_size=8)) == [0, 10, 20]
    assert len(find_data(f"hf:{folder}", "val")) == 2, "val is the hub's validation"
    assert images.where(1) == f"hf:{folder} (validation), row 1"
    copy = pickle.loads(pickle.dumps(images))
    assert values(copy) == [0, 10]
    with pytest.raises(DataError, match="no split 'test'; it has: train, validation"):
        find_data(f"hf:{folder}:test")
    text(folder / "classnames.txt", "tabby\nhound\n")
    assert find_data(f"hf:{folder}").class_names == ["tabby", "hound"]


def test_a_saved_single_table_is_training_set_and_all(tmp_path: Path) -> None:
    folder = saved(tmp_path, ())
    assert len(find_data(f"hf:{folder}")) == len(find_data(f"hf:{folder}", "train")) == 3
    with pytest.raises(DataError, match="no split 'val'"):
        find_data(f"hf:{folder}", "val")


def test_a_folder_in_any_layout_that_the_library_reads(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        for i, name in enumerate(("cat", "dog")):
            picture(tmp_path / "photos" / split / name / "1.png", 100 + i)
    images = find_data(f"hf:{tmp_path / 'photos'}", image_size=8)
    assert images.class_names == ["cat", "dog"] and values(images) == [100, 101]


def test_labels_that_are_texts_or_nameless_numbers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(picture(tmp_path / "p" / f"{i}.png", i)) for i in range(3)]

    def save(**columns: list[object]) -> str:
        table = datasets.Dataset.from_dict({"image": files, **columns}).cast_column("image", datasets.Image())
        folder = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
        table.save_to_disk(str(folder))
        return f"hf:{folder}"

    images = find_data(save(label=["dog", "ant", "dog"]))
    assert images.class_names == ["ant", "dog"] and images.label_B.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="'label' holds numbers without names"):
        find_data(save(label=[0, 1, 0]))
    with pytest.raises(DataError, match="row 1: the label is missing"):
        find_data(save(label=["dog", None, "ant"]))
    with pytest.raises(DataError, match=r"no label column.*captions is scored by tima probe retrieval"):
        find_data(save(caption=["a", "b", "c"]))
    with pytest.raises(DataError, match="must hold class numbers or class names"):
        find_data(save(label=[0.5, 1.0, 2.0]))


def test_a_hub_that_cannot_be_reached_and_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"hf:nobody/nothing@x cannot be opened: .*is there a network"):
        find_data("hf:nobody/nothing@x:test")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "tima\[data\]"'):
        find_data("hf:nobody/nothing")


# CSV ---------------------------------------------------------------------------------------------------------------------


def test_a_csv_of_paths_and_labels(tmp_path: Path) -> None:
    picture(tmp_path / "p" / "a, b.png", 1)
    picture(tmp_path / "p" / "c.png", 2)
    text(tmp_path / "photos.csv", 'path,label,caption\n"p/a, b.png",dog,a dog\np/c.png,cat,\np/none.png,dog,x\n')
    images = find_data(str(tmp_path / "photos.csv"), image_size=8)
    assert (images.name, images.class_names, images.label_B.tolist()) == ("photos", ["cat", "dog"], [1, 0, 1])
    assert values(images) == [1, 2, -1] and images.caption_B == ["a dog", "", "x"]
    assert len(find_data(str(tmp_path / "photos.csv"), "train")) == 3
    with pytest.raises(DataError, match="no column 'split', so no split 'val'"):
        find_data(str(tmp_path / "photos.csv"), "val")


def test_a_csv_with_splits_and_class_numbers(tmp_path: Path) -> None:
    text(tmp_path / "x.csv", "split,path,label\ntrain,a.png,1\ntest,b.png,0\ntrain,c.png,1\n")
    with pytest.raises(DataError, match=r"labels are numbers\. Put a classnames\.txt"):
        read_csv(tmp_path / "x.csv")
    text(tmp_path / "classnames.txt", "cat\ndog\n")
    assert read_csv(tmp_path / "x.csv").label_B.tolist() == [0]
    train = read_csv(tmp_path / "x.csv", "train")
    assert (
        train.label_B.tolist() == [1, 1] and train.where(1) == str(tmp_path / "c.png") and train.class_names == ["cat", "dog"]
    )
    with pytest.raises(DataError, match="no split 'val'; it has: train, test"):
        read_csv(tmp_path / "x.csv", "val")
    text(tmp_path / "x.csv", "path,label\na.png,bird\n")
    with pytest.raises(DataError, match="line 2: 'bird' is no line of"):
        read_csv(tmp_path / "x.csv")
    text(tmp_path / "x.csv", "path,label\na.png,2\n")
    with pytest.raises(DataError, match="label 2 is out of range"):
        read_csv(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must name the columns path and label; it names: nothing"),
        ("file,class\na,b\n", "it names: file, class"),
        ("path,caption\na.png,A dog.\n", "has captions and no labels.*tima probe retrieval"),
        ("path,label\na.png,dog\n,dog\n", "line 3: a path and a label are needed"),
        ("path,label\na.png\n", "line 2: a path and a label are needed"),
        ("path,label\n", "the class list is empty"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    text(tmp_path / "x.csv", content)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "x.csv")
