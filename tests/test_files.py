"""Atomic writes: the new file whole, or the old one untouched."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tima._files import atomic_folder, atomic_path, restore_folder, sha256_file, write_json, write_text
from tima.errors import TimaError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 1 MB: writing fails as it does on a full disk, in every library's own way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "x.txt"
    write_text(target, "one")
    write_text(target, "zwei ü")
    assert target.read_text(encoding="utf-8") == "zwei ü"
    assert names(target.parent) == ["x.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Bär", "n": [1, 2.5, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "Bär", "n": [1, 2.5, None]}


def test_nothing_is_seen_before_the_block_ends(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x") as part:
        part.write_text("half")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "half"


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "x") as part:
        part.write_text("new")
        raise KeyError("not about the disk")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x") as part:
        part.write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_no_space_left_is_said_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "x", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tima._files.os.fsync", full)
    with pytest.raises(TimaError, match=r"x: No space left on device\. What was there before is untouched"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_failed_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "x", "old")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(TimaError, match="Permission denied"):
            write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for writer in (atomic_path, atomic_folder):
        with pytest.raises(TimaError, match=r"Could not write .*file.*x"), writer(tmp_path / "file" / "x"):
            raise AssertionError("the block must not run")


@pytest.mark.parametrize("library", ["python", "safetensors", "torch"])
def test_a_full_disk_is_recognised_whoever_writes(tmp_path: Path, small_disk: None, library: str) -> None:
    big = torch.zeros(500_000)
    write_text(tmp_path / "x", "old")
    with pytest.raises(TimaError, match=r"Could not write .*untouched"), atomic_path(tmp_path / "x") as part:
        if library == "python":
            part.write_bytes(bytes(2_000_000))
        elif library == "safetensors":
            save_file({"big": big}, part)
        else:
            torch.save(big, part)
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def make(folder: Path, text: str) -> None:
    with atomic_folder(folder) as part:
        (part / "sub").mkdir()
        (part / "sub" / "weights.txt").write_text(text)


def test_folder_appears_whole_and_replaces(tmp_path: Path) -> None:
    make(tmp_path / "model", "one")
    (tmp_path / "model" / "stale").write_text("")
    make(tmp_path / "model", "two")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["sub"]
    assert (tmp_path / "model" / "sub" / "weights.txt").read_text() == "two"


def test_folder_error_leaves_the_old_one(tmp_path: Path, small_disk: None) -> None:
    make(tmp_path / "model", "old")
    with pytest.raises(TimaError, match="model"), atomic_folder(tmp_path / "model") as part:
        save_file({"big": torch.zeros(500_000)}, part / "w.safetensors")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "sub" / "weights.txt").read_text() == "old"


@pytest.mark.parametrize("failing_rename", [1, 2])
def test_folder_is_put_back_when_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_rename: int) -> None:
    make(tmp_path / "model", "old")
    replace, calls = Path.replace, []

    def flaky(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == failing_rename:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", flaky)
    with pytest.raises(TimaError, match="Input/output error"):
        make(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "sub" / "weights.txt").read_text() == "old"


def test_folder_is_restored_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    make(tmp_path / "model", "old")
    (tmp_path / "model").rename(tmp_path / ".model.old")  # the state in which such a kill leaves it
    restore_folder(tmp_path / "model")
    assert (tmp_path / "model" / "sub" / "weights.txt").read_text() == "old"
    restore_folder(tmp_path / "model")
    restore_folder(tmp_path / "never-was")
    assert names(tmp_path) == ["model"]


def test_folder_write_after_such_a_kill_works(tmp_path: Path) -> None:
    make(tmp_path / "model", "old")
    (tmp_path / "model").rename(tmp_path / ".model.old")
    make(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "sub" / "weights.txt").read_text() == "new"


def test_a_read_only_file_in_the_folder_is_no_trouble(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as part:
        save_file({"w": torch.ones(2)}, part / "w.safetensors")
        (part / "w.safetensors").chmod(0o444)
    assert load_file(tmp_path / "model" / "w.safetensors")["w"].tolist() == [1, 1]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    import hashlib

    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
