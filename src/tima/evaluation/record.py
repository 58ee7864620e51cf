"""From what the processes left on disk to the arrays of the sidecar and the numbers of the result.

Shapes: `N` images, `B` images of a block, `C` classes, `D` embedding width, `E` eps, `K` kept images.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tima.attacks.counting import GradientStats
from tima.eps import eps_text
from tima.errors import ResultError
from tima.evaluation.parts import Costs, read_tensors
from tima.results import AttackRecord, Clean, Margins, Result, Robust
from tima.stats import wilson

if TYPE_CHECKING:
    from tima.evaluation.judge import Judge


def clean_record(judge: "Judge", result: Result, arrays: dict[str, Tensor]) -> None:
    """The clean numbers, from the arrays."""
    n, correct = result.n, int(arrays["correct_N"].sum())
    result.clean = Clean(n=n, correct=correct, accuracy=correct / n, ci95=wilson(correct, n), **_analysis(judge, arrays, 0))
    result.class_counts = torch.bincount(arrays["label_N"], minlength=len(result.class_names)).tolist()
    result.margin_similarity = _similarity(judge, arrays, 0)


def merge_step(judge: "Judge", step: int, arrays: dict[str, Tensor], result: Result) -> tuple[Robust, GradientStats]:
    """All blocks of eps number `step`, of all processes, in place into `arrays`; exact counts or an error.

    Raises:
        ResultError: images that nobody attacked, or two did.
    """
    eps, count = judge.protocol.eps[step], len(judge.stages)
    standing_N = arrays["correct_N"] if step == 0 else arrays["robust_EN"][step - 1]
    arrays["robust_EN"][step] = False
    for name in ("prediction_EN", "margin_EN", "confidence_EN"):
        arrays[name][step + 1] = arrays[name][step]
    if "broken_8bit_EN" in arrays:
        arrays["broken_8bit_EN"][step] = arrays["broken_8bit_EN"][step - 1] if step else False
    kept_KCHW = judge.store.read_kept(step - 1)
    costs = [Costs() for _ in range(count)]
    gradients = GradientStats()
    seconds: dict[int, float] = {}
    seen_N = torch.zeros(len(standing_N), dtype=torch.long)
    for path in judge.store.parts(step):
        block, facts = read_tensors(path, leave=("offset_SCHW",))
        position_B = block["position_B"]
        seen_N[position_B] += 1
        arrays["robust_EN"][step, position_B] = block["broken_by_B"] < 0
        arrays["broken_by_EN"][step, position_B] = block["broken_by_B"]
        for name in ("prediction", "margin", "confidence"):
            arrays[f"{name}_EN"][step + 1, position_B] = block[f"{name}_B"]
        if "broken_8bit_EN" in arrays:
            arrays["broken_8bit_EN"][step, position_B] = block["broken_8bit_B"]
        kept_KCHW[torch.searchsorted(judge.kept_K, block["kept_position_K"])] = block["kept_KCHW"]
        for total, cost in zip(costs, facts["costs"], strict=True):
            gradients += GradientStats(**cost.pop("gradients"))
            for key, value in cost.items():
                setattr(total, key, getattr(total, key) + value)
        seconds[facts["rank"]] = seconds.get(facts["rank"], 0.0) + facts["seconds"]
        result.fallbacks.extend(facts["fallbacks"])
    if not torch.equal(seen_N, standing_N.long()):
        twice, never = int((seen_N > 1).sum()), int((standing_N & (seen_N == 0)).sum())
        raise ResultError(
            f"{judge.store.work}: {twice} images were attacked twice and {never} not at all. With several machines, the "
            "result folder must be one that all of them see."
        )
    judge.store.write_kept(step, kept_KCHW)
    return _robust_record(judge, step, eps, arrays, costs, max(seconds.values(), default=0.0)), gradients


def _robust_record(
    judge: "Judge", step: int, eps: float, arrays: dict[str, Tensor], costs: list[Costs], seconds: float
) -> Robust:
    standing_N = arrays["correct_N"] if step == 0 else arrays["robust_EN"][step - 1]
    n, correct = len(standing_N), int(arrays["robust_EN"][step].sum())
    attacks = [
        AttackRecord(
            name=stage.name,
            params=stage.params,
            broken=int((arrays["broken_by_EN"][step] == number).sum()),
            attacked=cost.attacked,
            forwards=cost.forwards,
            backwards=cost.backwards,
            wall_time_s=round(cost.seconds, 3),
        )
        for number, (stage, cost) in enumerate(zip(judge.stages, costs, strict=True))
    ]
    return Robust(
        eps=eps,
        eps_text=eps_text(eps),
        n=n,
        correct=correct,
        robust_accuracy=correct / n,
        ci95=wilson(correct, n),
        already_broken=n - int(standing_N.sum()),
        attacks=attacks,
        forwards=sum(cost.forwards for cost in costs),
        backwards=sum(cost.backwards for cost in costs),
        wall_time_s=round(seconds, 3),
        margin_similarity=_similarity(judge, arrays, step + 1),
        broken_8bit=int(arrays["broken_8bit_EN"][step].sum()) if "broken_8bit_EN" in arrays else None,
        **_analysis(judge, arrays, step + 1),
    )


def _analysis(judge: "Judge", arrays: dict[str, Tensor], row: int) -> dict[str, Any]:
    """Calibration, classes and margins of one row of the arrays (0: clean)."""
    from tima.analysis import calibration_error, correct_per_class, margin_histogram

    right_N = arrays["correct_N"] if row == 0 else arrays["robust_EN"][row - 1]
    histogram: Margins = margin_histogram(arrays["margin_EN"][row])
    return {
        "ece": float(calibration_error(arrays["confidence_EN"][row], right_N)),
        "correct_per_class": correct_per_class(right_N, arrays["label_N"], judge.classes),
        "margins": histogram,
    }


def _similarity(judge: "Judge", arrays: dict[str, Tensor], row: int) -> float | None:
    from tima.analysis import margin_similarity

    text_CD = judge.subject.text_CD
    return None if text_CD is None else margin_similarity(arrays["margin_EN"][row], arrays["label_N"], text_CD.cpu())
