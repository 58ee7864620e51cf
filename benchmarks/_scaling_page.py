"""`docs/scaling.md` and its figure out of the measurements in `results/scaling`."""

import json
import math
from pathlib import Path
from typing import Any

LAST = 3  # points that a slope is fitted through, at least; all beyond a tenth of the largest x
GROUPS = {
    "batch": ("A training step and its batch", "images in the batch"),
    "image size": ("A training step and the image size", "side in pixels"),
    "attack steps": ("A training step and the attack's steps", "steps of PGD"),
    "classes": ("A training step and its classes", "classes"),
    "term": ("Terms that look at pairs of classes", "classes"),
    "evaluation, texts": ("Evaluation: encoding the classes", "classes"),
    "evaluation, classes": ("Evaluation: 100 images against many classes", "classes"),
    "evaluation, images": ("Evaluation: many images", "images"),
    "processes": ("Processes", "processes of one thread"),
}


def slope(points: list[dict[str, Any]], key: str) -> float | None:
    """Exponent of the power law through the last points; None where a value is not positive or there are too few."""
    good = [(p["x"], p[key]) for p in points if p.get(key, 0) > 0]
    if not good or len(good) < LAST:
        return None
    tail = [p for p in good if p[0] >= good[-1][0] / 10]
    tail = tail if len(tail) >= LAST else good[-LAST:]
    xs, ys = [math.log(x) for x, _ in tail], [math.log(y) for _, y in tail]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def write_page(results: Path, page: Path) -> None:
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    curves = {record["curve"]: record for record in records if "curve" in record}
    sample = next((record for record in records if "mhe" in record), None)
    words = (Path(__file__).parent / "scaling_notes.md").read_text(encoding="utf-8")
    notes = dict(part.split("\n", 1) for part in words.split("\n## ")[1:])
    lines = [words.split("\n## ")[0].strip(), ""]
    machines = {about(record["machine"]) for record in records}
    lines += [f"Measured on: {text}." for text in sorted(machines)] + [""]
    if curves:
        page.parent.joinpath("images").mkdir(parents=True, exist_ok=True)
        figure(curves, page.parent / "images" / "scaling.svg")
        lines += ["![Time of a step against each of the sizes, on logarithmic axes](images/scaling.svg)", ""]
    for group, (title, what) in GROUPS.items():
        members = {n: r for n, r in curves.items() if n == group or n.startswith(f"{group}:")}
        if members:
            lines += [f"## {title}", "", *table(members, what), "", notes.get(group, "").strip(), ""]
    if sample:
        lines += ["## What a sample of the classes costs", "", *sample_tables(sample), notes.get("sample", "").strip(), ""]
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def about(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {versions}"


def table(members: dict[str, Any], what: str) -> list[str]:
    """Seconds and extra memory of each curve, and the exponents."""
    xs = sorted({p["x"] for r in members.values() for p in r["points"]})
    lines = [f"| {what} | " + " | ".join(f"{x:,}" for x in xs) + " | exponent |", "|---" * (len(xs) + 2) + "|"]
    for key, unit, digits in (("seconds", "s", 3), ("extra_mb", "MB", 0)):
        for name, record in members.items():
            values = {p["x"]: p for p in record["points"]}
            if not any(key in p for p in values.values()):
                continue
            cells = [cell(values.get(x, {}), key, digits) for x in xs]
            exponent = slope(record["points"], key)
            title = name.split(": ")[-1]
            lines.append(f"| {title}, {unit} | " + " | ".join(cells) + f" | {'' if exponent is None else f'{exponent:.2f}'} |")
    return lines


def cell(point: dict[str, Any], key: str, digits: int) -> str:
    if "failed" in point:
        return "failed"
    return f"{point[key]:,.{digits}f}" if key in point else ""


def sample_tables(record: dict[str, Any]) -> list[str]:
    """Gradients and losses on a sample of the classes, and MHE from drawn columns."""
    lines: list[str] = []
    for about_rows in sorted({(r["classes"], r["batch"], r["present"]) for r in record["rows"]}):
        classes, batch, present = about_rows
        rows = [r for r in record["rows"] if (r["classes"], r["batch"], r["present"]) == about_rows]
        losses = [name for name in rows[0]["loss"]]
        lines += [
            f"{classes:,} classes, {batch} images with {present} labels, {record['draws']} draws:",
            "",
            "| classes in the step | weighed | image gradient | of the mean | text gradient | of the mean | length image, text "
            "| attack | " + " | ".join(losses) + " |",
            "|---" * (8 + len(losses)) + "|",
        ]  # fmt: skip
        for r in rows:
            first = r["sample"] if isinstance(r["sample"], str) else f"{r['sample']:,}"
            cosines = [
                f"{r[k]:.3f}" if k in r else "" for t in ("image", "text") for k in (f"cosine_{t}", f"cosine_of_mean_{t}")
            ]
            lengths = f"{r['length_image']:.2f}, {r['length_text']:.2f}" if "length_image" in r else ""
            attack = f"{r['attack']:.3f}" if "attack" in r else ""
            weighed = {True: "yes", False: "no"}.get(r.get("weighed"), "")  # type: ignore[arg-type]
            ratios = " | ".join(f"{r['loss'][name]:.3f}" for name in losses)
            lines.append(f"| {first} | {weighed} | {' | '.join(cosines)} | {lengths} | {attack} | {ratios} |")
        lines.append("")
    lines += [
        "MHE from drawn columns, and its gradient with respect to the texts:",
        "",
        "| classes | columns | relative standard error | predicted | mean off by | cosine of the gradient |",
        "|---|---|---|---|---|---|",
    ]
    for r in record["mhe"]:
        lines.append(
            f"| {r['classes']:,} | {r['columns']:,} | {r['relative_standard_error']:.4f} | {r['predicted']:.4f} "
            f"| {r['relative_bias']:+.4f} | {r['cosine']:.3f} |"
        )
    return [*lines, ""]


def figure(curves: dict[str, Any], file: Path) -> None:
    """A panel a group, logarithmic axes, seconds; exponents in the legend."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    groups = [g for g in GROUPS if any(n == g or n.startswith(f"{g}:") for n in curves) and g != "processes"]
    columns = min(len(groups), 4)
    drawing = Figure(figsize=(3.3 * columns, 2.9 * math.ceil(len(groups) / columns)), layout="constrained")
    FigureCanvasSVG(drawing)
    for number, group in enumerate(groups, start=1):
        axes = drawing.add_subplot(math.ceil(len(groups) / columns), columns, number)
        for name, record in curves.items():
            if name != group and not name.startswith(f"{group}:"):
                continue
            good = [p for p in record["points"] if p.get("seconds", 0) > 0]
            if not good:
                continue
            exponent = slope(record["points"], "seconds")
            label = name.split(": ")[-1] + ("" if exponent is None else f" ({exponent:.2f})")
            axes.plot(
                [p["x"] for p in good], [p["seconds"] for p in good], marker="o", markersize=3, linewidth=1.2, label=label
            )
        axes.set(xscale="log", yscale="log", title=GROUPS[group][0], xlabel=GROUPS[group][1], ylabel="seconds")
        axes.title.set_fontsize(8)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(7)
        axes.yaxis.label.set_fontsize(7)
        axes.legend(fontsize=6, frameon=False)
        axes.grid(alpha=0.3)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):
        drawing.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
