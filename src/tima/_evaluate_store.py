"""Where an evaluation keeps what it has: the result file, its sidecar, and the perturbations the next eps starts from.

Shapes: `N` images, `C` channels, `H, W` pixels, `S` images that survived an eps. Perturbations are kept as float16 rows,
survivors only, in image order: the next eps attacks just these, so it reads the file from front to back in whatever batch
size. Ordinary file writes, not a memory map, because a full disk must be an error and not a crash.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tima._files import atomic_path
from tima.errors import ResultError, TimaError
from tima.results import Result, load_sidecar, read_result, write_result


class Store:
    """Files of one evaluation. Without a path nothing is kept, and the perturbations go to a temporary folder.

    A finished eps is committed in this order: perturbations, sidecar, result. The result file decides what is done, so a
    kill at any moment loses at most the eps in progress.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None:
            self.work = Path(tempfile.mkdtemp(prefix="tima-evaluate-"))
        else:
            self.work = path.with_name(f".{path.stem}.work")

    def load(self, fresh: Result) -> tuple[Result, dict[str, Tensor]] | None:
        """What an earlier call left, if it is the same evaluation as `fresh`.

        Raises:
            ResultError: the file there is of another protocol, checkpoint or data set, or damaged.
        """
        if self.path is None or not self.path.is_file():
            return None
        stored = read_result(self.path)
        differs = [
            what
            for what, old, new in (
                ("protocol", stored.protocol.get("sha256"), fresh.protocol["sha256"]),
                ("checkpoint", stored.checkpoint_sha256, fresh.checkpoint_sha256),
                ("class list", stored.class_names, fresh.class_names),
                ("templates", stored.templates, fresh.templates),
            )
            if old != new
        ]
        if differs:
            raise ResultError(
                f"{self.path} already holds a result with another {' and '.join(differs)}. "
                "Delete that file, or write to another folder."
            )
        return stored, load_sidecar(self.path)

    def save(self, result: Result, arrays: dict[str, Tensor]) -> None:
        """Write sidecar and result, each atomically."""
        if self.path is None:
            return
        with atomic_path(self.path.with_suffix(".safetensors")) as part:
            save_file({name: array.contiguous() for name, array in arrays.items()}, part)
        write_result(self.path, result)

    def close(self, *, finished: bool) -> None:
        """Remove the perturbations, unless a later call goes on from them."""
        if finished or self.path is None:
            shutil.rmtree(self.work, ignore_errors=True)

    @contextmanager
    def perturbations(self, step: int, survivors: int, shape: tuple[int, ...]) -> Iterator["Perturbations"]:
        """Those found at eps number `step - 1` to read, and a new file for those of eps number `step` to write.

        Raises:
            ResultError: what the earlier eps left is missing or cut short.
            TimaError: the disk is full.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        old, new = self.work / f"{step - 1}.f16", self.work / f"{step}.f16"
        if step > 0 and (not old.is_file() or old.stat().st_size != survivors * 2 * int(np.prod(shape))):
            raise ResultError(
                f"{old} is missing or damaged, so the evaluation cannot go on where it stopped. "
                f"Delete {self.path} to start it again."
            )
        try:
            with old.open("rb") if step > 0 else open(os.devnull, "rb") as source, new.open("wb") as target:
                yield Perturbations(source if step > 0 else None, target, shape)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            raise TimaError(f"Could not write {new}: {error.strerror or error}. Finished eps are kept.") from error

    def forget(self, step: int) -> None:
        """Drop the perturbations of an eps that nobody starts from any more."""
        (self.work / f"{step}.f16").unlink(missing_ok=True)


class Perturbations:
    """Rows read and written in image order."""

    def __init__(self, source: BinaryIO | None, target: BinaryIO, shape: tuple[int, ...]) -> None:
        self.source, self.target, self.shape = source, target, shape

    def read(self, count: int) -> Tensor | None:
        """The next `count` perturbations as fp32 `count x C x H x W`; None at the first eps."""
        if self.source is None:
            return None
        raw = self.source.read(count * 2 * int(np.prod(self.shape)))
        return torch.from_numpy(np.frombuffer(raw, dtype=np.float16).reshape(count, *self.shape).astype(np.float32))

    def write(self, offset_SCHW: Tensor) -> None:
        """Append perturbations of survivors."""
        self.target.write(offset_SCHW.to(torch.float16).cpu().contiguous().numpy().tobytes())
