"""`docs/agreement.md` out of the outcomes that `agreement.py` left."""

from collections import defaultdict
from statistics import NormalDist
from typing import Any

LIMITS = {"standard": 0.4}  # points of robust accuracy; 1 point for single attacks
Z = NormalDist().inv_cdf(0.975)


def page(records: list[dict[str, Any]]) -> str:
    """Markdown: criteria first, then a table for each model."""
    groups: dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record["model"], record["fingerprint"], record["n"]][record["attack"]].append(record)
    verdicts: list[str] = []
    tables: list[str] = []
    every: list[tuple[list[list[int]], int]] = []
    for (model, fingerprint, n), by_attack in sorted(groups.items()):
        clean = next((r["clean_accuracy"] for rs in by_attack.values() for r in rs if "error" not in r), float("nan"))
        tables.append(f"\n## {model}: n = {n}, clean {100 * clean:.1f} %, fingerprint `{fingerprint}`\n")
        tables.append(
            "| attack | library | robust % | ours - theirs | differ | broken by them only | CPU s | forwards | backwards |"
        )
        tables.append("|---|---|---|---|---|---|---|---|---|")
        pairs: list[list[int]] = []
        every.append((pairs, n))
        for attack in sorted(by_attack, key=_order):
            rows, found = _rows(attack, by_attack[attack], n)
            tables += rows
            limit = LIMITS.get(attack, 1.0)
            if found:
                each = [one for seeds in found.values() for one in seeds]
                pairs += each
                worst, half = max((_difference([(seeds, n)]) for seeds in found.values()), key=lambda found: abs(found[0]))
                met = _word(limit, worst, half)
                number = max(map(len, found.values()))
                verdicts.append(f"| {model} | {attack} | {number} | {worst:+.1f} | {limit} | {met} | {_mean([(each, n)])} |")
        if pairs:
            verdicts.append(f"| {model} | all | | | | | {_mean([(pairs, n)])} |")
    if len(every) > 1:
        verdicts.append(f"| all models alike | all | | | | | {_mean([(pairs, n) for pairs, n in every if pairs])} |")
    head = [
        "# Agreement with the originals",
        "",
        "Our attacks and those of other libraries on the same model, images and budget, judged alike: by the fp32 model, and",
        "broken only within eps and [0, 1]. Made by `benchmarks/agreement.py` from `benchmarks/results/agreement`;",
        "the settings are in `benchmarks/_peers.py`. A negative difference means that ours leaves fewer images standing, so is",
        'the stronger. "differ" counts images that stand under one and fall under the other. Random numbers differ between',
        "libraries, so some always do. Images that are wrong when clean count as broken and are not attacked.",
        "",
        "The largest difference is that to one library, mean over seeds. The mean difference is over libraries and seeds, with",
        "a 95 % interval from how the images differ (the images are a sample; each counts once, whatever the number of",
        'comparisons). "Undecided" says that the interval holds 0: with these images and seeds nobody can tell which is the',
        "stronger.",
        "",
        *_versions(records),
        "",
        "## Criteria",
        "",
        "| model | attack | seeds | largest difference in points | allowed | | mean difference: is ours weaker on average? |",
        "|---|---|---|---|---|---|---|",
        *verdicts,
    ]
    return "\n".join(head + tables) + "\n"


def _rows(attack: str, records: list[dict[str, Any]], n: int) -> tuple[list[str], dict[str, list[list[int]]]]:
    """A row for each library and seed; and what sets ours of the same seed apart, by library and image by image: 1 where only
    ours leaves it standing, -1 where only theirs does."""
    rows: list[str] = []
    differences: dict[str, list[list[int]]] = defaultdict(list)
    mine = {r["seed"]: r for r in records if r["library"] == "tima"}
    for r in sorted(records, key=lambda r: (not r["library"].startswith("tima"), r["library"], r["seed"])):
        name = f"{attack} ({_eps(r)}{_budget(r)})"
        if "error" in r:
            rows.append(f"| {name} | {r['library']} | failed: {r['error']} | | | | {r['seconds']} | | |")
            continue
        gap = differ = only = ""
        own = mine.get(r["seed"])
        if own is not None and own is not r:
            points = 100 * (own["accuracy"] - r["accuracy"])
            pairs = list(zip(own["standing"], r["standing"], strict=True))
            differ, only = str(sum(a != b for a, b in pairs)), str(sum(a == "1" and b == "0" for a, b in pairs))
            gap = f"{points:+.1f}"
            if not r["library"].startswith("tima"):
                differences[r["library"]].append([int(a) - int(b) for a, b in pairs])
        rows.append(
            f"| {name} | {r['library']} | {100 * r['accuracy']:.1f} | {gap} | {differ} | {only} | {r['cpu_seconds']:.0f} "
            f"| {r['forwards']:,} | {r['backwards']:,} |"
        )
    return rows, differences


def _mean(models: list[tuple[list[list[int]], int]]) -> str:
    """The mean difference in points over several comparisons on the same images, its interval, and what it says; of several
    models the mean of theirs.

    Images that are wrong when clean differ nowhere; they are not among the differences but they are among the `n`.
    """
    if not any(any(map(any, pairs)) for pairs, _ in models):
        return "+0.00: no image differs"
    mean, half = _difference(models)
    low, high = mean - half, mean + half
    if high < 0:
        word = "stronger"
    elif low > 0:
        word = "weaker"
    else:
        word = "undecided"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}): {word}"


def _difference(models: list[tuple[list[list[int]], int]]) -> tuple[float, float]:
    """The mean difference in points, over comparisons and models, and half the width of its 95 % interval."""
    means, variances = [], []
    for pairs, n in models:
        each = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
        means.append(sum(each) / n)
        variances.append((sum(value**2 for value in each) / n - means[-1] ** 2) / max(n - 1, 1))
    return 100 * sum(means) / len(means), 100 * Z * sum(variances) ** 0.5 / len(models)


def _word(limit: float, worst: float, half: float) -> str:
    if abs(worst) <= limit + 1e-9:
        return "met"
    who = "ours is the stronger" if worst < 0 else "ours is the weaker"
    return f"{who} by more" + (
        f", not beyond chance ({worst - half:+.1f} to {worst + half:+.1f})" if abs(worst) - half <= limit else ""
    )


def _eps(record: dict[str, Any]) -> str:
    return f"{record['eps'] * 255:.3g}/255" if record["norm"] == "l_inf" else f"l_2 {record['eps']:.3g}"


def _budget(record: dict[str, Any]) -> str:
    return "".join(f", {key} {value}" for key, value in record["budget"].items())


def _versions(records: list[dict[str, Any]]) -> list[str]:
    found = sorted({f"{name} {number}" for r in records for name, number in r.get("versions", {}).items()})
    return [f"Versions: {', '.join(found)}."] if found else []


def _order(attack: str) -> int:
    known = ["standard", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "pgd", "fgsm", "mi-fgsm", "cw"]
    return known.index(attack) if attack in known else len(known)
