"""The models of a server: loaded once at the start, known by short ids from then on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tima.errors import ModelError
from tima.models import DualEncoder, load_model

if TYPE_CHECKING:
    from tima.report.runs import Run

ORIGINAL = "original"
MOST_BY_ITSELF = 6  # models loaded when none is named: each takes memory


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        id: what requests call it: small letters, digits and hyphens.
        title: what people read.
        about: one line on where it comes from.
        encoder: frozen, in eval mode.
    """

    id: str
    title: str
    about: str
    encoder: DualEncoder


def load_models(names: Sequence[str] | None, runs: Sequence["Run"]) -> dict[str, ServedModel]:
    """Load what was asked for, by id, in order.

    Args:
        names: as `load_model` takes them, or `original`; None: the original, and the trained models of `runs` (not more
            than `MOST_BY_ITSELF` altogether).
        runs: known runs, for titles and for what `original` means.

    Raises:
        ModelError: a model that cannot be loaded, one named twice, or `original` where runs started from different ones.
    """
    by_folder = {run.folder.resolve(): run for run in runs}
    trained = [run for run in runs if (run.folder / "model").is_dir()]
    if names is None:
        names = [ORIGINAL, *(str(run.folder) for run in trained)][:MOST_BY_ITSELF]
    if not names:
        raise ModelError("There is no model to serve. Name one: tima serve --model original")
    if len(set(names)) < len(names):
        raise ModelError(f"A model is named twice: {', '.join(names)}. Name each once.")
    named = [by_folder.get(Path(name).resolve()) for name in names]
    base = original_name([run for run in named if run is not None and run in trained] or trained)
    served: dict[str, ServedModel] = {}
    for name, run in zip(names, named, strict=True):
        encoder = load_model(base if name == ORIGINAL else name).requires_grad_(False).eval()
        title, about = _title(name, run, base)
        found = ServedModel(unique_id(title, served), title, about, encoder)
        served[found.id] = found
    return served


def original_name(runs: Iterable["Run"]) -> str:
    """What `original` means: the model that all these runs started from, `nano` without any run."""
    started = sorted({run.model for run in runs})
    if len(started) > 1:
        raise ModelError(
            f"'{ORIGINAL}' is not clear: the runs started from {', '.join(started)}. Name one of these with --model instead."
        )
    return started[0] if started else "nano"


def unique_id(title: str, taken: Iterable[str]) -> str:
    """The title in small letters, digits and hyphens, with a number behind it where another has the same."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:48].strip("-") or "model"
    used = set(taken)
    return next(name for name in (slug, *(f"{slug}-{i}" for i in range(2, len(used) + 3))) if name not in used)


def _title(name: str, run: "Run | None", base: str) -> tuple[str, str]:
    if name == ORIGINAL:
        return "Original", f"{base}, as it was"
    if run is None:
        return (name if name == "nano" else Path(name).name or name), "as it was loaded"
    from tima.report.page import about

    return run.name, about(run)
