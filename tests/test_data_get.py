"""`get` and `check`: downloads that resume, archives that may not escape, counts and checksums, and what is said of them."""

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from file_server import FileServer, serve
from test_data_layouts import picture, text, write_cifar10
from test_data_shards import sample, write_set, write_tar
from typer.testing import CliRunner

from tima.cli import app
from tima.data import field as field_module
from tima.data.check import check
from tima.data.download import download, read_url
from tima.data.field import FieldEntry, Source, field_entry, field_sets, sixteen
from tima.data.get import get
from tima.data.manifest import FILE, verify_manifest, write_manifest
from tima.data.names import parse_name, set_name
from tima.data.table import EMBEDDED, ZERO_SHOT, expand_sets, find_data, licence_of
from tima.data.unpack import unpack
from tima.errors import DataError, TimaError


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIMA_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as server:
        yield server


CONTENT = bytes(range(256)) * 1000


def put(server: FileServer, name: str, content: bytes = CONTENT) -> str:
    (server.folder / name).write_bytes(content)
    return f"{server.url}/{name}"


# the table ---------------------------------------------------------------------------------------------------------------


def test_the_table_is_whole() -> None:
    sets = field_sets()
    assert len(sixteen()) == 16 == len(set(sixteen())) and set(sixteen()) <= set(sets)
    assert not set(sets) & set(EMBEDDED), "an embedded excerpt and the whole set must not share a name"
    for entry in sets.values():
        assert entry.sources or entry.by_hand, f"{entry.name}: nothing says where it comes from"
        assert entry.licence and entry.homepage.startswith("http") and entry.size
        assert all("{c}" in template for template in entry.templates)
        assert bool(entry.templates) == (entry.task == "classification") == bool(entry.classes)
        assert entry.names is None or len(entry.names) == entry.classes, entry.name
        for source in entry.sources:
            assert bool(source.md5 or source.sha256) == bool(source.checksum_from), "who states the checksum"
    folders = [name for entry in sets.values() for name in entry.places]
    assert len(folders) == len(set(folders)), "one folder name would mean two sets"
    chances = {name: field_entry(name).chance for name in ("imagenet", "pcam", "coco")}
    assert chances == {"imagenet": 0.001, "pcam": 0.5, "coco": 1 / 5000}
    with pytest.raises(DataError, match="'unicorns' is no set of the table"):
        field_entry("unicorns")


def test_the_table_refuses_a_key_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = yaml.safe_load(Path(field_module.__file__).with_name("field.yaml").read_text())
    assert set(real) == {"version", "sets", "sixteen"}
    values = dict(real["sets"]["dtd"])
    assert FieldEntry(name="dtd", **values) == field_entry("dtd")
    with pytest.raises(ValueError, match="colour"):
        FieldEntry(name="dtd", **values, colour="red")
    with pytest.raises(ValueError, match="md5"):
        Source(url="https://x/y.tar", md5="abc")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("pictures", "MIT and public domain"),
        ("pets:train", "CC BY-SA 4.0"),
        ("hf:timm/oxford-iiit-pet", "CC BY-SA 4.0"),
        ("wds:https://huggingface.co/datasets/clip-benchmark/wds_vtab-pets/tree/main", "CC BY-SA 4.0"),
        ("/home/ada/pictures", None),
        ("wds:/home/ada/pets", None),
        ("hf:ada/pets", None),
        ("given (96 pictures in memory, abc)", None),
    ],
)
def test_licences_are_those_of_the_set_itself_and_of_no_namesake(name: str, licence: str | None) -> None:
    assert licence_of(name) == licence


def test_groups_of_sets() -> None:
    assert expand_sets(["16"]) == sixteen() and expand_sets(["zero-shot"]) == ZERO_SHOT
    assert expand_sets(["dtd", "16", "photos"]) == ["dtd", *(n for n in sixteen() if n != "dtd"), "photos"]


@pytest.mark.parametrize(
    ("name", "parsed", "called"),
    [
        ("cifar10", ("", "cifar10", None), "cifar10"),
        ("pets:train", ("", "pets", "train"), "pets"),
        ("/data/wds_vtab-pets:test", ("", "/data/wds_vtab-pets", "test"), "pets"),
        ("wds:/d/{00..09}.tar", ("wds", "/d/{00..09}.tar", None), "d"),
        ("wds:https://h:80/x/tree:val", ("wds", "https://h:80/x/tree", "val"), "tree"),
        ("hf:org/name@cfg:test", ("hf", "org/name@cfg", "test"), "name"),
        ("hf:timm/oxford-iiit-pet", ("hf", "timm/oxford-iiit-pet", None), "pets"),
    ],
)
def test_names(name: str, parsed: tuple[str, str, str | None], called: str) -> None:
    assert parse_name(name) == parsed and set_name(name) == called


def test_names_that_contradict() -> None:
    with pytest.raises(DataError, match="names the split 'val', and the split 'train' is asked for"):
        parse_name("wds:/x:val", "train")
    with pytest.raises(DataError, match="names nothing"):
        parse_name("hf:")


# downloads ---------------------------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on_where_it_was(web: FileServer, tmp_path: Path) -> None:
    url = put(web, "x.bin")
    web.breaks = [1000, 70_000]
    seen: list[tuple[int, int | None]] = []
    md5 = hashlib.md5(CONTENT).hexdigest()
    file = download(url, tmp_path / "d" / "x.bin", md5=md5, progress=lambda *at: seen.append(at), pause=0)
    assert file.read_bytes() == CONTENT
    assert [asked for _, _, asked in web.asked] == [None, "bytes=1000-", "bytes=71000-"]
    assert seen[-1] == (256_000, 256_000) and [p.name for p in (tmp_path / "d").iterdir()] == ["x.bin"]
    download(url, file, md5=md5)
    assert len(web.asked) == 3, "what is there and right is not fetched again"


def test_a_later_call_goes_on_and_notices_that_the_file_has_changed(web: FileServer, tmp_path: Path) -> None:
    url, target = put(web, "x.bin"), tmp_path / "x.bin"
    web.breaks = [500] * 5
    with pytest.raises(DataError, match=r"in 5 tries.*2,500 bytes are kept in .*x\.bin\.part; the same command goes on"):
        download(url, target, pause=0)
    assert download(url, target, pause=0).read_bytes() == CONTENT
    assert web.asked[-1][2] == "bytes=2500-"
    target.unlink()
    web.breaks = [500] * 5
    with pytest.raises(DataError):
        download(url, target, pause=0)
    other = put(web, "x.bin", CONTENT[::-1])  # the rest of this file does not belong to that beginning
    assert download(other, target, pause=0).read_bytes() == CONTENT[::-1]


def test_servers_without_ranges_and_parts_that_were_complete(web: FileServer, tmp_path: Path) -> None:
    url, target = put(web, "x.bin"), tmp_path / "x.bin"
    web.breaks, web.ranges = [500], False
    assert download(url, target, pause=0).read_bytes() == CONTENT
    web.ranges = True
    target.unlink()
    web.status, web.breaks = [503, 503, 503, 503], [255_999]
    with pytest.raises(DataError, match="255,999 bytes are kept"):
        download(url, target, pause=0)
    with (tmp_path / "x.bin.part").open("ab") as file:
        file.write(CONTENT[-1:])  # killed after the last byte and before the renaming
    assert download(url, target, pause=0).read_bytes() == CONTENT


def test_a_wrong_checksum_is_never_named(web: FileServer, tmp_path: Path) -> None:
    url, target = put(web, "x.bin"), tmp_path / "x.bin"
    for wrong in ({"md5": "0" * 32}, {"sha256": "0" * 64}):
        with pytest.raises(DataError, match=f"its {next(iter(wrong))} is .*, not 0000.*deleted"):
            download(url, target, **wrong, pause=0)
        assert not target.exists() and not list(tmp_path.glob("x.bin*"))
    target.write_bytes(b"old")
    assert download(url, target, sha256=hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT


def test_answers_that_are_no_file(web: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answers 404"):
        download(f"{web.url}/nothing", tmp_path / "x", pause=0)
    assert len(web.asked) == 1, "a missing file is not asked for five times"
    web.status = [503, 503]
    assert download(put(web, "x.bin"), tmp_path / "x", pause=0).read_bytes() == CONTENT
    for url in ("file:///etc/passwd", "ftp://x/y"):
        with pytest.raises(DataError, match="only http and https"):
            download(url, tmp_path / "y")
    with pytest.raises(DataError, match="could not be fetched"):
        download("http://127.0.0.1:9/x", tmp_path / "y", pause=0)
    assert read_url(f"{web.url}/nothing") is None and read_url(put(web, "t.txt", b"\xef\xbb\xbfhi")) == "hi"


# archives ----------------------------------------------------------------------------------------------------------------


def tar_of(file: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for member in members:
            member.size = 3 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"abc") if member.isreg() else None)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../out.txt"),
        member("a/../../out.txt"),
        member("/tmp/tima-out.txt"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("link", tarfile.SYMTYPE, "ok.txt"),
        member("hard", tarfile.LNKTYPE, "ok.txt"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("C:\\out.txt"),
        member("a\\..\\..\\out.txt"),
    ],
    ids=lambda m: f"{m.name}-{m.type.decode()}-{m.linkname}",
)
def test_tar_members_that_would_leave_the_folder_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    file = tar_of(tmp_path / "x.tar", member("ok.txt"), bad)
    with pytest.raises(DataError, match=r"nothing was unpacked") as caught:
        unpack(file, tmp_path / "to")
    assert repr(bad.name)[1:-1].replace("\\\\", "\\") in str(caught.value)
    assert not list((tmp_path / "to").iterdir()) and not (tmp_path / "out.txt").exists()


def test_zip_members_that_would_leave_the_folder_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name in ("../out.txt", "/out.txt", link):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as held:
            held.writestr("ok.txt", "abc")
            held.writestr(name, "/etc/passwd")
        with pytest.raises(DataError, match="nothing was unpacked"):
            unpack(tmp_path / "x.zip", tmp_path / "to")
        assert not list((tmp_path / "to").iterdir()) and not (tmp_path / "out.txt").exists()


def test_archives_of_every_kind(tmp_path: Path) -> None:
    for ending, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        to = tmp_path / f"to{ending}"
        assert unpack(tar_of(tmp_path / f"x{ending}", member("a", tarfile.DIRTYPE), member("a/b.txt"), mode=mode), to) == [
            to / "a"
        ]
        assert (to / "a" / "b.txt").read_bytes() == b"abc"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as held:
        held.writestr("a/b.txt", "abc")
        held.writestr("__MACOSX/a/._b.txt", "junk")
    to = tmp_path / "tozip"
    (to / "a").mkdir(parents=True)
    (to / "a" / "other.txt").write_text("stays")
    assert unpack(tmp_path / "x.zip", to) == [to / "a"]
    assert sorted(p.name for p in (to / "a").iterdir()) == ["b.txt", "other.txt"] and len(list(to.iterdir())) == 1
    (tmp_path / "y.h5.gz").write_bytes(gzip.compress(b"abc"))
    assert unpack(tmp_path / "y.h5.gz", to) == [to / "y.h5"] and (to / "y.h5").read_bytes() == b"abc"


def test_archives_that_are_damaged_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tar_of(tmp_path / "x.tgz", *(member(f"{i}.txt") for i in range(400)), mode="w:gz").read_bytes()
    (tmp_path / "x.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "x.h5.gz").write_bytes(gzip.compress(b"abc" * 1000)[:-9])
    for name in ("x.tgz", "x.zip", "x.tar", "x.h5.gz"):
        with pytest.raises(DataError, match="damaged"):
            unpack(tmp_path / name, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())
    with pytest.raises(DataError, match=r"must end in \.tar"):
        unpack(tmp_path / "x.rar", tmp_path / "to")
    huge = member("huge.bin")
    with tarfile.open(tmp_path / "big.tar", "w") as tar:
        huge.size = 1 << 60
        tar.fileobj.write(huge.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    with pytest.raises(TimaError, match=r"unpacks to 1,152,921,504,606,846,976 bytes|damaged"):
        unpack(tmp_path / "big.tar", tmp_path / "to")


# get ---------------------------------------------------------------------------------------------------------------------


def cifar_entry(server: FileServer, tmp_path: Path, **changes: object) -> FieldEntry:
    folder = write_cifar10(tmp_path / "made")
    archive = server.folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    source = {
        "url": f"{server.url}/{archive.name}",
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "checksum_from": "test",
    }
    values = field_entry("cifar10-full").model_dump() | {"sources": [source], "splits": {"test": 3, "train": 15}, "classes": 2}
    return FieldEntry(**{**values, **changes})


def test_get_fetches_checks_unpacks_and_notes(web: FileServer, tmp_path: Path) -> None:
    entry = cifar_entry(web, tmp_path)
    folder = get(entry)
    assert folder == tmp_path / "data" / "cifar10-full" and not list(folder.glob("*.gz"))
    assert len(find_data("cifar10-full")) == 3 and verify_manifest(folder) == []
    get(entry)
    assert web.fetched("/cifar-10-python.tar.gz") == 1, "a second call has nothing to do"
    (folder / "cifar-10-batches-py").rename(tmp_path / "gone")
    assert len(find_data(str(get(entry)))) == 3 and web.fetched("/cifar-10-python.tar.gz") == 2, "unless somebody removed it"
    batch = folder / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    (folder / "cifar-10-batches-py" / "data_batch_2").unlink()
    wrong = verify_manifest(folder)
    assert wrong is not None and len(wrong) == 2 and "test_batch has changed" in wrong[1] and "data_batch_2 is gone" in wrong[0]


def test_get_of_shards_goes_on_after_a_stop(web: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(web.folder / "wds_vtab-dtd", shards=3)
    monkeypatch.setattr(field_module, "HUB_SHARDS", web.url + "/wds_{name}")
    for i in (1,):
        (web.folder / "wds_vtab-dtd" / "test" / f"{i}.tar").rename(web.folder / f"kept{i}")
    with pytest.raises(DataError, match="404"):
        get(field_entry("dtd"), shards=True)
    folder = tmp_path / "data" / "dtd"
    assert not (folder / "test" / "nshards.txt").exists(), "half a set is none"
    (web.folder / "kept1").rename(web.folder / "wds_vtab-dtd" / "test" / "1.tar")
    assert get(field_entry("dtd"), shards=True) == folder
    assert web.fetched("/wds_vtab-dtd/test/0.tar") == 1 and len(find_data("dtd")) == 12 and find_data("dtd").name == "dtd"
    with pytest.raises(DataError, match=r"no val/nshards\.txt"):
        get(field_entry("dtd"), shards=True, split="val")
    with pytest.raises(DataError, match="not among CLIP_benchmark's shards"):
        get(field_entry("tiny-imagenet"), shards=True)


def test_get_says_what_to_put_where_by_hand(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ImageNet has no public download") as caught:
        get(field_entry("imagenet"))
    assert f"{tmp_path}/data/imagenet/val/n01440764" in str(caught.value)


def test_archives_inside_archives_and_folders_of_their_own(web: FileServer, tmp_path: Path) -> None:
    inner = tar_of(tmp_path / "inner.tar.gz", member("deep/b.txt"), mode="w:gz")
    with zipfile.ZipFile(web.folder / "outer.zip", "w") as held:
        held.write(inner, "outer/inner.tar.gz")
    sources = [{"url": f"{web.url}/outer.zip", "into": "there", "then": ["outer/inner.tar.gz"]}]
    entry = cifar_entry(web, tmp_path, sources=sources)
    assert (get(entry) / "there" / "deep" / "b.txt").read_bytes() == b"abc"


# check -------------------------------------------------------------------------------------------------------------------


def words(name: str, **more: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in check(name, **more).findings:  # type: ignore[arg-type]
        found.setdefault(one.verdict, []).append(f"{one.what}: {one.words}")
    return found


def test_check_counts_against_the_table(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    found = words("cifar10-full")
    assert any("test: 3 images; the table says 10,000" in line for line in found["wrong"])
    assert any("2 classes; the table says 10" in line for line in found["wrong"])
    assert any("3 images decoded" in line and "images/s" in line for line in found["ok"])
    assert check("cifar10-full").verdict == "wrong"


def test_check_of_a_whole_set_is_content(web: FileServer, tmp_path: Path) -> None:
    entry = cifar_entry(web, tmp_path)
    folder = get(entry)
    found = check(str(folder), entry=entry)
    assert found.verdict == "ok" and any(one.what == "checksums" for one in found.findings)
    (folder / "cifar-10-batches-py" / "batches.meta").touch()
    (folder / "cifar-10-batches-py" / "data_batch_1").unlink()
    assert "data_batch_1 is gone" in str(words(str(folder), entry=entry)["wrong"])
    (folder / FILE).write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        verify_manifest(folder)


def test_check_names_pictures_that_do_not_decode_and_classes_without_any(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "photos" / "test" / "cat" / f"{i}.png", i)
        picture(tmp_path / "photos" / "test" / "dog" / f"{i}.png", i)
    (tmp_path / "photos" / "test" / "cat" / "1.png").write_bytes(b"nothing")
    text(tmp_path / "photos" / "test" / "dog" / "notes.txt", "x")
    found = words(str(tmp_path / "photos"))
    assert len(found["wrong"]) == 2 and "1.png" in found["wrong"][1] and "notes.txt" in found["wrong"][0]
    assert not [line for line in words(str(tmp_path / "photos"), samples=0)["wrong"] if "1.png" in line]
    write_tar(tmp_path / "shards" / "0.tar", [m for i in (0, 1) for m in sample(i)])
    text(tmp_path / "shards" / "classnames.txt", "cat\ndog\nbird\n")
    assert any("1 of 3 classes have no image: bird" in line for line in words(str(tmp_path / "shards"))["note"])
    text(tmp_path / "shards" / "classnames.txt", "cat\nCat\nbird\n")
    assert any("class names given twice: 'Cat' (classes 0 and 1)" in line for line in words(str(tmp_path / "shards"))["wrong"])


def test_check_of_a_missing_set_says_what_to_put_where(tmp_path: Path) -> None:
    found = check("stanford-cars")
    assert found.verdict == "missing" and len(found.findings) == 1
    for piece in ("Looked at:", f"{tmp_path}/data/stanford_cars", "cars_test_annos_withlabels.mat", "--shards"):
        assert piece in found.findings[0].words
    assert check("flickr30k").verdict == "missing" and "dataset_flickr30k.json" in check("flickr30k").findings[0].words


def test_check_of_half_a_set_is_not_missing_but_wrong(tmp_path: Path) -> None:
    text(tmp_path / "data" / "food-101" / "meta" / "classes.txt", "apple_pie\n")
    (tmp_path / "data" / "food-101" / "images").mkdir()
    found = check("food101")
    assert found.verdict == "wrong" and any("tima data get food101" in one.words for one in found.findings)


def test_check_of_a_training_split_is_a_note_where_it_is_missing_and_wrong_where_it_is_damaged(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    batch = next((tmp_path / "data").rglob("data_batch_2"))
    batch.write_bytes(batch.read_bytes()[:40])
    assert any(line.startswith("train: ") and "data_batch_2 is damaged" in line for line in words("cifar10-full")["wrong"])
    batch.unlink()
    found = words("cifar10-full")
    assert any(line.startswith("train: ") and "data_batch_2 is missing" in line for line in found["note"])
    assert not [line for line in found["wrong"] if line.startswith("train: ")]


# the command -------------------------------------------------------------------------------------------------------------


def tima(*words: str, **more: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), **more)  # type: ignore[arg-type]
    return result.exit_code, result.output + (str(result.exception) if isinstance(result.exception, TimaError) else "")


def test_the_command_lists_and_shows(tmp_path: Path) -> None:
    (tmp_path / "data" / "dtd").mkdir(parents=True)
    code, out = tima("data", "list")
    assert code == 0 and all(name in out for name in (*EMBEDDED, *field_sets()))
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "missing" in lines["pcam"] and "yes" in lines["dtd"]
    assert tima("data")[1] == out
    code, out = tima("data", "show", "pets")
    assert code == 0 and all(piece in out for piece in ("CC BY-SA 4.0", "mean per class", "2.70 %", "hf:timm/oxford-iiit-pet"))
    assert "95a8c909bbe2e81eed6a22bccdf3f68f" in out
    assert f"{tmp_path}/data/imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG" in tima("data", "show", "imagenet")[1]
    code, out = tima("data", "show", "cifar10")
    assert code == 0 and all(
        piece in out for piece in ("2,000", "10.00 %", "airplane", "none stated", "no run may train on it")
    )
    assert tima("data", "get", "cifar10") == (
        1,
        "'cifar10' is embedded in the package, so there is nothing to fetch: --data cifar10",
    )


def test_the_command_shows_the_licence_and_waits_for_yes(
    web: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = cifar_entry(web, tmp_path)
    monkeypatch.setattr(field_module, "field_sets", lambda: {**field_sets(), "cifar10-full": entry})
    code, out = tima("data", "get", "cifar10-full", "--to", str(tmp_path / "here"))
    assert code == 1 and "licence: none stated; cite Krizhevsky 2009" in out and "say --yes" in out and not web.asked
    code, out = tima("data", "get", "cifar10-full", "--to", str(tmp_path / "here"), "--yes", "-q")
    assert code == 0 and "is ready" in out and "3 images decoded" in out
    assert len(find_data(str(tmp_path / "here" / "cifar10-full"))) == 3
    code, out = tima("data", "get", "imagenet", "--yes")
    assert code == 1 and "no public download" in out and "LOC_synset_mapping.txt" in out


def test_the_command_checks(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "photos" / name / "1.png", 1)
    code, out = tima("data", "check", str(tmp_path / "photos"))
    assert code == 0 and "2 images decoded" in out
    code, out = tima("data", "check", "16", "--samples", "0")
    assert code == 1 and out.count("is not here") == 16 and "16 of 16 sets are missing or not whole" in out
    assert "give 0 or more" in tima("data", "check", "cifar10", "--samples", "-1")[1]


def test_manifests_skip_hidden_files_and_see_sizes(tmp_path: Path) -> None:
    text(tmp_path / "s" / "a.txt", "abc")
    text(tmp_path / "s" / ".hidden" / "b.txt", "x")
    write_manifest(tmp_path / "s", [])
    text(tmp_path / "s" / ".hidden" / "b.txt", "y")
    assert verify_manifest(tmp_path / "s") == []
    text(tmp_path / "s" / "a.txt", "abcd")
    assert verify_manifest(tmp_path / "s") == ["a.txt has 4 bytes, not 3"]
    assert verify_manifest(tmp_path) is None


def test_an_evaluation_of_the_sixteen_has_a_row_for_each(tmp_path: Path) -> None:
    code, out = tima("evaluate", "--model", "nano", "--data", "16", "--attack", "pgd", "--out", str(tmp_path / "run"), "-q")
    rows = [line for line in out.splitlines() if line.startswith(("│", "|")) and "missing" in line]
    assert code == 1 and [row.split("│")[1].strip() for row in rows] == sixteen()
    assert "16 of 16 data sets could not be evaluated" in out and "tima data get food101" in out
