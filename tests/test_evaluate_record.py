"""What the record says beside the accuracies: it is what the sidecar holds; and what the bar says while one waits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import agreeing_set, protocol_for
from rich.progress import TimeRemainingColumn

from tima.analysis import calibration_error, margin_similarity
from tima.evaluate import evaluate
from tima.evaluation.meter import Meter, meter
from tima.models import ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder
from tima.results import load_sidecar, result_path
from tima.stats import wilson


def test_calibration_classes_and_margins_clean_and_at_every_eps(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for()
    result = evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    text_CD = ZeroShotClassifier(tiny_clip, data.class_names, data.templates).text_CD
    label_N = arrays["label_N"]
    rows = [(result.clean, arrays["correct_N"], result.margin_similarity)]
    rows += [(row, arrays["robust_EN"][i], row.margin_similarity) for i, row in enumerate(result.robust)]  # type: ignore[misc]
    assert len(rows) == 4
    for i, (row, right_N, similarity) in enumerate(rows):
        margin_N = arrays["margin_EN"][i]
        assert torch.equal(margin_N > 0, right_N), "what the histogram counts is what the accuracy counts"
        assert row.ece == pytest.approx(calibration_error(arrays["confidence_EN"][i], right_N))
        assert row.correct_per_class == [int(right_N[label_N == c].sum()) for c in range(6)]
        assert row.margins is not None and sum(row.margins.counts) == 25
        assert row.margins.mean == pytest.approx(float(margin_N.double().mean()))
        assert row.ci95 == wilson(int(right_N.sum()), 25)
        assert similarity == pytest.approx(margin_similarity(margin_N, label_N, text_CD))
    assert result.class_counts == torch.bincount(label_N, minlength=6).tolist()
    means = [row.margins.mean for row, *_ in rows if row.margins is not None]
    assert means == sorted(means, reverse=True) and means[0] > means[-1], "larger eps, smaller margins"


def test_the_bar_says_how_many_stand_and_how_long_it_takes() -> None:
    with meter("toy", True) as line:
        line.begin("4/255", todo=20, total=10, standing=8)
        line.attack("apgd-ce")
        line.advance(9, broken=3)
        (task,) = line.bar.tasks
        assert task.description == "toy  4/255  robust so far 50.0 %"
        assert (task.completed, task.total) == (9, 20)
        line.attack("square")
        line.images(500)
        (task,) = line.bar.tasks
        assert "square" in task.description and "images/s" in task.description and "50.0 %" in task.description
        assert any(isinstance(column, TimeRemainingColumn) for column in line.bar.columns)


def test_the_bar_ends_where_the_work_ends(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first attacks leave nothing to the last ones, else the time left would be wrong."""
    seen: dict[str, list[int]] = {}
    begin, advance = Meter.begin, Meter.advance

    def begins(self: Meter, title: str, todo: int, total: int, standing: int) -> None:
        begin(self, title, todo, total, standing)
        seen[title] = [todo, 0]

    def advances(self: Meter, count: int, broken: int = 0) -> None:
        advance(self, count, broken)
        seen[self.title][1] += count

    monkeypatch.setattr(Meter, "begin", begins)
    monkeypatch.setattr(Meter, "advance", advances)
    changes: dict[str, Any] = {"attack": "autoattack", "attack_params": {"steps": 3, "queries": 10, "targets": 2}}
    evaluate(tiny_clip, agreeing_set(tiny_clip), protocol_for(**changes), batch_size=4, progress=False)
    assert len(seen) == 4 and next(iter(seen)) == "clean" and list(seen)[2:] == ["1/255", "3/255"]
    assert all(todo == done > 0 for todo, done in seen.values()), seen
