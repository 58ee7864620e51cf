"""Several runs of each image, from other points or towards other classes, in one batch.

First every image's run 0 begins, then run 1 of those that still stand, and so on, so that each run draws the random numbers
that it would draw alone. As long as there are enough images a batch holds each of them once. Where few are left, runs of one
image go side by side: two images that hold out, led to nine targets, are 18 rows instead of 2, and the hardware does not
idle. The outcome is that of one run after the other: where several break an image, the earliest of them counts, and those
before it go on to their ends. What it costs is the steps that later runs made until then, and the random numbers that they
drew: how far the generator of a broken image has gone depends on the batch.

Shapes: `N` images in all, `A` runs in the batch, `C` channels, `H, W` pixels.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from tima.attacks._check import not_finite
from tima.attacks._pool import Rows
from tima.attacks._pooled import PooledSearch
from tima.attacks.projections import Ball

ROOM = {"cpu": 32, "cuda": 256}  # rows below which a pass takes hardly longer when there are more of them


@dataclass
class RunRows(Rows):
    """Base of the state of a search in runs: which image and which run each row is, on the CPU."""

    row_N: Tensor
    run_N: Tensor


R = TypeVar("R", bound=RunRows)


@dataclass(kw_only=True)
class RunsSearch(PooledSearch[R]):
    """A search that is several runs of each image, none of which needs to know of the others.

    Attributes:
        runs: for each image.
        stop_when_broken: a run that breaks its image makes later ones needless.
    """

    runs: int
    stop_when_broken: bool

    @abstractmethod
    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> R:
        """The state in which some runs of some images begin."""

    @abstractmethod
    def verdict(self, rows: R) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows whose run has ended: the points to return, the score that runs compare by, and which are broken, if that
        ends an image's search."""

    def search(self, batch_size: int | None) -> Tensor:
        number, device = len(self.starts.image_NCHW), self.starts.image_NCHW.device
        self.until_N = torch.full((number,), self.runs)  # the earliest run that broke the image: later ones are not needed
        self.broken_N = torch.zeros(number, dtype=torch.bool)  # the point kept is of a run that broke the image
        self.score_N = torch.full((number,), -torch.inf, dtype=torch.float64)  # exact, whatever the loss computes in
        self.run_N = torch.full((number,), -1)  # which run the point kept is of
        self.most = min(batch_size or number, ROOM.get(device.type, 1))
        return super().search(batch_size)

    def total(self) -> int:
        return len(self.found_NCHW) * self.runs

    def results(self) -> dict[str, Tensor]:
        kept = {"until": self.until_N, "found_broken": self.broken_N, "found_score": self.score_N, "found_run": self.run_N}
        return {**super().results(), **kept}

    def choose(self, taken: int, room: int, rows: R | None) -> tuple[Tensor, int]:
        """The next runs that are needed. One whose image is in the batch already waits until few rows are left."""
        number, inside = len(self.found_NCHW), set() if rows is None else set(rows.row_N.tolist())
        chosen: list[int] = []
        size, until, total = 0 if rows is None else len(rows), self.until_N.tolist(), self.total()
        while taken < total and len(chosen) < room:
            run, image = divmod(taken, number)
            if run < until[image]:
                if image in inside and size + len(chosen) >= self.most:
                    break
                chosen.append(taken)
                inside.add(image)
            taken += 1
        return torch.tensor(chosen, dtype=torch.long), taken

    def begin(self, row_N: Tensor) -> R:
        number = len(self.found_NCHW)
        return self.begin_runs(row_N % number, row_N // number)

    def points(self, row_N: Tensor, run_N: Tensor, ball: Ball) -> Tensor:
        """Where some runs of some images, whose balls are given, begin: `x_ACHW`."""
        runs = run_N.unique().tolist()
        if len(runs) == 1:
            return self.point(runs[0], row_N, ball)
        x_ACHW = self.starts.image_NCHW.new_empty(len(row_N), *self.starts.image_NCHW.shape[1:])
        for run in runs:  # in order: an image's runs draw one after the other
            index = (run_N == run).nonzero()[:, 0]
            x_ACHW[index] = self.point(run, row_N[index], ball.select(index))
        return x_ACHW

    def point(self, run: int, row_N: Tensor, ball: Ball) -> Tensor:
        """Where run number `run` of some images begins."""
        return self.starts.point(run, row_N, ball)

    def needless(self, rows: R, broken_A: Tensor) -> Tensor:
        """Whose run ends, because it broke the image or an earlier one did. Both masks on the CPU."""
        self.until_N.scatter_reduce_(0, rows.row_N[broken_A], rows.run_N[broken_A], "amin")
        return rows.run_N >= self.until_N[rows.row_N]

    def end(self, rows: R) -> None:
        """Take over what is better than what the image's other runs found: what the earliest run that broke it found, else
        the highest score, of equal ones that of the earliest run."""
        not_finite(self.bad)
        point_ACHW, score_A, broken_A = self.verdict(rows)
        score_A, broken_A = score_A.cpu().double(), broken_A.cpu()
        self.needless(rows, broken_A)  # a run may break its image as late as here
        for run in rows.run_N.unique().tolist():
            mine = (rows.run_N == run).nonzero()[:, 0]
            row, score, broken = rows.row_N[mine], score_A[mine], broken_A[mine]
            earlier = run < self.run_N[row]
            higher = (score > self.score_N[row]) | ((score == self.score_N[row]) & earlier) | (self.run_N[row] < 0)
            better = torch.where(self.broken_N[row], broken & earlier, broken | higher)
            mine, row = mine[better], row[better]
            self.found_NCHW[row] = point_ACHW[mine]
            self.broken_N[row], self.score_N[row], self.run_N[row] = broken[better], score[better], run
