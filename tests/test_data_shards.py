"""WebDataset shards: both notations, from disk and URL, what is broken in them, and training on them."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, png
from file_server import serve
from spawned import free_port
from torch import Tensor

from tima.config import TrainRecipe
from tima.data import BadImage, ImageSet, find_data
from tima.data.order import epoch_order
from tima.data.retrieval import find_captions
from tima.data.wds.places import expand, name_of_shards
from tima.data.wds.shard_cache import shard_path
from tima.errors import DataError
from tima.schedule import batches


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIMA_DATA", str(tmp_path / "data"))


def grey(value: int) -> bytes:
    return png(np.full((10, 10, 3), value, np.uint8))


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def sample(i: int, label: int | None = None) -> list[tuple[str, bytes]]:
    return [(f"s{i:07d}.png", grey(i)), (f"s{i:07d}.cls", str(i % 3 if label is None else label).encode())]


def write_set(folder: Path, shards: int = 3, each: int = 4, split: str = "test") -> Path:
    """CLIP_benchmark's layout; picture i has the grey value i and the label i % 3."""
    for s in range(shards):
        members = [m for i in range(s * each, (s + 1) * each) for m in sample(i)]
        write_tar(folder / split / f"{s}.tar", members)
    (folder / split / "nshards.txt").write_text(f"{shards}\n")
    (folder / "classnames.txt").write_text("cat\ndog\nbird\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\nthe {c}\n")
    return folder


def values(images: ImageSet) -> list[int]:
    items = [images[i][0] for i in range(len(images))]
    return [int(item.float().mean()) if isinstance(item, Tensor) else -1 for item in items]


# what is read ------------------------------------------------------------------------------------------------------------


def test_clip_benchmarks_layout(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "toy")
    write_set(folder, shards=1, each=2, split="train")
    for name in (str(folder), f"wds:{folder}", f"wds:{folder}:test", f"wds:{folder / 'test'}"):
        images = find_data(name, image_size=8)
        assert (images.name, images.class_names, images.templates) == ("toy", ["cat", "dog", "bird"], ("a {c}", "the {c}"))
        assert values(images) == list(range(12)) and images.label_B.tolist() == [i % 3 for i in range(12)]
        assert images.shard_B.tolist() == [0] * 4 + [1] * 4 + [2] * 4  # type: ignore[union-attr]
    assert len(find_data(f"wds:{folder}", "train")) == 2
    assert images.where(5) == f"{folder / 'test' / '1.tar'}, sample s0000005"
    with pytest.raises(DataError, match="no split 'val'; it has: test, train"):
        find_data(f"wds:{folder}", "val")
    (folder / "test" / "nshards.txt").write_text("4")
    with pytest.raises(DataError, match=r"3\.tar is missing: nshards\.txt says that there are 4"):
        find_data(str(folder))
    (folder / "test" / "nshards.txt").write_text("many")
    with pytest.raises(DataError, match="'many'; it must hold the number"):
        find_data(str(folder))


def test_the_same_samples_as_the_webdataset_library(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    folder = write_set(tmp_path / "toy")
    members = [("a/b.c.png", grey(1)), ("a/b.c.cls", b"1"), ("b.PNG", grey(2)), ("b.cls", b"2 "), ("__meta__.cls", b"9")]
    write_tar(folder / "test" / "0.tar", members)
    stream = wds.WebDataset([str(folder / "test" / f"{i}.tar") for i in range(3)], shardshuffle=False)
    theirs = [(s["__key__"], s["png"], int(s["cls"])) for s in stream if "png" in s]
    images = find_data(str(folder))
    ours = [(images.where(i).rsplit(" ", 1)[1], images.read(i), int(images.label_B[i])) for i in range(len(images))]
    assert len(theirs) >= 9 and ours == theirs


def test_a_set_of_the_table_is_known_by_its_shards(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "data" / "wds_vtab-pets")
    (folder / "zeroshot_classification_templates.txt").unlink()
    for name in ("pets", str(folder), f"wds:{folder}"):
        images = find_data(name)
        assert images.name == "pets" and "a photo of a pet: a {c}." in images.templates


def test_patterns(tmp_path: Path) -> None:
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand("{0..1}/{1..2}.tar") == ["0/1.tar", "0/2.tar", "1/1.tar", "1/2.tar"]
    with pytest.raises(DataError, match="counts down"):
        expand("{3..1}.tar")
    for place, name in (
        ("/x/pets-{000..099}.tar", "pets"),
        ("https://h/datasets/o/wds_vtab-dtd/tree/main", "dtd"),
        ("https://h/sets/toy/{0..9}.tar?token=1", "toy"),
        ("train-000.tar", "train"),
    ):
        assert name_of_shards(place) == name
    for s in range(3):
        write_tar(tmp_path / "photos" / f"part-{s:02d}.tar", [m for i in (2 * s, 2 * s + 1) for m in sample(i)])
    (tmp_path / "photos" / "classnames.txt").write_text("cat\ndog\nbird\n")
    images = find_data(f"wds:{tmp_path}/photos/part-{{00..02}}.tar", image_size=8)
    assert images.name == "part" and values(images) == list(range(6))
    assert values(find_data(str(tmp_path / "photos"), image_size=8)) == list(range(6)), "a folder of shards without numbers"
    assert len(find_data(str(tmp_path / "photos" / "part-01.tar"))) == 2
    with pytest.raises(DataError, match=r"part-03\.tar and 1 more: no such shard"):
        find_data(f"wds:{tmp_path}/photos/part-{{00..04}}.tar")
    with pytest.raises(DataError, match="no split 'val'"):
        find_data(f"wds:{tmp_path}/photos/part-{{00..02}}.tar", "val")
    (tmp_path / "photos" / "classnames.txt").unlink()
    with pytest.raises(DataError, match=r"no class names\. Put a classnames\.txt"):
        find_data(str(tmp_path / "photos"))


def test_labels_in_json_and_captions(tmp_path: Path) -> None:
    members = [
        ("a.jpg", grey(1)),
        ("a.json", json.dumps({"label": 2, "caption": "one"}).encode()),
        ("b.jpg", grey(2)),
        ("b.cls", b"0"),
        ("b.txt", b" two\nzwei\n"),
    ]
    write_tar(tmp_path / "s" / "0.tar", members)
    (tmp_path / "s" / "classnames.txt").write_text("cat\ndog\nbird\n")
    images = find_data(str(tmp_path / "s"))
    assert images.label_B.tolist() == [2, 0] and images.caption_B == ["one", "two\nzwei"]
    again = find_data(str(tmp_path / "s"))  # from the kept index
    assert again.caption_B == images.caption_B
    found = find_captions(f"wds:{tmp_path}/s", image_size=8)
    assert found is not None and found[1] == [["one"], ["two", "zwei"]] and values(found[0]) == [1, 2]


def test_shards_of_captions_are_no_classes(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "data" / "wds_flickr8k", shards=1)
    write_tar(folder / "test" / "0.tar", [("a.jpg", grey(3)), ("a.txt", b"A dog .\nA hound ."), ("b.jpg", grey(4))])
    (folder / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(DataError, match="captions and no classes"):
        find_data("flickr8k")
    found = find_captions("flickr8k", image_size=8)
    assert found is not None and found[1] == [["A dog .", "A hound ."]]
    assert [bad.why for bad in found[0].quarantine] == ["no caption (.txt)"]


# what is broken ----------------------------------------------------------------------------------------------------------


def test_broken_samples_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "toy", shards=1)
    members = [
        *sample(0),
        ("nopicture.cls", b"1"),
        ("nolabel.png", grey(9)),
        ("words.png", grey(9)),
        ("words.cls", b"cat"),
        ("broken.png", grey(9)[:40]),
        ("broken.cls", b"1"),
        *sample(5),
    ]
    write_tar(folder / "test" / "0.tar", members)
    images = find_data(str(folder), image_size=8)
    assert values(images) == [0, -1, 5]
    assert sorted((bad.where.rsplit(" ", 1)[1], bad.why) for bad in images.quarantine) == [
        ("nolabel", "no label (.cls) in this sample"),
        ("nopicture", "no picture in this sample"),
        ("words", "the label is b'cat', not a class number"),
    ]
    batch = images.collate(images.__getitems__(range(3)))
    assert batch.label_B.tolist() == [0, 2] and batch.bad[0].where.endswith("0.tar, sample broken")


def test_a_shard_that_is_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "toy", shards=1, each=6)
    file = folder / "test" / "0.tar"
    whole = file.read_bytes()
    for cut in (512 * 9 + 100, 512 * 10, 512 * 8 + 60):
        file.write_bytes(whole[:cut])
        images = find_data(str(folder), image_size=8)
        assert values(images) == [0, 1], cut
        assert images.quarantine, "what is missing is said"
    file.write_bytes(b"no tar file at all" * 100)
    with pytest.raises(DataError, match=r"0\.tar is no plain tar file"):
        find_data(str(folder))
    import gzip

    file.write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match="unpack a compressed one"):
        find_data(str(folder))


def test_a_label_out_of_range_names_the_sample(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "toy", shards=1)
    write_tar(folder / "test" / "0.tar", [*sample(0), *sample(1, label=3)])
    with pytest.raises(DataError, match=r"0\.tar, sample s0000001: label 3 is out of range"):
        find_data(str(folder))


# the index ---------------------------------------------------------------------------------------------------------------


def test_an_index_is_kept_while_the_shard_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.data.wds import tar_index

    folder = write_set(tmp_path / "toy")
    walked: list[str] = []
    walk = tar_index._walk
    monkeypatch.setattr(tar_index, "_walk", lambda file, name: walked.append(file.name) or walk(file, name))
    first = find_data(str(folder))
    assert sorted(walked) == ["0.tar", "1.tar", "2.tar"]
    again = find_data(str(folder))
    assert len(walked) == 3 and [again.where(i) for i in range(12)] == [first.where(i) for i in range(12)]
    write_tar(folder / "test" / "1.tar", [m for i in (40, 41) for m in sample(i)])
    assert values(find_data(str(folder), image_size=8))[4:6] == [40, 41] and len(walked) == 4
    for file in (tmp_path / "cache" / "index").iterdir():
        file.write_bytes(b"damaged")
    assert len(find_data(str(folder))) == 10 and len(walked) == 7


def test_shards_that_change_under_an_open_set_are_reported(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "toy")
    images = find_data(str(folder), image_size=8)
    (folder / "test" / "1.tar").unlink()
    (folder / "test" / "2.tar").write_bytes(b"")
    bad = [images[i][0] for i in (4, 8)]
    assert isinstance(bad[0], BadImage) and "FileNotFoundError" in bad[0].why
    assert isinstance(bad[1], BadImage) and "bytes too early" in bad[1].why


# URLs --------------------------------------------------------------------------------------------------------------------


def test_shards_behind_urls(tmp_path: Path) -> None:
    write_set(tmp_path / "web" / "toy")
    with serve(tmp_path / "web") as server:
        for name in (f"wds:{server.url}/toy", f"wds:{server.url}/toy/test/{{0..2}}.tar"):
            images = find_data(name, image_size=8)
            assert values(images) == list(range(12)) and images.class_names == ["cat", "dog", "bird"]
        assert [server.fetched(f"/toy/test/{i}.tar") for i in range(3)] == [1, 1, 1], "kept on disk"
        assert images.where(0) == f"{server.url}/toy/test/0.tar, sample s0000000"
        for i in range(3):
            shard_path(f"{server.url}/toy/test/{i}.tar").unlink()
        again = find_data(f"wds:{server.url}/toy", image_size=8)
        assert [server.fetched(f"/toy/test/{i}.tar") for i in range(3)] == [1, 1, 1], "the index is enough to open a set"
        assert values(again)[4:8] == [4, 5, 6, 7] and server.fetched("/toy/test/0.tar") == 2
        with pytest.raises(DataError, match=r"no test/nshards\.txt"):
            find_data(f"wds:{server.url}/nothing")
        with pytest.raises(DataError, match="the server answers 404"):
            find_data(f"wds:{server.url}/toy/test/{{0..3}}.tar")
    bad = ImageSet("x", ["a"], torch.tensor([0]), lambda i: (_ for _ in ()).throw(DataError("gone")), str)[0][0]
    assert isinstance(bad, BadImage)


def test_the_cache_of_shards_keeps_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "web" / "toy", shards=5)
    size = (tmp_path / "web" / "toy" / "test" / "0.tar").stat().st_size
    monkeypatch.setenv("TIMA_SHARDS_GB", str(2.5 * size / 1e9))
    with serve(tmp_path / "web") as server:
        images = find_data(f"wds:{server.url}/toy", image_size=8)
        assert len(list((tmp_path / "cache" / "shards").glob("*.tar"))) <= 2
        assert values(images) == list(range(20)), "shards that had to go are fetched again"
        assert len(list((tmp_path / "cache" / "shards").glob("*.tar"))) <= 2
        monkeypatch.setenv("TIMA_SHARDS_GB", "lots")
        shard_path(f"{server.url}/toy/test/0.tar").unlink(missing_ok=True)
        with pytest.raises(DataError, match="'lots'; it must be a number of gigabytes"):
            images.read(0)


# training ----------------------------------------------------------------------------------------------------------------


def test_an_epoch_goes_through_the_shards_a_window_at_a_time() -> None:
    shard_B = torch.arange(40).repeat_interleave(7)[torch.randperm(280)]
    order = epoch_order(280, torch.Generator().manual_seed(3), shard_B, window=4)
    assert sorted(order.tolist()) == list(range(280))
    windows = shard_B[order].reshape(10, 28)
    groups = [set(row.tolist()) for row in windows]
    assert all(len(group) == 4 for group in groups) and set.union(*groups) == set(range(40))
    assert any(len(set(row[:7].tolist())) > 1 for row in windows), "mixed within a window"
    assert torch.equal(order, epoch_order(280, torch.Generator().manual_seed(3), shard_B, window=4))
    assert not torch.equal(order, epoch_order(280, torch.Generator().manual_seed(4), shard_B, window=4))
    plain = epoch_order(9, torch.Generator().manual_seed(3))
    assert torch.equal(plain, torch.randperm(9, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_sees_its_own_samples_and_all_together_each_once(tmp_path: Path, world: int) -> None:
    images = find_data(str(write_set(tmp_path / "toy", shards=6, each=5)), image_size=8)
    n, batch = len(images), 6
    for epoch in range(2):
        first, last = epoch * (n // batch), (epoch + 1) * (n // batch)
        seen = []
        for rank in range(world):
            plan = [b[rank::world] for b in batches(n, batch, 0, first, last, images.shard_B)]
            assert all(len(share) == batch // world for share in plan)
            seen.extend(images.where(i) for share in plan for i in share)
        assert len(seen) == n == len(set(seen))
    whole = list(batches(n, batch, 0, 0, 12, images.shard_B))
    for first in (1, 4, 7, 11):  # a resumed run goes on with the very sample
        assert list(batches(n, batch, 0, first, 12, images.shard_B)) == whole[first:]


def test_subsets_know_their_shards_and_workers_decode(tmp_path: Path) -> None:
    images = find_data(str(write_set(tmp_path / "toy")), image_size=8).keep_classes([2, 1]).subset([0, 3, 5])
    assert images.shard_B.tolist() == [0, 1, 2] and values(images) == [1, 5, 8]  # type: ignore[union-attr]
    copy = pickle.loads(pickle.dumps(images))
    loader = torch.utils.data.DataLoader(copy, batch_size=2, collate_fn=copy.collate, num_workers=1)
    assert [round(float(v)) for b in loader for v in b.image_BCHW.float().mean((1, 2, 3))] == [1, 5, 8]


def write_training_set(root: Path, shards: int = 5, each: int = 16) -> Path:
    images = make_image_set(n=shards * each, classes=4)
    for s in range(shards):
        members = []
        for i in range(s * each, (s + 1) * each):
            members += [(f"{i:05d}.png", images.read(i)), (f"{i:05d}.cls", str(int(images.label_B[i])).encode())]
        if s == 2:
            members[0] = (members[0][0], b"no picture")
        write_tar(root / "train" / f"{s}.tar", members)  # type: ignore[arg-type]
    (root / "train" / "nshards.txt").write_text(str(shards))
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in images.class_names))
    return root


def recipe(root: Path, **changes: object) -> TrainRecipe:
    fields = dict(model=str(root / "model"), data=f"wds:{root / 'toy'}", method="tecoa", steps=6, batch_size=12, save_every=3)
    fields |= dict(val_every=6, val_samples=8, val_attack_steps=1, held_out_classes=0, precision="fp32", eps="1/255", workers=1)
    return TrainRecipe(**{**fields, **changes})  # type: ignore[arg-type]


def test_training_on_shards_resumes_exactly(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import load_file

    from tima import train as module

    train = module.train
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_training_set(tmp_path / "toy")
    monkeypatch.setattr(ImageSet, "preload", lambda self, limit_bytes=0: self)  # read from the shards, as a large set would be
    train(recipe(tmp_path), tmp_path / "whole", progress=False)
    update = module.update

    def stop(*arguments: object) -> object:
        if arguments[4] == 4:
            raise KeyboardInterrupt
        return update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(tmp_path), tmp_path / "parts", progress=False)
    monkeypatch.setattr(module, "update", update)
    train(recipe(tmp_path), tmp_path / "parts", progress=False)
    one, other = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("images_per_s", 0) > 0 for line in lines)
    quarantine = tmp_path / "whole" / "quarantine.jsonl"
    assert quarantine.is_file() == ('"quarantine": 0' not in (tmp_path / "whole" / "summary.json").read_text())
    if quarantine.is_file():  # drawn into a batch or into validation, it is named
        assert "2.tar, sample 00032" in quarantine.read_text()


SCRIPT = """
import json, os, sys
import torch.distributed as dist
from tima.data import find_data
from tima.schedule import batches
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
images = find_data(sys.argv[1], "train", 16)
plan = [b[rank::world] for b in batches(len(images), 8, 0, 0, len(images) // 8, images.shard_B)]
import torch
loader = torch.utils.data.DataLoader(images, batch_sampler=plan, collate_fn=images.collate, num_workers=1)
seen = [int(i) for batch in loader for i in batch.index_B] 
held = [None] * world
dist.all_gather_object(held, seen)
if rank == 0:
    open(sys.argv[2], "w").write(json.dumps({"world": world, "seen": held}))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_real_processes_share_the_shards(tmp_path: Path, world: int) -> None:
    write_training_set(tmp_path / "toy")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={world}",
        f"--master_port={free_port()}",
        str(tmp_path / "run.py"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "toy"), str(tmp_path / "out.json")], check=True, timeout=100, env=environment)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["world"] == world and len(found["seen"]) == world
    everything = [i for share in found["seen"] for i in share]
    assert len(everything) == len(set(everything)) == 79, "80 samples, one of them no picture"
