"""Stored runs: found at the start, their numbers kept in memory, their reports made in the background and kept too."""

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tima.eps import format_eps
from tima.errors import TimaError
from tima.serve.models import unique_id

if TYPE_CHECKING:
    from tima.report.comparison import Block, Comparison
    from tima.report.runs import Run

ALL = "all"  # the report of all runs together
MOST_RUNS = 40
MOST_REPORT_BYTES = 128 << 20  # of all reports together


@dataclass(frozen=True)
class RunEntry:
    """A run and the id that requests call it by."""

    id: str
    run: "Run"
    about: str

    def shown(self, report: str) -> dict[str, Any]:
        summary = self.run.summary
        return {
            "id": self.id,
            "title": self.run.name,
            "about": self.about,
            "trained": self.run.trained,
            "eps": self.run.train_eps,
            "steps": summary.get("steps"),
            "seconds": summary.get("seconds"),
            "data_sets": sorted({stored.record.dataset for stored in self.run.results}),
            "report": report,
        }


def find_runs(folder: Path | None) -> "tuple[list[Run], list[str]]":
    """Run folders in `folder` or one level deeper, and what was left out with the reason.

    Raises:
        TimaError: the folder is not there.
    """
    if folder is None:
        return [], []
    if not folder.is_dir():
        raise TimaError(f"{folder} is no folder. Name the one that holds your runs: tima serve --runs runs")
    from tima.report.runs import read_runs

    found: list[Path] = []
    left_out: list[str] = []
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in (folder, *children, *(p for child in children for p in sorted(child.iterdir()))):
        if not _is_run(path):
            continue
        if len(found) == MOST_RUNS:
            left_out.append(f"{path}: {MOST_RUNS} runs are shown at most; name a smaller folder.")
            continue
        try:
            read_runs([path])
            found.append(path)
        except TimaError as error:  # one broken file must not keep the others from being shown
            left_out.append(f"{path}: {error}")
    return (read_runs(found) if found else []), left_out


def _is_run(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_dir():
        return False
    return (path / "summary.json").is_file() or any(not p.name.startswith(".") for p in (path / "results").glob("*.json"))


class RunShelf:
    """All runs of a server. Reading from it touches no disk; `make_reports` does, on a thread of its own."""

    def __init__(self, runs: "Sequence[Run]") -> None:
        from tima.report.page import about

        self.entries: dict[str, RunEntry] = {}
        for run in runs:
            key = unique_id(run.name, [*self.entries, ALL])
            self.entries[key] = RunEntry(key, run, about(run))
        self.charts = charts(list(self.entries.values()))
        self._reports: dict[str, bytes] = {}
        self._failed: dict[str, str] = {}
        self._ended = threading.Event()
        self._maker: threading.Thread | None = None

    def listing(self) -> dict[str, Any]:
        """Every run and every chart; what `/v1/runs` answers."""
        runs = [entry.shown(self._state(entry.id)) for entry in self.entries.values()]
        return {"runs": runs, "charts": self.charts}

    def _state(self, key: str) -> str:
        return "ready" if key in self._reports else "failed" if key in self._failed else "being made"

    def report(self, key: str) -> bytes | None:
        """The page, None while it is not made yet.

        Raises:
            TimaError: it could not be made.
        """
        if key in self._failed:
            raise TimaError(self._failed[key])
        return self._reports.get(key)

    def start(self) -> None:
        """Begin making the reports, the one of all runs first."""
        if self.entries:
            self._ended.clear()
            self._maker = threading.Thread(target=self.make_reports, name="reports", daemon=True)
            self._maker.start()

    def stop(self, patience: float = 10.0) -> None:
        """Begin no further report, and wait some seconds for the one in work.

        A thread that Python's end finds in the middle of a tensor's work takes the process down with it (exit status 134).
        """
        self._ended.set()
        if self._maker is not None:
            self._maker.join(patience)

    def make_reports(self) -> None:
        """Each run's report, and one of all."""
        from tima.report import report

        jobs = {ALL: [e.run.folder for e in self.entries.values()]} | {e.id: [e.run.folder] for e in self.entries.values()}
        with tempfile.TemporaryDirectory(prefix="tima-reports-") as folder:
            for key, folders in jobs.items():
                if self._ended.is_set():
                    return
                try:
                    page = report(folders, Path(folder) / "report.html", title="All runs" if key == ALL else self._title(key))
                    data = page.read_bytes()
                    if sum(map(len, self._reports.values())) + len(data) > MOST_REPORT_BYTES:
                        raise TimaError(f"The reports fill {MOST_REPORT_BYTES >> 20} MiB already. Make this one: tima report")
                    self._reports[key] = data
                except Exception as error:  # whatever it is, the other reports can still be made
                    self._failed[key] = str(error) if isinstance(error, TimaError) else f"The report failed: {error!r}."

    def _title(self, key: str) -> str:
        return self.entries[key].run.name


def charts(entries: Sequence[RunEntry]) -> list[dict[str, Any]]:
    """Accuracy against eps: one chart list for each protocol. Nothing is computed that the report would not show."""
    from tima.report.compare import compare

    return [_protocol(comparison, entries) for comparison in compare([entry.run for entry in entries])]


def _protocol(comparison: "Comparison", entries: Sequence[RunEntry]) -> dict[str, Any]:
    return {
        "protocol": comparison.label,
        "sha256": str(comparison.protocol.get("sha256", "")),
        "attack": str(comparison.protocol.get("attack", "")),
        "norm": comparison.norm,
        "eps": [0.0, *comparison.eps],
        "labels": ["clean", *(format_eps(e) if comparison.norm == "l_inf" else f"{e:.4g}" for e in comparison.eps)],
        "blocks": [_block(block, comparison, entries) for block in comparison.blocks],
    }


def _block(block: "Block", comparison: "Comparison", entries: Sequence[RunEntry]) -> dict[str, Any]:
    ids = {id(entry.run): entry.id for entry in entries}
    rows = []
    for run, cells in zip(comparison.runs, block.cells, strict=True):
        if any(cell.value is not None for cell in cells):
            keys = ("value", "low", "high", "n")
            points = [None if c.value is None else {key: getattr(c, key) for key in keys} for c in cells]
            rows.append({"run": ids[id(run)], "points": points})
    return {"title": block.title, "about": block.about, "chance": block.chance, "warnings": block.warnings, "rows": rows}
