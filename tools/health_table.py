"""Attack health of models that are broken on purpose, as a table: what each indicator says, and how often it errs.

    python tools/health_table.py                    # writes docs/health_table.md
    python tools/health_table.py --out /tmp/t.md --seeds 5

Trains two tiny models for some seconds, evaluates all of `tests/broken_models.py` with PGD, and asks `tima.health.assess`.
The last section judges sound models again and again on fresh probes: every verdict `suspicious` there is a false alarm.
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from broken_models import EPS, Case, Net, cases, evidence, trained  # noqa: E402

from tima.health import assess  # noqa: E402
from tima.health.assess import INDICATORS  # noqa: E402
from tima.results import Health, Indicator  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "health_table.md")
    parser.add_argument("--seeds", type=int, default=20, help="probes a setting in the false-alarm section")
    options = parser.parse_args()
    sound, undefended = trained(adversarial=True), trained(adversarial=False)
    text = "\n".join([*broken_section(sound, undefended), "", *false_alarm_section(sound, undefended, options.seeds), ""])
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


def broken_section(sound: Net, undefended: Net) -> list[str]:
    """One column a model, one row an indicator; what fired is bold."""
    models = cases(sound, undefended)
    found = [assess(**evidence(case), reference=undefended) for case in models]
    lines = [
        "# Attack health of models that are broken on purpose",
        "",
        "Written by `python tools/health_table.py`; what the rows mean is in [health.md](health.md). Toy pictures, 32 images, "
        f"`l_inf`, eps {EPS * 255:g}/255, PGD with 20 steps on cross-entropy. Bold: the indicator fired. -: not measured.",
        "",
        "| indicator | " + " | ".join(case.name for case in models) + " |",
        "|---" * (len(models) + 1) + "|",
        "| must fire | " + " | ".join(case.fires or "nothing" for case in models) + " |",
        "| **verdict** | " + " | ".join(health.verdict for health in found) + " |",
    ]
    return lines + [f"| {name} | " + " | ".join(_cell(health, name) for health in found) + " |" for name in INDICATORS]


def false_alarm_section(sound: Net, undefended: Net, seeds: int) -> list[str]:
    """Verdicts on sound models, over probes of several sizes and both norms."""
    lines = [
        "## False alarms",
        "",
        f"Sound models on {seeds} fresh probes each. Fired: which indicators, and how often.",
        "",
        "| model | norm | eps | images | suspicious | fired |",
        "|---|---|---|---|---|---|",
    ]
    for name, net in (("adversarially trained", sound), ("undefended", undefended)):
        for norm, eps, shown in (("l_inf", EPS, "8/255"), ("l_inf", EPS / 4, "2/255"), ("l_2", 0.4, "0.4")):
            for n in (4, 32):
                alarms: list[str] = []
                bad = 0
                for seed in range(seeds):
                    torch.manual_seed(seed)
                    health = assess(**evidence(Case(name, None, net), n=n, norm=norm, eps=eps, seed=seed + 100), seed=seed)
                    bad += health.verdict == "suspicious"
                    alarms += [item.name for item in health.indicators if item.fired]
                which = ", ".join(f"{item} {alarms.count(item)}" for item in sorted(set(alarms))) or "none"
                lines.append(f"| {name} | {norm} | {shown} | {n} | {bad} of {seeds} | {which} |")
    return lines


def _cell(health: Health, name: str) -> str:
    found: Indicator = next(item for item in health.indicators if item.name == name)
    value = "-" if found.value is None else f"{found.value:.3g}"
    return f"**{value}**" if found.fired else value


if __name__ == "__main__":
    main()
