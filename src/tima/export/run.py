"""`export_model`: write aside, load again, compare, describe, and only then give it its name."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tima._files import atomic_folder, sha256_file, write_json
from tima._provenance import versions
from tima.errors import ExportError, ModelError, TimaError
from tima.evaluation.subject import as_judged, weights_sha256
from tima.export.card import write_card
from tima.export.probe import make_probe
from tima.export.story import public_name
from tima.export.targets import TARGETS, Classes
from tima.models import DualEncoder, load_model

MANIFEST = "tima_export.json"


def export_model(
    model: str | Path | DualEncoder,
    to: str | Sequence[str],
    out: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] = ("a photo of a {c}.",),
    run: str | Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export `model` and return the folder.

    Args:
        model: a model, or what `load_model` takes: a run, `nano`, a hub name.
        to: one of `TARGETS` or several. One fills `out` itself, several a folder each inside it.
        out: appears when everything in it agreed with our model, and not before.
        class_names: also make a classifier for these classes (`onnx`, `torch-export`), and ask with them in the comparison.
        templates: prompts with `{c}` for `class_names`; averaged.
        run: where recipe and results for the model card are; by default the model itself, if it is a run.
        force: replace an export that is there. A folder that no export wrote is never replaced.
        say: gets a line for each step.

    Raises:
        ModelError: no such model or target, a target that cannot express the model, or a missing extra.
        ExportError: what was written does not compute what our model does. Nothing is kept.
        TimaError: `out` is there, or the disk is full.
    """
    names = [to] if isinstance(to, str) else list(dict.fromkeys(to))
    if not names or any(name not in TARGETS for name in names):
        wrong = next((name for name in names if name not in TARGETS), "")
        raise ModelError(f"There is no export '{wrong}'. Known are: {', '.join(TARGETS)}.")
    out = Path(out)
    _check_out(out, force)
    encoder = model if isinstance(model, DualEncoder) else load_model(model)
    if class_names is not None and not any(name in ("onnx", "torch-export") for name in names):
        say("class names are used by onnx and torch-export alone; the comparison asks with them")
    classes = None if class_names is None else Classes(list(class_names), list(templates))
    where = Path(run) if run is not None else None if isinstance(model, DualEncoder) else Path(model)
    with as_judged(encoder), atomic_folder(out) as part:
        probe = make_probe(encoder, *(() if classes is None else (classes.names, classes.templates[0])))
        checks: dict[str, dict[str, float]] = {}
        for name in names:
            folder = part if len(names) == 1 else part / name
            say(f"{name}: writing")
            TARGETS[name].write(encoder, folder, classes)
            say(f"{name}: loading it again and comparing")
            try:
                checks[name] = TARGETS[name].check(encoder, folder, probe, classes)
            except TimaError as error:
                raise type(error)(f"Export of '{encoder.name}' to {name} failed. {error}") from error
            except Exception as error:  # the other library refuses what was written: each raises its own
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ExportError(
                    f"Export of '{encoder.name}' to {name} failed: what was written cannot be loaded or run "
                    f"({type(error).__name__}: {first[:300]}). Nothing was kept."
                ) from error
        digest = weights_sha256(encoder)
        for name in (None, *(names if len(names) > 1 else ())):
            folder = part if name is None else part / name
            write_card(folder, encoder, [name] if name else names, classes, where, digest, checks, nested=name is None)
        manifest = {
            "schema": "tima-export/1",
            "model": public_name(encoder.name),
            "weights_sha256": digest,
            "targets": names,
            "largest_difference": {name: {k: float(f"{v:.3g}") for k, v in found.items()} for name, found in checks.items()},
            "versions": versions() | {"torch": torch.__version__},
            "files": {str(file.relative_to(part)): sha256_file(file) for file in sorted(part.rglob("*")) if file.is_file()},
        }
        write_json(part / MANIFEST, manifest)
    return out


def _check_out(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise TimaError(f"{out} is there already. Give another --out, or --force to replace an export.")
    if not (out / MANIFEST).is_file():
        raise TimaError(f"{out} was not written by an export (it holds no {MANIFEST}), so --force does not replace it either.")
