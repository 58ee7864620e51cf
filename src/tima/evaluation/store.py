"""Where an evaluation keeps what it has: the result file, its sidecar, and a work folder for what is in progress.

The result file decides which eps are done. A finished eps is committed in this order: files of its blocks, kept adversarial
images, sidecar, result. Shapes: `N` images, `K` kept ones, `C` channels, `H, W` pixels.
"""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tima._files import atomic_path
from tima.errors import ResultError
from tima.evaluation.parts import Block, Offsets, read_block, read_tensors, write_tensors
from tima.evaluation.shards import Shards
from tima.results import Result, load_sidecar, read_result, write_result


@dataclass
class Progress:
    """An eps as it was found: images that are done, and blocks that stopped between two attacks."""

    done_N: Tensor
    begun: list[Path]


class Store:
    """Files of one evaluation. Without a path they go to a temporary folder that is removed in the end."""

    def __init__(self, path: Path | None, shards: Shards) -> None:
        self.shards, self.temporary = shards, path is None
        if path is None:
            path = Path(shards.agree(tempfile.mkdtemp(prefix="tima-evaluate-") if shards.main else "")) / "result.json"
        self.path = path
        self.work = path.with_name(f".{path.stem}.work")

    def load(self, fresh: Result) -> tuple[Result, dict[str, Tensor]] | None:
        """What an earlier call left, if it is the same evaluation as `fresh`.

        Raises:
            ResultError: the file there is of another protocol, checkpoint or data set, or damaged.
        """
        if not self.path.is_file():
            return None
        stored = read_result(self.path)
        differs = [
            what
            for what, old, new in (
                ("protocol", stored.protocol.get("sha256"), fresh.protocol["sha256"]),
                ("checkpoint", stored.checkpoint_sha256, fresh.checkpoint_sha256),
                ("data set", stored.dataset, fresh.dataset),
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
        arrays = load_sidecar(self.path)
        if not stored.complete and "margin_EN" not in arrays:
            raise ResultError(
                f"{self.path} was begun by an older version, which kept less of each image. Delete it to start again."
            )
        return stored, arrays

    def save(self, result: Result, arrays: dict[str, Tensor]) -> None:
        """Write sidecar and result, each atomically."""
        with atomic_path(self.path.with_suffix(".safetensors")) as part:
            save_file({name: array.contiguous() for name, array in arrays.items()}, part)
        write_result(self.path, result)

    def reset(self) -> None:
        """Nothing is done: drop what an evaluation that never finished its clean pass may have left."""
        shutil.rmtree(self.work, ignore_errors=True)

    def close(self, *, finished: bool) -> None:
        """Remove what is in progress, unless a later call goes on from it."""
        if self.shards.main and (finished or self.temporary):
            shutil.rmtree(self.work.parent if self.temporary else self.work, ignore_errors=True)

    # the eps in progress -----------------------------------------------------------------------------------------

    def parts(self, step: int | str) -> list[Path]:
        """Finished blocks of eps number `step`, of all processes."""
        return sorted(self.work.glob(f"{step}.*.block"))

    def survey(self, step: int) -> Progress:
        """How far eps number `step` is. All processes look at the same moment."""
        done = [read_tensors(p, leave=("offset_SCHW", "kept_KCHW"))[0]["position_B"] for p in self.parts(step)]
        begun = []
        for path in sorted(self.work.glob(f"{step}.*.begun")):
            if path.with_suffix(".block").is_file():
                continue  # killed between writing the finished block and removing this
            begun.append(path)
        return Progress(torch.cat([torch.empty(0, dtype=torch.long), *done]), begun)

    def next_name(self, step: int | str, ending: str) -> Path:
        """A path for a new block of this process: `STEP.PROCESS.NUMBER.ENDING`."""
        used = [
            int(m[1]) for p in self.work.glob(f"{step}.{self.shards.rank}.*") if (m := re.match(r"[^.]+\.\d+\.(\d+)", p.name))
        ]
        return self.work / f"{step}.{self.shards.rank}.{max(used, default=-1) + 1}.{ending}"

    def take(self, path: Path) -> Block:
        """A block that stopped between two attacks."""
        return read_block(path)

    def offsets(self, step: int, shape: tuple[int, int, int], standing_N: Tensor) -> Offsets | None:
        """What the smaller eps found, to start from; None at the first.

        Raises:
            ResultError: some of it is missing or damaged.
        """
        if step == 0:
            return None
        try:
            found = Offsets(self.parts(step - 1), shape)
        except ResultError as error:
            raise self._lost(str(error)) from error
        if found.missing(standing_N):
            raise self._lost(f"{self.work} is missing or damaged.")
        return found

    # adversarial images that are kept ------------------------------------------------------------------------------

    def write_kept(self, step: int, kept_KCHW: Tensor) -> None:
        """The adversarial images of the gallery and of the health probe at eps number `step` (-1: the clean ones)."""
        write_tensors(self.work / f"{step}.kept", {"kept_KCHW": kept_KCHW}, {})

    def read_kept(self, step: int) -> Tensor:
        try:
            return read_tensors(self.work / f"{step}.kept")[0]["kept_KCHW"]
        except ResultError as error:
            raise self._lost(str(error)) from error

    def forget(self, step: int | str) -> None:
        """Drop the files of an eps that nobody starts from any more."""
        endings = ("block", "begun", "inside")
        for path in [*(p for ending in endings for p in self.work.glob(f"{step}.*.{ending}")), self.work / f"{step}.kept"]:
            path.unlink(missing_ok=True)

    def _lost(self, why: str) -> ResultError:
        return ResultError(f"{why} The evaluation cannot go on where it stopped. Delete {self.path} to start it again.")
