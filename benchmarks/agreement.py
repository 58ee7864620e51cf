"""Our attacks against the originals: same model, images, budget, judge. Writes one file an outcome, then `docs/agreement.md`.

    python benchmarks/agreement.py --model runs/demo/tima --samples 500     # what is there is not run again
    python benchmarks/agreement.py --page-only

Every adversarial image, whosever it is, is judged alike: by the fp32 model, broken only where it lies within eps and [0, 1].
Shapes: `N` images, `C` channels or classes, `H, W` pixels.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _agreement_page import page
from _counted import Counted
from _models import Subject, conv_subject, zero_shot_subject
from _peers import BUDGETS, NORMS, RUNS, version

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "agreement", HERE.parent / "docs" / "agreement.md"
SLACK = 1e-5  # libraries round their projections; a hundred-thousandth of a pixel's range is no advantage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/tima", help="run or model folder of a dual encoder; none: leave it out")
    parser.add_argument("--conv", action=argparse.BooleanOptionalAction, default=True, help="also the convolutional network")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--eps", type=float, default=4, help="in 1/255; of l_2 attacks 1/16 of it, in pixel ranges")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--attacks", default=",".join(RUNS), help="comma-separated")
    parser.add_argument("--libraries", default="", help="only these; by default all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        subjects = []
        if options.conv:
            subjects.append(conv_subject(HERE.parent / "runs" / "agreement-conv", options.samples, data=options.data))
        if options.model != "none":
            subjects.append(zero_shot_subject(options.model, options.data, options.samples))
        for subject in subjects:
            # the longest last
            for attack in sorted(options.attacks.split(","), key="standard".__eq__):
                for library in RUNS[attack]:
                    if not options.libraries or library.split()[0] in options.libraries.split(","):
                        for seed in range(options.seeds):
                            outcome(subject, attack, library, seed, options.eps / 255, options.batch, options.results)
    records = [json.loads(file.read_text()) for file in sorted(options.results.glob("*.json"))]
    text = page(records)
    options.page.write_text(text, encoding="utf-8")
    print(text)


def outcome(subject: Subject, attack: str, library: str, seed: int, eps: float, batch: int, folder: Path) -> dict[str, Any]:
    """One attack of one library on one model: read where it is there, else run and written."""
    norm, budget = NORMS.get(attack, "l_inf"), BUDGETS[attack]
    if norm == "l_2":
        eps = eps * 255 / 16
    settings: dict[str, Any] = {
        **{"model": subject.name, "fingerprint": subject.fingerprint, "attack": attack, "library": library, "seed": seed},
        **{"n": subject.n, "eps": round(eps, 8), "norm": norm, "budget": budget},
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = folder / f"{subject.name}.{attack}.{library.replace(' ', '-').strip('()')}.{key}.json".replace("(", "").replace(
        ")", ""
    )
    if file.is_file():
        return dict(json.loads(file.read_text()))
    model = Counted(subject.model).eval()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        adv_NCHW = RUNS[attack][library](model, subject.image_NCHW, subject.label_N, eps, budget, seed, batch)
        found: dict[str, Any] = judge(subject, adv_NCHW.detach(), eps, norm, batch)
    except ImportError as error:
        print(f"{library} is not installed ({error}): {attack} left out", file=sys.stderr)
        return {}
    except Exception as error:  # another library's failure is an outcome, and must not end the others
        if library.startswith("tima"):
            raise
        found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
    record = {
        **settings,
        **found,
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "forwards": model.forwards,
        "backwards": model.backwards,
        "versions": {library.split()[0]: version(library), "torch": torch.__version__, "python": platform.python_version()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(
        f"{subject.name} {attack} {library} {seed}: {record.get('accuracy', record.get('error'))} in {record['seconds']} s",
        flush=True,
    )
    return record


def judge(subject: Subject, adv_NCHW: Tensor, eps: float, norm: str, batch: int) -> dict[str, Any]:
    """Which images stand: classified right by the fp32 model, or moved too far to count."""
    clipped_NCHW = adv_NCHW.clamp(0, 1)
    offset_N = (clipped_NCHW - subject.image_NCHW).flatten(1)
    length_N = offset_N.abs().amax(1) if norm == "l_inf" else offset_N.norm(dim=1)
    with torch.no_grad():
        right_N = torch.cat([subject.model(x).argmax(1) for x in clipped_NCHW.split(batch)]) == subject.label_N
    standing_N = right_N | (length_N > eps + SLACK)
    return {
        "clean_accuracy": len(right_N) / subject.n,
        "accuracy": int(standing_N.sum()) / subject.n,
        "standing": "".join("1" if s else "0" for s in standing_N.tolist()),
        "misclassified": int((~right_N).sum()),
        "too_far": int((~right_N & standing_N).sum()),
        "median_length": float(length_N[~right_N].median()) if bool((~right_N).any()) else None,
        "max_length": float(length_N.max()) if len(length_N) else None,
    }


if __name__ == "__main__":
    main()
