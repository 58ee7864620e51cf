"""From the runs' folders to the file that is kept: outcomes as bitmaps, costs, hashes. Shapes: `N` images, `E` eps."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tima._files import sha256_file
from tima._reading import read_yaml_object
from tima.analysis import margin_offset
from tima.eps import format_eps
from tima.errors import ResultError
from tima.protocols import Protocol
from tima.report.comparison import size_text
from tima.results import Clean, Result, Robust, load_sidecar, read_result
from tima.study.expand import Training, protocol_of
from tima.study.jobs import trainings, wanted
from tima.study.records import CLEAN, KeptFailure, KeptResult, KeptRun, KeptSearch, Store, pack
from tima.study.schema import Study
from tima.study.state import State, choose, collapsed, headline_rows, read_object, set_name

SUMMARY = ("steps", "images_seen", "train_images", "train_classes", "seconds", "best_step", "best_score", "val", "versions")


def collect(study: Study, folder: str | Path) -> Store:
    """Everything that is finished by now.

    Raises:
        ResultError: a file in the folder that cannot be read.
    """
    state = State(Path(folder))
    headline = headline_rows(study, state)
    evaluations = [(e, protocol_of(e)) for e in study.evaluate]
    runs = []
    for training in trainings(study, state):
        mine = [(e, p) for e, p in evaluations if wanted(study, e, training, headline)]
        runs.append(_run(study.name, training, [(data, p) for e, p in mine for data in e.data], state))
    searches = {}
    for name, row in study.rows.items():
        choice = choose(study, name, state) if row.search == "own" else None
        if choice is not None and choice.points:
            points = [dict(point) for point in choice.points]
            searches[name] = KeptSearch(
                points=points,
                keys=choice.keys,
                scores=choice.scores,
                notes=choice.notes,
                val=choice.val if any(choice.val) else [],
                winner=choice.winner,
            )
    asked: dict[str, list[str]] = {}
    for evaluation, protocol in evaluations:
        names = asked.setdefault(protocol.sha256, [])
        names += [set_name(data) for data in evaluation.data if set_name(data) not in names]
    return Store(
        study=study.content(),
        headline=headline,
        protocols={protocol.sha256: protocol.content() for _, protocol in evaluations},
        asked=asked,
        headline_only=sorted(asked.keys() - {p.sha256 for e, p in evaluations if e.rows == "all"}),
        searches=searches,
        runs=runs,
    )


def _run(study: str, training: Training, wanted: list[tuple[str, Protocol]], state: State) -> KeptRun:
    folder, summary = state.run(training.key), state.summary(training.key)
    failed = state.failure(training.key, "train")
    what = "open" if failed is None else "failed"
    if summary is not None:
        what = "collapsed" if collapsed(summary) else "finished"
    results = [found for data, protocol in wanted if (found := _found(training.key, data, protocol, state)) is not None]
    elsewhere = state.known.run(training.key) if state.known is not None else None
    if elsewhere is not None and state.summary_here(training.key) is None:
        source = "" if elsewhere.taken_from == study else elsewhere.taken_from
        return elsewhere.model_copy(update={"row": training.row, "results": results, "taken_from": source})
    cost = folder / "cost.json"
    return KeptRun(
        row=training.row,
        key=training.key,
        eps=format_eps(training.recipe.eps),
        data=training.recipe.data,
        seed=training.recipe.seed,
        state=what,  # type: ignore[arg-type]
        recipe=training.recipe.model_dump(mode="json", exclude_defaults=True) | _settled(folder),
        recipe_sha256=str((summary or {}).get("recipe_sha256", "")),
        summary={key: summary[key] for key in SUMMARY if key in summary} if summary is not None else {},
        cost=read_object(cost) if cost.is_file() else {},
        texts={
            **(elsewhere.texts if elsewhere is not None else {}),  # of sets whose outcomes are from there
            **{path.stem: read_object(path) for path in sorted(folder.glob("texts/*.json"))},
        },
        results=results,
        failures=_failures(folder),
    )


def _settled(folder: Path) -> dict[str, Any]:
    """What the run decided for itself: the precision that `auto` became on its machine."""
    file = folder / "recipe.yaml"
    stored = read_yaml_object(file, "settings of a run") if file.is_file() else {}
    return {key: stored[key] for key in ("precision",) if stored.get(key, "auto") != "auto"}


def _failures(folder: Path) -> list[KeptFailure]:
    """First lines only: the rest says where things lie on the machine that it happened on."""
    found = [read_object(path) for path in sorted(folder.glob("failures/*.json"))]
    return [KeptFailure(what=f["what"], kind=f["kind"], message=str(f["message"]).partition("\n")[0]) for f in found]


def _found(key: str, data: str, protocol: Protocol, state: State) -> KeptResult | None:
    if state.evaluated_here(key, data, protocol):
        return _result(state.result(key, data, protocol), protocol, state)
    return state.known_result(key, data, protocol)


def _result(path: Path, protocol: Protocol, state: State) -> KeptResult:
    record, tensors = read_result(path), load_sidecar(path)
    order_N = tensors["index_N"].argsort()
    columns = [CLEAN, *(size_text(row.eps, record.norm) for row in record.robust)]
    rows = [tensors["correct_N"], *tensors["robust_EN"]]
    images = hashlib.sha256()
    for name in ("index_N", "label_N"):
        images.update(np.ascontiguousarray(tensors[name][order_N].numpy().astype("<i8")).tobytes())
    images.update(json.dumps([record.class_names, record.templates]).encode())
    known: dict[str, Clean | Robust] = dict(zip(columns, [record.clean, *record.robust], strict=True))
    similarity = dict(zip(columns, [record.margin_similarity, *(r.margin_similarity for r in record.robust)], strict=True))
    return KeptResult(
        data=record.dataset,
        protocol=protocol.sha256,
        file=path.relative_to(state.folder).as_posix(),
        sha256=sha256_file(path),
        sidecar_sha256=sha256_file(path.with_suffix(".safetensors")),
        checkpoint_sha256=record.checkpoint_sha256,
        n=record.n,
        classes=len(record.class_names),
        images_sha256=images.hexdigest(),
        train_domain=record.train_domain,
        right={column: pack(row[order_N].numpy()) for column, row in zip(columns, rows, strict=True)},
        correct={column: entry.correct for column, entry in known.items()},
        margin_similarity={column: value for column, value in similarity.items() if value is not None},
        median_margin={column: e.margins.median for column, e in known.items() if e.margins is not None},
        offsets=_offsets(tensors, columns),
        suspicious={
            size_text(row.eps, record.norm): "; ".join(row.health.reasons)
            for row in record.robust
            if row.health is not None and row.health.verdict == "suspicious"
        },
        fallbacks=record.fallbacks,
        commonest=float(tensors["clean_prediction_N"].bincount().max()) / record.n,
        **_cost(record),
    )


def _cost(record: Result) -> dict[str, Any]:
    return {
        "forwards": sum(row.forwards for row in record.robust),
        "backwards": sum(row.backwards for row in record.robust),
        "wall_time_s": record.wall_time_s,
        "finished": record.finished,
    }


def _offsets(tensors: Any, columns: list[str]) -> dict[str, tuple[float, float, int]]:
    """The fall of margins from the smallest eps to each larger one; nothing where fewer than two images stand."""
    if "margin_EN" not in tensors:
        return {}
    found = {}
    for number, column in enumerate(columns[2:], start=2):
        stands_N = tensors["robust_EN"][number - 1].bool()
        try:
            offset = margin_offset(tensors["margin_EN"][1][stands_N], tensors["margin_EN"][number][stands_N])
        except ResultError:
            continue  # a margin that is not finite has no fall
        if offset is not None:
            found[column] = (offset.mean, offset.deviation, offset.n)
    return found
