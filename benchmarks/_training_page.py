"""`docs/speed-training.md` out of the measurements of `training.py`, `fast_path_accuracy.py` and `gpu.py`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

NOTES = Path(__file__).parent / "training_notes.md"
PEERS = ("torchattacks", "foolbox", "art", "plain transformers loop")
Record = dict[str, Any]


def page(records: dict[str, Record], elsewhere: Sequence[dict[str, Record]] = (), accuracy: Record | None = None) -> str:
    """Args: what this machine measured, by part; what others did; fp32 training against the fast path."""
    lines = [
        "# Speed of training",
        "",
        "The tables are made by `python benchmarks/training.py` from `benchmarks/results/training`. Every repeat runs every",
        "candidate once, one after the other; ratios are formed within a repeat and given as lowest / median / highest.",
        "The first run of each, in which things are set up and compiled, does not count. On a shared machine a core's bf16",
        "unit comes and goes, threefold from second to second; 'best of each' is the ratio of the shortest times, and 'at the",
        "peak' the ratio if our step were its matrix products alone, all of them at this machine's measured bf16 peak.",
        "",
    ]
    if any(record for record in records.values()):
        lines += _targets(records, "Targets")
    for other in elsewhere:
        machine = next(iter(other.values()))["machine"]["processor"]
        lines += _targets(other, f"The same on another machine: {machine}, with neighbours that came and went")
    if accuracy is not None:
        lines += _accuracy(accuracy)
    for part, title in (("pgd", "One PGD step"), ("tecoa", "One TeCoA step (PGD-2)"), ("tima", "One TIMA step (PGD-2)")):
        if part in records and records[part].get("seconds"):
            lines += _part(title, records[part])
    if "attention" in records:
        lines += _attention(records["attention"])
    return "\n".join([*lines, NOTES.read_text(encoding="utf-8")])


def ratios(record: Record, over: tuple[str, ...], name: str) -> list[float]:
    """The fastest of `over` by `name`, a value a repeat."""
    seconds = record["seconds"]
    known = [seconds[other] for other in over if other in seconds]
    if name not in seconds or not known:
        return []
    return [min(times) / mine for mine, *times in zip(seconds[name], *known, strict=False)]


def best_ratio(record: Record, over: tuple[str, ...], name: str) -> float | None:
    """The shortest time of any of `over` by the shortest of `name`."""
    seconds = record["seconds"]
    known = [min(seconds[other]) for other in over if other in seconds]
    return min(known) / min(seconds[name]) if known and name in seconds else None


def spread(values: list[float], digits: int = 2) -> str:
    return " / ".join(f"{v:.{digits}f}" for v in (min(values), median(values), max(values))) if values else "not measured"


def share_of_peak(record: Record, name: str) -> list[float]:
    """Matrix arithmetic of the attack's steps as a share of the bf16 peak."""
    work = record["gflop"]["attack step"] * record["batch"] * record["steps"]
    return [100 * work / s / record["peak_gflops"]["bf16"] for s in record["seconds"].get(name, [])]


def at_the_peak(record: Record, over: tuple[str, ...], passes: dict[str, float]) -> float | None:
    """The ratio that is left when our step is matrix products at the bf16 peak and nothing else."""
    seconds = record["seconds"]
    known = [median(seconds[other]) for other in over if other in seconds]
    work = sum(record["gflop"][kind] * number for kind, number in passes.items()) * record["batch"]
    return min(known) / (work / record["peak_gflops"]["bf16"]) / record.get("steps", 1) if known else None


Row = tuple[str, str, float, list[float], float | None, float | None, bool]


def _target_rows(records: dict[str, Record]) -> list[Row]:
    """What, the target in words and as a number, values, best of each, at the peak, and whether more is better."""
    rows: list[Row] = []
    if (pgd := records.get("pgd")) is not None:
        for what, name, target, limit in (
            ("uncompiled", "tima", "4", 4.0),
            ("compiled", "tima compiled", "5 (stretch 6)", 5.0),
        ):
            found = ratios(pgd, PEERS, name), best_ratio(pgd, PEERS, name), at_the_peak(pgd, PEERS, {"attack step": 1})
            rows += [(f"PGD step, {what}, over the fastest other", target, limit, *found, True)]
        for name in ("tima", "tima compiled"):
            shares = share_of_peak(pgd, name)
            best = max(shares, default=None)
            rows += [(f"share of the best bf16 peak in the attack, {name}, %", "60", 60.0, shares, best, None, True)]
    if (tecoa := records.get("tecoa")) is not None:
        for plain in ("plain fp32 loop, autograd.grad", "plain fp32 loop, loss.backward"):
            for name in ("tima", "tima compiled", "tima compiled, best iterate"):
                passes = {"attack step": 2.0, "forward": 4.0 if "best" in name else 3.0}
                found = ratios(tecoa, (plain,), name), best_ratio(tecoa, (plain,), name), at_the_peak(tecoa, (plain,), passes)
                rows += [(f"TeCoA step: {name}, over the {plain}", "4", 4.0, *found, True)]
    if (tima := records.get("tima")) is not None:
        for name in (n for n in tima["seconds"] if n != "tecoa"):
            values = [1 / r for r in ratios(tima, ("tecoa",), name)]
            inverse = best_ratio(tima, ("tecoa",), name)
            what = f"{name} ({tima['classes']} in all), time over our TeCoA step"
            rows += [(what, "at most 1.3", 1.3, values, 1 / inverse if inverse else None, None, False)]
    return rows


def _targets(records: dict[str, Record], title: str) -> list[str]:
    lines = [f"## {title}", "", "| what | target | lowest / median / highest | best of each | at the peak | |"]
    lines += ["|---|---|---|---|---|---|"]
    for what, target, limit, values, best, peak, at_least in _target_rows(records):
        good = bool(values) and (median(values) >= limit if at_least else median(values) <= limit)
        verdict = "" if not values else "met" if good else "**not met**"
        if verdict.startswith("**") and peak is not None and peak < limit:
            verdict += ": beyond this machine's peak"
        if what.endswith("%") and max(values, default=0.0) > 100:
            verdict = "no verdict: more than the peak, which was measured in a slower moment"
        most, ceiling = ("" if v is None else f"{v:.2f}" for v in (best, peak))
        lines.append(f"| {what} | {target} | {spread(values)} | {most} | {ceiling} | {verdict} |")
    return [*lines, ""]


def _accuracy(record: Record) -> list[str]:
    seeds = max(len(row["by_seed"]) for row in record["rows"])
    lines = [
        "## Does the fast path cost accuracy?",
        "",
        f"The same training in bf16 and in fp32: nano, {record['steps']} steps of {record['batch']} pictures, {seeds} seeds;",
        "both judged in fp32 through the library's model, PGD-10 at 4/255. In points, bf16 minus fp32, means over seeds with",
        f"a 95 % interval over images. Target: within {record['target']:g}. Made by `benchmarks/fast_path_accuracy.py`.",
        "",
        "| method | data | n | accuracy | bf16 | fp32 | difference | by seed | |",
        "|---|---|--:|---|--:|--:|---|---|---|",
    ]
    for row in record["rows"]:
        fast, exact = (sum(row[kind]) / len(row[kind]) for kind in ("bf16", "fp32"))
        low, high = row["interval"]
        verdict = ("within" if row["within"] else "**outside**") + ("" if row["decided"] else ", not decided")
        by_seed = ", ".join(f"{value:+.1f}" for value in row["by_seed"])
        lines.append(
            f"| {row['method']} | {row['data']} | {row['n']} | {row['measure']} | {fast:.1f} | {exact:.1f} | "
            f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f}) | {by_seed} | {verdict} |"
        )
    return [*lines, ""]


def _part(title: str, record: Record) -> list[str]:
    m, peak = record["machine"], record["peak_gflops"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    repeats = max(len(times) for times in record["seconds"].values())
    lines = [
        f"## {title}",
        "",
        f"{record['model']}, batch {record['batch']}, {repeats} repeats. {m['processor']}, {m['cores']} core(s), "
        f"{m['threads']} thread(s); matmul peak {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16. {versions}.",
        "",
        "| candidate | seconds | images/s | first run, s |",
        "|---|---|---|---|",
    ]
    per = record.get("steps", 1)
    for name, times in record["seconds"].items():
        each = [t / per for t in times]
        lines.append(f"| {name} | {spread(each)} | {record['batch'] / median(each):.1f} | {record['first'].get(name, 0):.1f} |")
    lines += [f"\n{name}: {why}" for name, why in record.get("failed", {}).items()]
    lines += [f"\n{name}: {'; '.join(notes)}" for name, notes in record.get("notes", {}).items()]
    if "sign_agreement" in record:
        lines += [
            "",
            f"The gradient in bf16 has the sign of the fp32 gradient in {100 * record['sign_agreement']:.1f} % of the pixels.",
        ]
    if record.get("profile"):
        lines += [
            "",
            "Where the time of the uncompiled step goes (torch.profiler, own time):",
            "",
            "| operator | calls | share |",
        ]
        lines += ["|---|---|---|"] + [
            f"| `{r['operator']}` | {r['calls']} | {100 * r['share']:.1f} % |" for r in record["profile"]
        ]
    return [*lines, ""]


def _attention(record: Record) -> list[str]:
    lines = ["## Attention", "", "Forward and backward of one layer (4 images, 12 heads of 64), milliseconds, best of 4.", ""]
    lines += ["| type | tokens | plain | fused |", "|---|---|---|---|"]
    for r in record["rows"]:
        lines.append(f"| {r['dtype']} | {r['tokens']} | {1e3 * r['plain']:.1f} | {1e3 * r['fused']:.1f} |")
    return [*lines, ""]
