"""`tima evaluate` and `tima protocols`: what the options do to the protocol, and what stands in the files."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import build_tiny_clip, make_image_set, write_image_folder
from typer.testing import CliRunner

from tima.cli import app
from tima.cli.evaluate import _changed, _version
from tima.cli.jobs import find_device
from tima.errors import DataError, ModelError, RecipeError
from tima.evaluation.missing import read_missing
from tima.protocols import Protocol, load_protocol
from tima.results import load_results


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def changed(
    protocol: str, attack: str | None = None, samples: int | None = None, health: bool | None = None, **words: Any
) -> Protocol:
    keys = ("version", "steps", "restarts", "queries")
    params = {key: words.pop(key, None) for key in keys}
    return _changed(load_protocol(protocol), attack, params, words, samples, health)


def test_options_change_what_they_name_and_nothing_else() -> None:
    standard = load_protocol("standard")
    assert changed("standard", samples=1000, eps=None) == standard
    assert changed("standard", samples=0).samples is None
    assert changed("pgd", steps=7).attack_params == {"steps": 7, "restarts": 1, "loss": "ce"}
    assert changed("standard", queries=100).attack_params == {"version": "standard", "queries": 100}
    other = changed("standard", attack="pgd", steps=3)
    assert (other.attack, other.attack_params, other.name) == ("pgd", {"steps": 3}, "custom")
    assert changed("pgd", version="rand").attack == "autoattack"
    assert changed("pgd", eps="0.5,2", norm="l_2").eps == [0.5, 2.0]
    quiet = changed("standard", health=False)
    assert (quiet.health_probe, quiet.name, quiet.sha256) == (0, "standard", standard.sha256)
    assert changed("demo", health=True).health_probe == 32
    with pytest.raises(RecipeError, match="model input"):
        changed("pgd", pixel_grid="screen")


def test_versions_are_names_or_stages() -> None:
    assert _version("plus") == "plus"
    assert _version("apgd-ce, apgd-t") == ["apgd-ce", "apgd-t"]


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_device(None) == "cpu"
    with pytest.raises(RecipeError, match="--device cuda"):
        find_device("cuda")
    for name in ("tpu", "cuda:99", "meta "):
        with pytest.raises(RecipeError, match=f"--device {name} cannot be used here"):
            find_device(name)
    monkeypatch.setattr("torch.empty", lambda *_, **__: None)  # two GPUs that are not there
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (find_device(None), find_device("cuda:0"), find_device("cpu")) == ("cuda:1", "cuda:0", "cpu")


@pytest.mark.parametrize("key", ["steps", "restarts", "queries"])
def test_counts_are_refused_before_hours_of_other_attacks(key: str) -> None:
    """Square comes last: 0 queries were refused when it began, or never."""
    for bad in (0, -1, 2.5, "many"):
        with pytest.raises(RecipeError, match=f"attack_params: {key} must be a whole number from 1"):
            changed("standard", **{key: bad})
    assert changed("standard", **{key: 1}).attack_params[key] == 1


@pytest.mark.parametrize(
    ("data", "message"), [("nowhere,nothing", "2 of 2 data sets .* nothing was measured"), (",", "no data set")]
)
def test_no_data_set_at_all_says_so(tmp_path: Path, data: str, message: str) -> None:
    """Not that a folder of results is missing, which is only what follows from it."""
    words = ["evaluate", "--model", "nano", "--data", data, "--quiet", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, words).exception
    assert isinstance(found, DataError) and re.search(message, str(found))


def test_evaluate_with_an_ensemble_leaves_each_attack_in_the_record(tokenizer: Any, tmp_path: Path) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=32, classes=8), tmp_path / "toy" / "test")
    words = ["--model", tmp_path / "model", "--data", tmp_path / "toy", "--protocol", "standard", "--no-health"]
    words += ["--samples", 20, "--eps", "0.2/255,1/255", "--steps", 4, "--queries", 30, "--out", tmp_path / "run", "--quiet"]
    out = run("evaluate", *words)
    (result,) = load_results(tmp_path / "run")
    assert "Results:" in out and result.complete and result.n == 20
    assert result.attack == "apgd-ce + apgd-t + fab-t + square"  # shortened, so it is not called AutoAttack
    for row in result.robust:
        assert [attack.name for attack in row.attacks] == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert row.attacks[0].attacked == row.n - row.already_broken
        for earlier, later in zip(row.attacks, row.attacks[1:], strict=False):
            assert later.attacked == (earlier.attacked or 0) - earlier.broken
        assert row.attacks[3].backwards == 0  # Square sees logits only
        assert row.broken_8bit is not None
    assert run("evaluate", *words).count("Results:") == 1  # complete: nothing is done again


def test_protocols_are_listed_shown_checked_and_described(tmp_path: Path) -> None:
    assert all(name in run("protocols") for name in ("standard@1", "fare-aa@1", "tecoa-pgd@1", "pgd@1"))
    shown = run("protocols", "standard")
    assert "autoattack" in shown and load_protocol("standard").sha256 in shown.replace("\n", "")
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"name": "mine", "version": 2, "attack": "pgd", "eps": "4/255"}))
    assert "mine@2" in run("protocols", "--check", mine)
    mine.write_text(yaml.safe_dump({"name": "mine", "version": 0, "attack": "pgd", "eps": "4"}))
    with pytest.raises(RecipeError, match=r"(?s)version: .*eps: .*'4/255'"):
        run("protocols", "--check", mine)
    run("protocols", "--schemas", tmp_path / "schemas")
    assert sorted(path.name for path in (tmp_path / "schemas").iterdir()) == ["protocol.schema.json", "result.schema.json"]


@pytest.mark.parametrize(
    "error", [DataError("picture 3 was readable before"), ModelError("NaN logits"), RuntimeError("odd\nlines")]
)
def test_a_set_that_fails_half_way_is_recorded_and_the_others_go_on(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Of whatever kind the failure is: the numbers of the other sets must not be lost with this one."""
    import tima.evaluate

    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    sets = [tmp_path / name for name in ("first", "second", "third")]
    for place in sets:
        write_image_folder(make_image_set(n=8, classes=4), place / "test")
    words = ["evaluate", "--model", tmp_path / "model", "--data", ",".join(map(str, [*sets, "nowhere"]))]
    words = [str(w) for w in [*words, "--eps", "1/255", "--steps", 1, "--no-health", "--out", tmp_path / "run", "--quiet"]]
    whole = tima.evaluate.evaluate

    def evaluate(model: Any, data: Any, *rest: Any, **more: Any) -> Any:
        if data.name == "second":
            raise error
        return whole(model, data, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr("tima.evaluate.evaluate", evaluate)
        done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and isinstance(done.exception, DataError)
    assert f"2 of 4 data sets could not be evaluated ({sets[1]}, nowhere); the others are complete" in str(done.exception)
    assert [result.dataset for result in load_results(tmp_path / "run")] == ["first", "third"]
    records = {Path(item.data).name: item for item in read_missing(tmp_path / "run")}
    assert set(records) == {"second", "nowhere"}
    assert str(error).splitlines()[0] in records["second"].why and records["second"].kind == type(error).__name__
    assert (records["second"].traceback is not None) == isinstance(error, RuntimeError)
    assert records["nowhere"].protocol.startswith("custom@") and "nowhere" in records["nowhere"].why
    from tima.report.compare import compare
    from tima.report.runs import read_runs
    from tima.report.words import warnings_of

    runs = read_runs([tmp_path / "run"])
    assert any(f"{sets[1]} could not be evaluated" in warning for warning in warnings_of(compare(runs), runs))
    again = CliRunner().invoke(app, words)  # the set is well again
    assert "1 of 4 data sets" in str(again.exception)
    assert [item.data for item in read_missing(tmp_path / "run")] == ["nowhere"]
    assert len(load_results(tmp_path / "run")) == 3
