"""What a training run tells: a progress line for people, JSON lines for the report, numbers for trackers."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from tima.config import TrainRecipe
from tima.data import BadImage
from tima.distributed import Team
from tima.eps import format_eps
from tima.objective import Outcome
from tima.split import Split
from tima.validate import Score, mean_score

EVERY = 10  # steps between lines of metrics.jsonl


class TrainLog:
    """Collects step outcomes; use as a context manager. `first` is the step a resumed run goes on from.

    Several processes add up what they saw, so every one of them has a log; one writes and shows.
    """

    def __init__(
        self,
        out: Path,
        recipe: TrainRecipe,
        first: int,
        *,
        show: bool,
        write: bool,
        tracker: Callable[..., None],
        team: Team | None = None,
    ) -> None:
        self.file, self.recipe, self.first, self.write, self.tracker = out / "metrics.jsonl", recipe, first, write, tracker
        self.team = team or Team()
        self.console = Console(stderr=True, quiet=not show)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")]
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, disable=not show)
        self.window: list[tuple[Outcome, float]] = []
        self.bad_seen: dict[str, BadImage] = {}
        self.mark = time.monotonic()
        self.last_val = ""

    def __enter__(self) -> "TrainLog":
        self._remember_bad()
        if self.write:
            self._drop_lines_after(self.first)
        self.progress.start()
        self.task = self.progress.add_task(f"{self.recipe.method}", total=self.recipe.steps, completed=self.first, text="")
        self.mark = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def notes(self, split: Split, params: dict[str, nn.Parameter], device: torch.device) -> None:
        """What is being trained on what, and what the run could not read."""
        count = sum(p.numel() for p in params.values())
        many = f", {self.team.size} processes" if self.team.size > 1 else ""
        unseen = f", {len(split.unseen.class_names)} classes held out" if split.unseen is not None else ""
        self.console.print(
            f"[bold]{self.recipe.method}[/] on {split.train.name}: {len(split.train):,} images of "
            f"{len(split.train.class_names)} classes{unseen}; {count / 1e6:.1f} M weights train in {self.recipe.precision} on "
            f"{device}{many}, eps {format_eps(self.recipe.eps)}" + (f"; resumed at step {self.first}" if self.first else "")
        )
        self.bad(tuple(split.train.quarantine))

    def bad(self, images: Sequence[BadImage]) -> None:
        """Unreadable pictures: said once each, and kept in `quarantine.jsonl`."""
        for image in images:
            if image.where in self.bad_seen:
                continue
            self.bad_seen[image.where] = image
            self.console.print(f"[yellow]left out[/] {image.where}: {image.why}")
            if self.write:
                with self.file.with_name("quarantine.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"where": image.where, "why": image.why}) + "\n")

    def _remember_bad(self) -> None:
        """What the run left out before it was resumed counts once."""
        file = self.file.with_name("quarantine.jsonl")
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for line in lines:
            try:
                found = BadImage(**json.loads(line))
            except (ValueError, TypeError):
                continue  # cut off by the kill
            self.bad_seen[found.where] = found
        if self.write and len(lines) > len(self.bad_seen):
            told = [json.dumps({"where": bad.where, "why": bad.why}) for bad in self.bad_seen.values()]
            file.write_text("".join(line + "\n" for line in told), encoding="utf-8")

    def step(self, step: int, outcome: Outcome, lr: float, eps: float) -> None:
        self.window.append((outcome, time.monotonic()))
        done = step + 1
        if done % EVERY == 0 or done == self.recipe.steps:
            names = list(self.window[0][0].terms)
            here = [sum(o.right for o, _ in self.window), sum(o.n for o, _ in self.window)]
            right, n, *sums = self.team.total(here + [sum(float(o.terms[name]) for o, _ in self.window) for name in names])
            rate = n / max(1e-9, time.monotonic() - self.mark)
            terms = {name: value / len(self.window) for name, value in zip(names, sums, strict=True)}
            kind = "robust_accuracy" if self.window[0][0].adversarial else "clean_accuracy"
            record: dict[str, Any] = {
                "kind": "train",
                "step": done,
                "loss": round(sum(terms.values()), 6),
                "terms": {name: round(value, 6) for name, value in terms.items()},
                kind: round(right / max(1, n), 5),
                "images_per_s": round(rate, 1),
                "lr": lr,
                "eps": eps,
            }
            self._append(record)
            text = " ".join(f"{name} {value:.3g}" for name, value in terms.items())
            text += f" | {kind.split('_')[0]} {100 * record[kind]:.0f} %{self.last_val} | {rate:.0f} img/s"
            self.progress.update(self.task, text=text)
            self.window, self.mark = [], time.monotonic()
        self.progress.update(self.task, completed=done)

    def validation(self, step: int, scores: dict[str, Score]) -> float:
        """Record a validation and return the score that chooses the best checkpoint."""
        score = mean_score(scores)
        self._append({"kind": "val", "step": step, "score": round(score, 5), **{n: s.record() for n, s in scores.items()}})
        words = [f"{n} {100 * s.clean_accuracy:.0f}/{100 * s.robust_accuracy:.0f}" for n, s in scores.items()]
        self.last_val = f" | val clean/robust {' '.join(words)}"
        if any(s.one_class and abs(s.clean_accuracy - s.robust_accuracy) < 1e-9 for s in scores.values()):
            self.console.print(
                f"[red]Step {step}: the model gives one answer to everything (clean equals robust accuracy). Training has "
                "collapsed; stop it and start again with a smaller lr, longer warmup and eps_warmup, or more distillation."
            )
        self.mark = time.monotonic()
        return score

    def _append(self, record: dict[str, Any]) -> None:
        if not self.write:
            return
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.recipe.trackers:
            self.tracker(_numbers(record, f"{record['kind']}/"), step=record["step"])

    def _drop_lines_after(self, step: int) -> None:
        """A resumed run repeats the steps since its checkpoint; their old lines go."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                continue  # a line cut off by the kill
        self.file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _numbers(record: dict[str, Any], prefix: str) -> dict[str, float]:
    """What a tracker draws: every number of a record, inner ones too, as `val/unseen/robust_accuracy`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "n"):
            found[prefix + name] = value
    return found
