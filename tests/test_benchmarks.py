"""The comparisons with other libraries: the judge, resuming, and the arithmetic of the pages. Needs none of the libraries."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks are not part of the package", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import _agreement_page  # noqa: E402
import _speed_page  # noqa: E402
import agreement  # noqa: E402
import attacks as speed  # noqa: E402
from _models import Subject, conv_network, train_conv  # noqa: E402


class Brightness(nn.Module):
    """Class 1 where the mean is above a half."""

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        mean_B = image_BCHW.mean((1, 2, 3))
        return 10 * torch.stack([0.5 - mean_B, mean_B - 0.5], 1)


@pytest.fixture
def subject() -> Subject:
    level_N = torch.tensor([0.1, 0.45, 0.49, 0.52])
    return Subject(
        "brightness", Brightness(), level_N[:, None, None, None].expand(4, 3, 4, 4).clone(), torch.tensor([0, 0, 0, 1]), 5, "f"
    )


def test_the_judge_counts_what_lies_within_eps_only(subject: Subject) -> None:
    moved = subject.image_NCHW + torch.tensor([0.6, 0.0, 0.02, -0.03])[:, None, None, None]  # too far, right, broken, broken
    found = agreement.judge(subject, moved, 0.03, "l_inf", 2)
    assert found["standing"] == "1100" and found["accuracy"] == 2 / 5 and found["clean_accuracy"] == 4 / 5
    assert (found["misclassified"], found["too_far"]) == (3, 1)
    length = 0.03 * 48**0.5  # of the last image, in l_2
    assert agreement.judge(subject, moved, length + 1e-4, "l_2", 2)["standing"] == "1100"
    assert agreement.judge(subject, moved, length - 1e-3, "l_2", 2)["standing"] == "1101"


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "mi-fgsm", "apgd-ce", "apgd-t", "fab-t", "cw"])
def test_outcomes_are_exact_and_written_once(subject: Subject, attack: str, tmp_path: Path) -> None:
    """A brightness of 0.49 and 0.52 falls at eps 0.03, 0.1 and 0.45 do not; l_2 attacks get 16 times less than 255 eps."""
    eps = 0.03 if attack != "cw" else 0.03 * 48**0.5 * 16 / 255
    first = agreement.outcome(subject, attack, "tima", 0, eps, 3, tmp_path)
    assert first["standing"] == "1100" and first["forwards"] > 0
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(first | {"seconds": -1.0}))
    assert agreement.outcome(subject, attack, "tima", 0, eps, 3, tmp_path)["seconds"] == -1.0  # read, not run
    agreement.outcome(subject, attack, "tima", 1, eps, 3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def record(library: str, standing: str, seed: int = 0, attack: str = "pgd") -> dict[str, Any]:
    return {
        **{"model": "m", "fingerprint": "f", "attack": attack, "library": library, "seed": seed, "n": len(standing)},
        **{"eps": 4 / 255, "norm": "l_inf", "budget": {"steps": 3}, "clean_accuracy": 1.0, "standing": standing},
        **{
            "accuracy": standing.count("1") / len(standing),
            "seconds": 1,
            "cpu_seconds": 1,
            "forwards": 7,
            "backwards": 6,
            "versions": {"x": "1"},
        },
    }


def test_the_page_says_who_is_stronger() -> None:
    text = _agreement_page.page([record("tima", "1100" * 25), record("foolbox", "1010" * 25), record("art", "0000" * 25)])
    assert "| pgd (4/255, steps 3) | foolbox | 50.0 | +0.0 | 50 | 25 |" in text  # stands here and falls there, 25 each way
    assert "| m | pgd | 1 | +50.0 | 1.0 | ours is the weaker by more |" in text
    assert (
        "| m | all | | | | | +25.00 (+13.99 to +36.01): weaker |" in text
    )  # 0.5, 1, -0.5, 0 each 25 times: mean 0.25, variance 0.3125
    close = [record("tima", "1" * 499 + "0", attack="standard"), record("pyautoattack", "1" * 498 + "00", attack="standard")]
    assert "| m | standard | 1 | +0.2 | 0.4 | met |" in _agreement_page.page(close)


def test_a_difference_is_the_mean_over_seeds_and_models_count_alike() -> None:
    found = []
    for seed, (ours, theirs) in enumerate([("1" * 100, "1" * 97 + "000"), ("1" * 98 + "00", "1" * 99 + "0")]):  # +3, -1
        found += [record("tima", ours, seed), record("art", theirs, seed)]
    assert "| m | pgd | 2 | +1.0 | 1.0 | met | +1.00" in _agreement_page.page(found)
    other = [r | {"model": "n"} for r in (record("tima", "0" + "1" * 99), record("art", "1" * 100))]
    text = _agreement_page.page(found + other)
    assert "| n | all | | | | | -1.00" in text and "| all models alike | all | | | | | +0.00" in text


def test_ratios_are_formed_within_a_repeat_against_the_fastest() -> None:
    outcomes = {
        "a": [{"seconds": 4.0}, {"seconds": 9.0}],
        "b": [{"seconds": 6.0}, {"seconds": 3.0}],
        "tima": [{"seconds": 1.0}] * 2,
    }
    assert _speed_page._within(outcomes, ["a", "b"], "tima", "seconds") == [4.0, 3.0]


def test_speed_runs_without_the_libraries(subject: Subject, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    options = dict(eps=0.03 * 255, batch=3, steps=4, repeats=2, autoattack=False, compile=False)
    names = {"plain loop": None, "tima, library model, fp32": None}
    every = speed.candidates(subject, argparse.Namespace(**options, only=""))
    monkeypatch.setattr(speed, "candidates", lambda *_: {name: every[name] for name in names})
    monkeypatch.setattr(speed, "matmul_peak", lambda kind: {"best": 100.0})
    found = speed.measure(subject, argparse.Namespace(**options))
    assert {name: [o["standing"] for o in rows] for name, rows in found["outcomes"].items()} == {key: [2, 2] for key in names}
    assert found["outcomes"]["plain loop"][0]["backwards"] == 4 * 4  # images times steps
    assert found["outcomes"]["tima, library model, fp32"][0]["backwards"] < 4 * 4  # two leave early
    assert "| tima, library model, fp32 | 2 |" in _speed_page.page([found], [])


def test_the_convolutional_network_learns() -> None:
    torch.manual_seed(0)
    label = torch.arange(64) % 2
    image = (0.3 + 0.4 * label[:, None, None, None] + 0.02 * torch.randn(64, 3, 32, 32)).clamp(0, 1)
    network = conv_network(2, width=4)
    train_conv(network, image, label, epochs=12, eps=2 / 255, seed=0, batch=16)
    assert float((network(image).argmax(1) == label).float().mean()) > 0.95


def test_one_command_runs_every_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """No script is forgotten, every command is one that the script takes, and a part that fails stops nothing."""
    import everything

    asked = [c for part in everything.PARTS.values() for c in (*part.commands, *part.pages)]
    scripts = {p.name for p in Path(everything.__file__).parent.glob("*.py") if not p.name.startswith("_")} - {"everything.py"}
    assert scripts == {Path(c.split()[0]).name for c in asked if c.startswith("benchmarks/")}
    for command in asked:
        script, *words = command.split()
        if script != "-m":
            text = (everything.ROOT / script).read_text()
            assert all(f'"{word}"' in text for word in words if word.startswith("--") and word != "--no-compile"), command
    broken = everything.Part(("-c 'raise SystemExit(3)'",), (), "nothing")
    fine = everything.Part((), ("-c 'print(7)'",), "a seven")
    monkeypatch.setattr(everything, "PARTS", {"broken": broken, "fine": fine})
    monkeypatch.setattr("sys.argv", ["everything.py", "--only", "broken,fine", "--logs", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: broken"):
        everything.main()
    assert (tmp_path / "fine.log").read_text() == "7\n"
    monkeypatch.setattr("sys.argv", ["everything.py", "--only", "broken,fine", "--pages", "--logs", str(tmp_path)])
    everything.main()
    assert "fine: a seven" in capsys.readouterr().out
