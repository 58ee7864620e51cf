"""What a notebook shows for a result or a model: one small table, every text escaped, no script and no style sheet.

Colours are left to the notebook, so that light and dark themes both work.
"""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tima._result_records import Result
    from tima.models import DualEncoder, ZeroShotClassifier

SHOWN = 8  # class names before the rest is only counted
CELL = ' style="text-align:left"'


def result_html(result: "Result") -> str:
    """Accuracy with interval, clean and at each eps, and whether the attack can be believed."""
    protocol = f"{result.protocol.get('name', 'unnamed')}@{result.protocol.get('version', '?')}"
    state = "" if result.complete else " · unfinished"
    head = f"{result.model} on {result.dataset} · {protocol} · {result.n:,} images · seed {result.seed}{state}"
    rows = [["clean", _percent(result.clean.accuracy), _interval(result.clean.ci95), ""]]
    for row in result.robust:
        health = "not looked at" if row.health is None else str(row.health)
        rows.append([row.eps_text, _percent(row.robust_accuracy), _interval(row.ci95), health])
    return _table(head, ["eps", "accuracy", "95 % interval", "attack health"], rows)


def model_html(model: "DualEncoder") -> str:
    """Where a model comes from, its sizes, and how much of it is set to train."""
    return _table(f"{type(model).__name__} {model.name}", [], _model_rows(model))


def classifier_html(classifier: "ZeroShotClassifier") -> str:
    """The classes and prompts of a classifier, and the model under it."""
    names = classifier.class_names
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    rows = [
        [f"{len(names):,} classes", ", ".join(names[:SHOWN]) + rest],
        [f"{len(classifier.templates):,} templates", _some(classifier.templates)],
        ["model", classifier.model.name],
    ]
    return _table("ZeroShotClassifier", [], [*rows, *_model_rows(classifier.model)])


def _some(texts: Sequence[str]) -> str:
    return " · ".join(texts[:3]) + (" · …" if len(texts) > 3 else "")


def _model_rows(model: "DualEncoder") -> list[list[str]]:
    weights = list(model.parameters())
    total, training = sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad)
    place = sorted({f"{str(p.dtype).removeprefix('torch.')} on {p.device}" for p in weights})
    return [
        ["input", f"{model.image_size} × {model.image_size} pixels in [0, 1]"],  # noqa: RUF001 (a product takes a times sign)
        ["embedding", f"{model.embed_dim} wide, logit scale {float(model.logit_scale.detach()):.1f}"],
        ["weights", f"{total / 1e6:.1f} M, {'frozen' if not training else f'{training / 1e6:.1f} M of them train'}"],
        ["kept as", ", ".join(place)],
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}"  # noqa: RUF001 (a range takes an en dash)


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th{CELL}>{escape(c)}</th>' for c in columns)}</tr></thead>" if columns else ""
    lines = [
        f'<tr><th scope="row"{CELL}>{escape(first)}</th>{"".join(f"<td{CELL}>{escape(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    ]
    title = f'<caption style="caption-side:top;text-align:left"><b>{escape(caption)}</b></caption>'
    return f"<table>{title}{head}<tbody>{''.join(lines)}</tbody></table>"
