"""`docs/speed-training.md` out of the measurements of `training.py`, `fast_path_accuracy.py` and `gpu.py`."""

from pathlib import Path
from statistics import median
from typing import Any

NOTES = Path(__file__).parent / "training_notes.md"
PEERS = ("torchattacks", "foolbox", "art", "plain transformers loop")
Record = dict[str, Any]


def page(records: dict[str, Record]) -> str:
    lines = [
        "# Speed of training",
        "",
        "The tables are made by `python benchmarks/training.py` from `benchmarks/results/training`. Every repeat runs every",
        "candidate once, one after the other; ratios are formed within a repeat and given as lowest / median / highest.",
        "The first run of each, in which things are set up and compiled, does not count. On a shared machine a core's bf16",
        "unit comes and goes, threefold from second to second; 'best of each' is the ratio of the shortest times.",
        "",
    ]
    if any(record for record in records.values()):
        lines += _targets(records)
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


def _targets(records: dict[str, Record]) -> list[str]:
    rows: list[tuple[str, str, float, list[float], float | None, bool]] = []
    if (pgd := records.get("pgd")) is not None:
        for what, name, target, limit in (
            ("uncompiled", "tima", "4", 4.0),
            ("compiled", "tima compiled", "5 (stretch 6)", 5.0),
        ):
            found = ratios(pgd, PEERS, name), best_ratio(pgd, PEERS, name)
            rows += [(f"PGD step, {what}, over the fastest other", target, limit, *found, True)]
        for name in ("tima", "tima compiled"):
            shares = share_of_peak(pgd, name)
            best = max(shares, default=None)
            rows += [(f"share of the best bf16 peak in the attack, {name}, %", "60", 60.0, shares, best, True)]
    if (tecoa := records.get("tecoa")) is not None:
        for plain in ("plain fp32 loop, autograd.grad", "plain fp32 loop, loss.backward"):
            for name in ("tima", "tima compiled", "tima compiled, best iterate"):
                found = ratios(tecoa, (plain,), name), best_ratio(tecoa, (plain,), name)
                rows += [(f"TeCoA step: {name}, over the {plain}", "4", 4.0, *found, True)]
    if (tima := records.get("tima")) is not None:
        for name in (n for n in tima["seconds"] if n != "tecoa"):
            values = [1 / r for r in ratios(tima, ("tecoa",), name)]
            inverse = best_ratio(tima, ("tecoa",), name)
            what = f"{name} ({tima['classes']} in all), time over our TeCoA step"
            rows += [(what, "at most 1.3", 1.3, values, 1 / inverse if inverse else None, False)]
    lines = ["## Targets", "", "| what | target | lowest / median / highest | best of each | |", "|---|---|---|---|---|"]
    for what, target, limit, values, best, at_least in rows:
        good = bool(values) and (median(values) >= limit if at_least else median(values) <= limit)
        verdict = "" if not values else "met" if good else "**not met**"
        if what.endswith("%") and max(values, default=0.0) > 100:
            verdict = "no verdict: more than the peak, which was measured in a slower moment"
        lines.append(f"| {what} | {target} | {spread(values)} | {'' if best is None else f'{best:.2f}'} | {verdict} |")
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
