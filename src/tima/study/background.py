"""What stands behind the comparison: how it was made, costs, margins, trouble, and where numbers come from."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from tima.report.tables import Table
from tima.report.words import duration, listing, percent
from tima.study.claims import pool
from tima.study.document import Section
from tima.study.jobs import settings_text
from tima.study.lines import View, lines_of
from tima.study.records import KeptRun, Store

RULES = {
    "mean": "mean of clean and robust accuracy",
    "robust": "mean of robust accuracy",
    "balance": "geometric mean of clean and robust accuracy",
}
HASH = 12  # digits shown; the kept file has all
PASSES = ("forwards_per_step", "backwards_per_step")


def setup_section(store: Store) -> Section:
    """What all runs share."""
    base = store.study.get("base", {})
    text = [str(store.study["about"])] if store.study.get("about") else []
    text.append(f"All runs share: {settings_text(base)}." if base else "All runs use the trainer's defaults.")
    search = store.study.get("search")
    if search is not None and store.searches:
        count = len(next(iter(store.searches.values())).points)
        rule = RULES[search.get("rule", "mean")]
        text.append(
            f"Hyper-parameters: {count} trials for each searched row"
            + (f" with {settings_text(search['settings'])}" if search.get("settings") else "")
            + f"; the winner has the highest {rule} on held-out images and held-out classes of the training set. No "
            "evaluation set was opened for it."
        )
    machines = [run.cost["machine"] for run in store.runs if run.cost.get("machine")]
    words = [f"{m.get('gpu') or m.get('cpu')}, {m.get('threads')} thread(s) a worker" for m in machines]
    if words:
        text.append(f"Trained on {listing(list(dict.fromkeys(words)))}.")
    text += _arithmetic(store)
    versions = [run.summary["versions"] for run in store.runs if run.summary.get("versions")]
    if versions:
        text.append("Versions: " + ", ".join(f"{name} {number}" for name, number in versions[0].items()) + ".")
    return Section("How it was made", text=text)


def _arithmetic(store: Store) -> list[str]:
    """Where runs, or the attacks on them, were not computed alike."""
    trained = Counter(found for run in store.runs if (found := _precision(run)))
    said = [f"Trained in {listing([f'{name} ({count} runs)' for name, count in trained.items()])}."] if len(trained) > 1 else []
    results = [result for run in store.runs for result in run.results]
    for what, count in Counter(what for result in results for what in dict.fromkeys(result.fallbacks)).items():
        said.append(f"Of {len(results)} results, {count}: {what}.")
    return said


def validation_section(store: Store) -> Section:
    """Validation of every run, best first: all there is of a study that judges nothing."""
    rows = []
    done = [run for run in store.runs if run.summary]
    for run in sorted(done, key=lambda run: -float(run.summary.get("best_score", 0))):
        parts = [run.summary["val"].get(name, {}) for name in ("seen", "unseen")]
        numbers = [percent(part[key]) if part else "" for part in parts for key in ("clean_accuracy", "robust_accuracy")]
        score = percent(float(run.summary.get("best_score", 0)))
        rows.append([title_of(store, run.row), run.eps, str(run.seed), *numbers, score, str(run.summary.get("best_step", ""))])
    columns = ["method", "eps", "seed", "seen clean", "seen robust", "unseen clean", "unseen robust", "score", "step"]
    note = "In percent, of the kept checkpoint: held-out images (seen) and held-out classes (unseen) of the training set."
    return Section("Validation", tables=[Table("Validation", columns, rows, note)])


def cost_section(store: Store) -> Section:
    """Time, passes and memory of training, and time of judging."""
    rows = []
    for line in lines_of(store):
        runs = [run for run in line.runs if run.summary]
        if not runs:
            continue
        costs = [run.cost for run in runs if run.cost.get("steps_measured")]
        passes = [f"{_mean(costs, key) / _mean(costs, 'images_per_step'):.2f}" if costs else "" for key in PASSES]
        texts = f"{_mean(costs, 'texts_per_step'):,.0f}" if costs else ""
        steps = int(runs[0].summary.get("steps", 0))
        cpu = f"{_mean(costs, 'cpu_seconds_per_step') * steps:,.0f} s" if costs else ""
        memory = [run.cost["peak_memory_bytes"] for run in runs if run.cost.get("peak_memory_bytes")] if costs else []
        judged = [sum(r.wall_time_s for r in run.results) for run in runs if run.results]
        rows.append(
            [
                line.name,
                str(steps),
                duration(mean(float(run.summary.get("seconds", 0)) for run in runs)) if steps else "",
                cpu,
                *passes,
                texts,
                f"{max(memory) / 2**20:,.0f} MiB" if memory else "",
                duration(mean(judged)) if judged else "",
            ]
        )
    columns = ["method", "steps", "training", "processor", "forward", "backward", "texts a step", "memory", "judging"]
    note = (
        "Means over seeds. Training: wall time with validation; processor: time of all threads inside optimiser steps, which "
        "other work on the machine moves less. Forward and backward: passes through the image towers (student, teacher, inner "
        "attack) for each training picture, and class texts encoded for each step, counted while training. Memory: the "
        "largest of the process, or of the GPU. "
        "Judging: wall time of all evaluations of a run; it grows with the images that stand."
    )
    return Section("What it cost", tables=[Table("Cost", columns, rows, note)])


def margin_section(store: Store, views: Sequence[View]) -> Section | None:
    """The observations that TIMA's second version argues from, and how the class texts lie before and after."""
    if not views:
        return None
    view = views[0]
    margins = []
    for line in view.lines:
        results = {data: found[0] for data in view.zero_shot if (found := line.results(data, view.sha256))}
        if not results:
            continue
        cells = [line.name]
        for column in view.columns:
            known = [r.margin_similarity[column] for r in results.values() if column in r.margin_similarity]
            cells.append(f"{mean(known):+.2f}" if known else "")
        pooled = pool([r.offsets[view.columns[-1]] for r in results.values() if view.columns[-1] in r.offsets])
        margins.append([*cells, "too few stand" if pooled is None else "{:.2f} ± {:.2f} (n = {})".format(*pooled)])
    texts = []
    for line in view.lines:
        known_texts = [values for run in line.runs[:1] for name, values in run.texts.items() if name in view.zero_shot]
        if known_texts:
            average = {key: mean(values[key] for values in known_texts) for key in known_texts[0]}
            texts.append(
                [
                    line.name,
                    f"{average['energy_before']:.3f} → {average['energy']:.3f}",
                    f"{average['cosine_before']:.3f} → {average['cosine']:.3f}",
                    f"{average['structure']:.3f}",
                ]
            )
    tables = []
    if margins:
        note = (
            "Mean over the zero-shot sets, first seed. Columns: correlation of an image's margin with its class text's cosine "
            "to the nearest other one; below 0, look-alike classes keep smaller margins. Fall: of the margin from the smallest "
            "eps to the largest, mean ± standard deviation over the images that withstand both."
        )
        tables.append(Table("Margins", ["method", *view.columns, "fall"], margins, note))
    if texts:
        note = (
            "Mean over the zero-shot sets, first seed, before → after. Energy: formula 2 of the method's page, small when "
            "class texts lie far apart. Structure: correlation of the cosines before and after, 1 when who is near whom has "
            "stayed."
        )
        tables.append(Table("Class texts", ["method", "energy", "mean cosine", "structure"], texts, note))
    return Section("Margins and class texts", tables=tables) if tables else None


def trouble_section(store: Store) -> Section | None:
    """Everything that failed, collapsed, is open, or whose attack is not to be believed. None when there is nothing."""
    rows = []
    for run in store.runs:
        name = f"{title_of(store, run.row)}, eps {run.eps}, seed {run.seed}"
        if run.state == "collapsed":
            rows.append(
                [name, "training", "collapsed: it gives one answer to everything on a validation set; judged all the same"]
            )
        if run.state == "open":
            rows.append([name, "training", "not finished yet"])
        rows += [[name, failure.what, f"{failure.kind}: {failure.message.splitlines()[0]}"] for failure in run.failures]
        for r in run.results:
            rows += [
                [name, f"{r.data} at {column}", f"attack health: suspicious: {why}"] for column, why in r.suspicious.items()
            ]
    for name, search in store.searches.items():
        for point, note in zip(search.points, search.notes, strict=True):
            rows += [[f"{title_of(store, name)}, trial {settings_text(point)}", "training", note]] if note else []
    return Section("What went wrong", tables=[Table("Trouble", ["run", "what", "why"], rows)]) if rows else None


def provenance_section(store: Store) -> Section:
    """Every number's file and hashes."""
    runs, results = [], []
    for run in store.runs:
        title, source = title_of(store, run.row), run.taken_from or str(store.study.get("name", ""))
        facts = [run.state, _validation(run), _precision(run), source, run.key, run.recipe_sha256[:HASH]]
        runs.append([title, run.eps, str(run.seed), *facts])
        for r in run.results:
            label = f"{store.protocols[r.protocol]['name']}@{store.protocols[r.protocol]['version']}"
            hashes = [r.sha256[:HASH], r.sidecar_sha256[:HASH], r.checkpoint_sha256[:HASH]]
            results.append([title, run.eps, str(run.seed), r.data, label, f"{r.n:,}", r.file, *hashes])
    columns = ["method", "eps", "seed", "data", "protocol", "n", "result file", "its SHA-256", "outcomes", "checkpoint"]
    note = (
        f"First {HASH} digits. Paths are below the folder of the study that the run was done in; the stored study holds whole "
        "hashes and all outcomes."
    )
    facts = ["state", "validation", "precision", "study", "folder", "recipe SHA-256"]
    return Section(
        "Where the numbers come from",
        folded=[
            Table("Runs", ["method", "eps", "seed", *facts], runs),
            Table("Results", columns, results, note),
        ],
    )


def _precision(run: KeptRun) -> str:
    """What a run was trained in, if it was. Kept before there was `precision: auto` had the default of then."""
    return str(run.recipe.get("precision", "bf16")) if run.summary.get("steps") else ""


def _validation(run: KeptRun) -> str:
    """Clean and robust accuracy of the kept checkpoint on each validation set."""
    val = run.summary.get("val", {})
    parts = [
        f"{name} {percent(p['clean_accuracy'])}/{percent(p['robust_accuracy'])}"
        for name, p in val.items()
        if isinstance(p, dict)
    ]
    return " ".join(parts)


def title_of(store: Store, row: str) -> str:
    return str(store.study["rows"][row].get("title") or row)


def _mean(costs: Sequence[dict[str, Any]], key: str) -> float:
    return mean(float(cost[key]) for cost in costs)
