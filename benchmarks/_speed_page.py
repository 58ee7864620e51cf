"""`docs/speed.md` out of the measurements that `attacks.py` left."""

from statistics import median
from typing import Any

TARGETS = {"tima, library model, fp32": 2.0, "tima, fp32": 2.0, "tima, bf16": 3.0, "tima, bf16 compiled": 3.0}
TARGETS |= {f"{name}, every image to the end": target for name, target in TARGETS.items()}


AUTOATTACK_TARGET = 3.0
QUERIES = 5000  # Square's, of each image, in the standard version


def page(records: list[dict[str, Any]], agreement: list[dict[str, Any]]) -> str:
    """Markdown of the measurements, and what the agreement runs say of AutoAttack's cost."""
    lines = [
        "# Speed of the attacks",
        "",
        "Made by `benchmarks/attacks.py` from `benchmarks/results/speed`. Every repeat runs every candidate once, one after",
        "the other, on the same model and images; ratios are formed within a repeat, against that repeat's fastest library,",
        "and given as lowest / median / highest. Whatever a candidate computed in, the images it found are judged by the fp32",
        "model. Our attacks take an image out of the batch as soon as fp32 confirms that it is broken and fill its place;",
        '"every image to the end" shows what is left without that. How much leaving early gains depends on eps: the more fall,',
        'the more it gains. "of peak" is the matrix arithmetic that was really done,',
        "as a share of what the machine reaches in large matrix products of that type; passes are images forward or backward.",
        "",
    ]
    for record in records:
        lines += _table(record)
    lines += _autoattack(agreement)
    return "\n".join(lines) + "\n"


def _table(record: dict[str, Any]) -> list[str]:
    outcomes = record["outcomes"]
    peers = [name for name in outcomes if not name.startswith(("tima", "plain"))]
    peak = record["peak_gflops"]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    lines = [
        f"## {record['model']}: {record['attack']}, eps {record['eps'] * 255:.3g}/255",
        "",
        f"{record['n']} images of which {record['attacked']} are right when clean and attacked, "
        f"batches of {record['batch']}. "
        f"{record['processor']}, {record['cores']} core(s), {record['threads']} thread(s); measured matmul peak "
        f"{peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16. {versions}.",
        "",
        "| candidate | repeats | images/s | times fastest library | in CPU time | robust % | passes | of peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in outcomes.items():
        rates = [record["attacked"] / o["seconds"] for o in found]
        robust = median(o["standing"] for o in found) / record["n"] * 100
        passes = median(o["forwards"] + o["backwards"] for o in found)
        kind = "bf16" if "bf16" in name else "fp32"
        lean = name.startswith("tima") and "library" not in name
        done = passes * record["gflop_forward"]["lean" if lean else "library"]
        share = done / median(o["seconds"] for o in found) / peak[kind]
        wall, cpu = (_ratios(outcomes, peers, name, key) for key in ("seconds", "cpu_seconds"))
        lines.append(
            f"| {name} | {len(found)} | {median(rates):.1f} | {wall} | {cpu} | {robust:.1f} | {passes:,.0f} "
            f"| {100 * share:.0f} % {kind} |"
        )
    lines += [f"\n{name}: {why}" for name, why in record["failed"].items()]
    return [*lines, "", *_targets(record, peers), "", *_profile(record)]


def _profile(record: dict[str, Any]) -> list[str]:
    """Where the time goes, if somebody looked."""
    shares = record.get("profile", {})
    if not shares:
        return []
    kinds, n = list(next(iter(shares.values()))), record.get("profile_n", record["n"])
    return [
        f"Shares of the processor time by kind of operation (torch's profiler, one run of {n} images):",
        "",
        f"| candidate | {' | '.join(kinds)} |",
        "|---" * (len(kinds) + 1) + "|",
        *(f"| {name} | {' | '.join(f'{100 * found[kind]:.0f} %' for kind in kinds)} |" for name, found in shares.items()),
        "",
    ]


def _ratios(outcomes: dict[str, Any], peers: list[str], name: str, key: str) -> str:
    values = _within(outcomes, peers, name, key)
    return " / ".join(f"{v:.2f}" for v in (min(values), median(values), max(values))) if values else ""


def _within(outcomes: dict[str, Any], peers: list[str], name: str, key: str) -> list[float]:
    """The fastest library's time over this candidate's, a value for each repeat."""
    return [min(outcomes[p][i][key] for p in peers) / mine[key] for i, mine in enumerate(outcomes[name])] if peers else []


def _targets(record: dict[str, Any], peers: list[str]) -> list[str]:
    autoattack = record["attack"].startswith("autoattack")
    lines = []
    for name, target in TARGETS.items():
        target = AUTOATTACK_TARGET if autoattack else target
        if name in record["outcomes"] and peers:
            value = median(_within(record["outcomes"], peers, name, "seconds"))
            lines.append(
                f"- {name}: {value:.2f} times the fastest library; target {target:g}: {'met' if value >= target else 'not met'}"
            )
    return lines


def _autoattack(records: list[dict[str, Any]]) -> list[str]:
    """Ours beside the original's from the agreement runs, in processor time: they ran beside other work."""
    runs = {(r["model"], r["library"]): r for r in records if r["attack"] == "standard" and r["seed"] == 0 and "error" not in r}
    rows, shares = [], []
    for model in sorted({model for model, _ in runs}):
        mine, theirs = runs.get((model, "tima")), runs.get((model, "pyautoattack"))
        if mine is None or theirs is None:
            continue
        passes = [r["forwards"] + r["backwards"] for r in (mine, theirs)]
        ratio = theirs["cpu_seconds"] / mine["cpu_seconds"]
        rows.append(
            f"| {model} | {mine['eps'] * 255:.3g}/255 | {100 * mine['accuracy']:.1f} / {100 * theirs['accuracy']:.1f} "
            f"| {mine['cpu_seconds']:,.0f} / {theirs['cpu_seconds']:,.0f} | {ratio:.2f} | {passes[0]:,} / {passes[1]:,} "
            f"| {'met' if ratio >= AUTOATTACK_TARGET else 'not met'} |"
        )
        shares.append(f"{100 * mine['standing'].count('1') * QUERIES / mine['forwards']:.0f} % ({model})")
    if not rows:
        return []
    return [
        "## AutoAttack standard beside the original, fp32, the library's model",
        "",
        "From the runs of [agreement.md](agreement.md): 500 images, processor time, since they ran beside other work.",
        "",
        f"| model | eps | robust %, ours / theirs | CPU s | ratio | passes | target {AUTOATTACK_TARGET:g} |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "What stops it here: nearly all passes are of images that stand to the end, which both must carry through every stage;",
        f"Square's {QUERIES:,} queries of them alone are {' and '.join(shares)} of our forwards. In fp32,",
        "and as long as enough images stand to fill a batch, the ratio of times is about that of the passes; bf16 makes each",
        "cheaper. Where few stand, ours asks for several runs and queries of an image at once (the tables above).",
        "",
    ]
