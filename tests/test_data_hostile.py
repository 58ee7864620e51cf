"""Files and servers that were made to do harm: pickles, shards, redirects."""

import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tima.data.download import download, read_url, size_of_url
from tima.data.safe_pickle import safe_load
from tima.data.wds.places import expand, list_shards
from tima.data.wds.tar_index import LONGEST, index_shard
from tima.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMA_CACHE", str(tmp_path / "cache"))


# pickles -----------------------------------------------------------------------------------------------------------

DTYPE = b"cnumpy\ndtype\nU\x02u8K\x00K\x01\x87R"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BAD_PICKLES = {
    "an array of objects by a call": b"cnumpy\nndarray\nK\x03\x85U\x01O\x86R.",
    "an array of 16 GB by a call": b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.",
    "an array of 16 GB by its state": EMPTY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89U\x01atb.",
    # REFCOUNT among the flags: NumPy would take the numbers for addresses of objects
    "numbers that are addresses": EMPTY + b"(K\x01K\x01\x85" + DTYPE + b"(K\x03U\x01<NNNK\x08K\x08K\x3ftb\x89U\x08aaaaaaaatb.",
    "a dtype with fields": DTYPE + b"(K\x03U\x01<NU\x01a\x85}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "an array of lists": EMPTY + b"(K\x01K\x01\x85" + DTYPE + b"\x89]tb.",
    "an array of another dtype": EMPTY + b"(K\x01K\x01\x85U\x02u8\x89U\x08aaaaaaaatb.",
    "a buffer of texts": b"cnumpy.core.numeric\n_frombuffer\n(U\x04aaaaU\x02S1K\x04\x85U\x01Ctb.",
    "the dtype of objects": b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",
    "a scalar": b"cnumpy.core.multiarray\nscalar\n" + DTYPE + b"U\x08aaaaaaaa\x86R.",
    "a key as deep as the stack": b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "a far place in the memo": b"K\x01r" + struct.pack("<I", 2**31 - 1) + b".",
}


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_pickles_that_mean_harm_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "batch"
    file.write_bytes(b"\x80\x02" + BAD_PICKLES[name])
    with pytest.raises(DataError):
        safe_load(file)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?"])
def test_arrays_of_every_protocol_are_ordinary_arrays_elsewhere(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps({"a": array, "f": np.asfortranarray(array)}, protocol))
    found = safe_load(file)
    for key in "af":
        value = next(v for k, v in found.items() if k in (key, key.encode()))
        assert isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert np.array_equal(value, array)
        sent = pickle.loads(pickle.dumps(np.concatenate([value, value])))
        assert type(sent) is np.ndarray and np.array_equal(sent, np.concatenate([array, array]))


# shards ------------------------------------------------------------------------------------------------------------


def shard(file: Path, members: dict[str, bytes], encoding: str = "utf-8") -> Path:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, encoding=encoding) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


@pytest.mark.parametrize(
    ("label", "content", "why"),
    [
        ("cls", b"1" + b"0" * 30, "not a class number"),
        ("cls", b"-3000000000", "not a class number"),
        ("json", b'{"cls": 1%s}' % (b"0" * 30), "no class number"),
        ("json", b"[" * 200_000, "cannot be read"),
    ],
)
def test_labels_that_no_table_can_hold(tmp_path: Path, label: str, content: bytes, why: str) -> None:
    file = shard(tmp_path / "0.tar", {"a.png": b"x", f"a.{label}": content, "b.png": b"y", "b.cls": b"7"})
    index = index_shard(file, str(file))
    assert index.label_N.tolist() == [7] and index.key_N.tolist() == [b"b"]
    assert [key for key, _ in index.bad] == ["a"] and why in index.bad[0][1]


def test_names_in_another_encoding_or_without_end(tmp_path: Path) -> None:
    long = "n" * (LONGEST + 1)
    members = {"caf\xe9.png": b"x", "caf\xe9.cls": b"1", f"{long}.png": b"x", f"{long}.cls": b"1"}
    file = shard(tmp_path / "0.tar", members, "latin-1")
    for _ in range(2):  # made, then from the cache
        index = index_shard(file, str(file))
        assert [key.decode() for key in index.key_N.tolist()] == ["caf\ufffd"] and index.key_N.itemsize < LONGEST


def test_links_devices_and_sparse_members_are_no_pictures(tmp_path: Path) -> None:
    file = tmp_path / "0.tar"
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        sparse = tarfile.TarInfo("s.png")
        sparse.type = tarfile.GNUTYPE_SPARSE  # says that it is a petabyte
        header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
        header[483:495] = b"\x80" + (1 << 50).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        assert tar.fileobj is not None
        tar.fileobj.write(bytes(header))
        tar.offset += len(header)
        good = tarfile.TarInfo("good.png")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"data"))
    index = index_shard(file, str(file))
    assert index.key_N.tolist() == [b"good"] and index.size_N.tolist() == [4]


def test_numbers_of_shards_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for text in ("999999999999", "1" * 5000, "\u00b2", "-1", "0", ""):
        (tmp_path / "test" / "nshards.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="number of shards"):
            list_shards(str(tmp_path), "test")
    with pytest.raises(DataError, match="more than"):
        expand("a-{0..999999999999}.tar")
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]


def test_archives_that_are_damaged_inside_or_encrypted_are_named(tmp_path: Path) -> None:
    import gzip
    import zipfile

    from tima.data.unpack import unpack

    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("x/a.txt", bytes(range(256)) * 50)
    data = bytearray(file.read_bytes())
    data[60:70] = b"\xff" * 10
    file.write_bytes(data)
    locked = tmp_path / "b.zip"
    with zipfile.ZipFile(locked, "w") as held:
        held.writestr("x/a.txt", "data")
    data = bytearray(locked.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    locked.write_bytes(data)
    packed = bytearray(gzip.compress(bytes(1024)))
    packed[-8] ^= 1  # of its checksum
    (tmp_path / "c.gz").write_bytes(packed)
    for name, why in (("a.zip", "damaged"), ("b.zip", "encrypted"), ("c.gz", "damaged")):
        with pytest.raises(DataError, match=why):
            unpack(tmp_path / name, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# servers -----------------------------------------------------------------------------------------------------------


@contextmanager
def answering(handle: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handle)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_only_http_is_read_also_after_a_redirect(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    local = (tmp_path / "secret").as_uri()
    for act in (lambda: read_url(local), lambda: download(local, tmp_path / "out")):
        with pytest.raises(DataError, match="only http"):
            act()
    assert size_of_url(local) is None

    class Leads(Quiet):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", {"/file": local, "/ftp": "ftp://127.0.0.1/x"}[self.path])
            self.end_headers()

    with answering(Leads) as url:
        for path in ("/file", "/ftp"):
            with pytest.raises(DataError, match=r"not followed|not allowed"):  # urllib refuses files itself
                download(url + path, tmp_path / "out", pause=0)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()


def test_a_secure_address_is_not_left_for_an_open_one() -> None:
    import urllib.request

    from tima.data.download import _Redirects

    def to(old: str, new: str) -> str:
        return _Redirects().redirect_request(urllib.request.Request(old), None, 302, "", {}, new).full_url

    assert to("http://a/x", "https://b/x") == "https://b/x" and to("https://a/x", "https://b/y") == "https://b/y"
    assert to("http://a/x", "http://b/x") == "http://b/x"
    with pytest.raises(DataError, match="not followed"):
        to("https://a/x", "http://a/x")


def test_halves_of_two_versions_are_not_put_together(tmp_path: Path) -> None:
    """A server that knows Range and not If-Range, and whose file changes between the first half and the second."""

    class Changing(Quiet):
        asked = 0

        def do_GET(self) -> None:
            Changing.asked += 1
            old, new = b"a" * 1000, b"b" * 1000
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            data, tag = (old, '"1"') if Changing.asked == 1 else (new[start:], '"2"')
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(data)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-999/1000")
            self.end_headers()
            self.wfile.write(data[:400] if Changing.asked == 1 else data)

    with answering(Changing) as url:
        assert download(f"{url}/f", tmp_path / "f", pause=0).read_bytes() == b"b" * 1000
    assert Changing.asked == 3


def test_a_text_that_is_too_long_is_not_cut() -> None:
    class Long(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 100)

    with answering(Long) as url:
        assert read_url(url, limit=100) == "x" * 100
        with pytest.raises(DataError, match="larger than 99 bytes"):
            read_url(url, limit=99)


def test_a_gzip_file_that_unpacks_to_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import shutil
    from collections import namedtuple

    from tima.data import unpack
    from tima.errors import TimaError

    free = namedtuple("free", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free(unpack.KEPT_FREE + (2 << 20)))
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    unpack.unpack(tmp_path / "x.gz", tmp_path)
    assert (tmp_path / "x").stat().st_size == 1 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free(unpack.KEPT_FREE + 1000))
    (tmp_path / "y.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(TimaError, match="room"):
        unpack.unpack(tmp_path / "y.gz", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.gz", "y.gz"]
