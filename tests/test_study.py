"""The study end to end on a toy: planning, fairness, choice of settings, failures as rows, the kept file, the page."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studying import build_world, study_values, write_study
from typer.testing import CliRunner

from tima.cli import app
from tima.errors import RecipeError, ResultError, TimaError
from tima.results import load_sidecar, read_result
from tima.study import collect, load_study, read_store, run_study, write_report, write_store
from tima.study.expand import finals, trials
from tima.study.jobs import survey
from tima.study.lines import views_of
from tima.study.schema import Row, known_studies, studies_folder
from tima.study.state import State, choose, headline_rows


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    return build_world(tokenizer, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(world: Path) -> tuple[Path, Path]:
    """A finished study of two methods and two seeds: its folder and its kept file."""
    study = load_study(write_study(world / "toy.yaml", study_values(world)))
    outcome = run_study(study, world / "done", workers=0, progress=False)
    assert outcome.failed == {} and len(outcome.finished) == 4 + 4 + 4  # trials, runs, evaluations
    write_store(world / "toy.json", collect(study, world / "done"))
    return world / "done", world / "toy.json"


# the file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "nobody"}, "there is no row 'nobody'; there are tecoa, tima"),
        ({"typo": 1}, "typo: there is no such setting"),
        ({"base": {"stepz": 3}}, "row tecoa:\n  stepz: there is no such setting"),
        ({"base": {"seed": 3}}, "'seed' is set by the row or by the list of that name"),
        ({"rows": {"tecoa": {"method": "tecoa", "settings": {"method_config.beta": 1}}}}, "method_config:\n  beta"),
        ({"rows": {"tecoa": {"method": "tekoa"}}}, "There is no method 'tekoa'"),
        ({"rows": {"tecoa": {"method": "tecoa", "search": "tima"}}}, "rows.tecoa.search: there is no row 'tima'"),
        (
            {"rows": {"tecoa": {"method": "tecoa"}, "x": {"method": "fare", "search": "none", "grid": {"lr": [1]}}}},
            "not searched",
        ),
        ({"evaluate": [{"protocol": "nothing", "data": ["far"]}]}, "Protocol 'nothing' was not found"),
        (
            {"claims": [{"kind": "difference", "claim": "x", "source": "y", "row": "z", "than": "tima", "at": ["clean"]}]},
            "row 'z'",
        ),
        ({"headline": {"rows": ["tima", "tecoa"], "best_of_rest": True}}, "no rows besides"),
        ({"equal_to": ["tima", "tma"]}, "equal_to: there is no row 'tma'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = study_values(tmp_path, **change)
    if "claims" not in change and "rows" in change:
        values["claims"] = []
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_study(write_study(tmp_path / "study.yaml", values))


def test_every_search_has_the_same_budget(tmp_path: Path) -> None:
    rows = {"tecoa": {"method": "tecoa"}, "tima": {"method": "tima", "grid": {"method_config.w_takd": [0.3, 1.0]}}}
    values = study_values(tmp_path, rows=rows)
    with pytest.raises(RecipeError, match="tecoa 2, tima 4"):
        load_study(write_study(tmp_path / "study.yaml", values))
    rows["tecoa"]["grid"] = {"lr": [0.1, 0.2, 0.3, 0.4]}
    study = load_study(write_study(tmp_path / "study.yaml", values))
    points = [dict(t.trial or {}) for t in trials(study, "tima")]
    assert points == [{"lr": lr, "method_config.w_takd": w} for lr in (0.001, 0.003) for w in (0.3, 1.0)]
    recipe = trials(study, "tima")[3].recipe
    assert (recipe.lr, recipe.method_config, recipe.steps, recipe.seed) == (0.003, {"w_takd": 1.0}, 2, 0)


def test_rows_cross_with_seeds_eps_and_data(tmp_path: Path) -> None:
    rows = {
        "tecoa": {"method": "tecoa", "search": "none", "eps": ["1/255", "2/255"], "data": ["a", "b"], "settings": {"lr": 0.5}}
    }
    rows["tima"] = {"method": "tima", "search": "none"}
    study = load_study(write_study(tmp_path / "study.yaml", study_values(tmp_path, rows=rows)))
    runs = finals(study, "tecoa", {}, [4, 5])
    found = [(t.recipe.data, round(t.recipe.eps * 255), t.recipe.seed) for t in runs]
    assert found == [(d, e, s) for d in "ab" for e in (1, 2) for s in (4, 5)] and {t.recipe.lr for t in runs} == {0.5}
    assert len({t.key for t in runs}) == 8
    changed = load_study(tmp_path / "study.yaml", ["base.steps=9", "rows.tima.eps=[8/255]"])
    assert finals(changed, "tima", {}, [0])[0].recipe.steps == 9
    assert {t.key for t in finals(changed, "tecoa", {}, [4, 5])}.isdisjoint(t.key for t in runs)


def test_a_trial_that_is_a_final_run_is_trained_once(tmp_path: Path) -> None:
    values = study_values(tmp_path, search={"grid": {"lr": [0.001, 0.003]}}, seeds=[0])
    study = load_study(write_study(tmp_path / "study.yaml", values))
    assert finals(study, "tecoa", {"lr": 0.003}, [0])[0].key == trials(study, "tecoa")[1].key


@pytest.mark.parametrize("name", known_studies())
def test_shipped_studies_are_sound(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    text = (studies_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    assert study.name == name and f"tima study {name}" in text and study.about
    found = list(survey(study, State(tmp_path)))
    assert found and all(p.state in ("todo", "waiting") for p in found)
    recipes = [t.recipe for row in study.rows for t in trials(study, row) or finals(study, row, {}, [0])]
    assert len({(r.batch_size, r.attack.model_dump_json(), r.model) for r in recipes}) == 1  # equal budgets
    final = [t.recipe for row in study.rows for t in finals(study, row, {}, [0])]
    for equal in ([r for r in final if r.method != "zero-shot"], [t.recipe for row in study.rows for t in trials(study, row)]):
        assert len({r.steps for r in equal}) <= 1
    # an evaluation set is no training set, and validation is all that searches see
    assert all(set(e.data) - {r.data for r in recipes} for e in study.evaluate)


def test_a_run_is_judged_by_everything_before_the_next_is_trained(tmp_path: Path) -> None:
    """Of a study that is stopped, what was trained and not judged is lost with the machine."""
    study = load_study("nano").model_copy(update={"search": None})
    kinds = [(p.job.kind, p.job.training.key) for p in survey(study, State(tmp_path))]
    trained = [key for kind, key in kinds if kind == "training"]
    assert len(trained) == len(set(trained)) > 20
    at = {key: kinds.index(("training", key)) for key in trained}
    judged = [i for i, (kind, _) in enumerate(kinds) if kind == "evaluation"]
    assert all(0 < i - at[kinds[i][1]] <= len(study.evaluate) for i in judged)
    assert {kinds[i][1] for i in judged} == set(trained)
    first = [p.job.training.recipe.seed for p in survey(study, State(tmp_path)) if p.job.kind == "training"]
    assert first == sorted(first, key=lambda seed: seed > 0)  # a whole comparison before more seeds


def test_the_large_study_has_every_method_and_the_ablations_every_term() -> None:
    from tima.methods import METHODS

    nano, ablations = load_study("nano"), load_study("ablations")
    assert {row.method for row in nano.rows.values()} == set(METHODS)
    configs = [t.recipe.method_config for row in ablations.rows for t in finals(ablations, row, {}, [0])]
    for name in ("w_tam", "w_takd", "w_mhe", "w_sc", "w_iakd", "m0"):
        assert any(config.get(name) == 0 for config in configs), f"{name} is never off"
    assert sorted(c["logit_scale"] for c in configs if "logit_scale" in c) == [10, 25, 50, 100, 200]
    assert {c.get("text_tower") for c in configs} == {None, "projection", "none"}
    assert {c.get("margin_by") for c in configs} == {None, "distance", "constant"} and -1 in [
        c.get("margin_sign") for c in configs
    ]
    eps = {round(t.recipe.eps * 255) for row in ablations.rows for t in finals(ablations, row, {}, [0])}
    assert eps == {1, 2, 4, 8}


# choosing ------------------------------------------------------------------------------------------------------------


def fake_trial(state: State, key: str, seen: tuple[float, float], unseen: tuple[float, float], one_class: bool = False) -> None:
    def part(pair: tuple[float, float]) -> dict[str, Any]:
        return {"clean_accuracy": pair[0], "robust_accuracy": pair[1], "n": 8, "one_class": one_class}

    folder = state.run(key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"val": {"seen": part(seen), "unseen": part(unseen)}, "seconds": 1.0}))


def test_the_winner_is_chosen_by_the_stated_rule(tmp_path: Path) -> None:
    from tima.study.state import Failure

    values = study_values(tmp_path, search={"grid": {"lr": [0.1, 0.2, 0.3, 0.4, 0.5]}}, seeds=[7])
    study = load_study(write_study(tmp_path / "study.yaml", values))
    state, keys = State(tmp_path), [t.key for t in trials(study, "tecoa")]
    fake_trial(state, keys[0], (0.4, 0.2), (0.4, 0.2))  # mean 0.3, robust 0.2
    fake_trial(state, keys[1], (0.6, 0.1), (0.6, 0.1))  # mean 0.35, robust 0.1
    fake_trial(state, keys[2], (0.7, 0.0), (0.6, 0.1))  # mean 0.35 too: the earlier one wins
    fake_trial(state, keys[3], (0.9, 0.9), (0.9, 0.9), one_class=True)  # collapsed
    assert choose(study, "tecoa", state) is None  # one is open
    state.fail(keys[4], "train", Failure("TrainingError", "Step 3: loss = nan."))
    choice = choose(study, "tecoa", state)
    assert choice is not None and choice.winner == 1 and choice.settings == {"lr": 0.2}
    assert choice.scores == [pytest.approx(0.3), pytest.approx(0.35), pytest.approx(0.35), None, None]
    assert choice.notes == ["", "", "", "collapsed", "Step 3: loss = nan."]
    robust = study.model_copy(update={"search": study.search.model_copy(update={"rule": "robust"})})  # type: ignore[union-attr]
    assert choose(robust, "tecoa", state).settings == {"lr": 0.1}  # type: ignore[union-attr]
    balance = study.model_copy(update={"search": study.search.model_copy(update={"rule": "balance"})})  # type: ignore[union-attr]
    found = choose(balance, "tecoa", state)
    assert found is not None and found.settings == {"lr": 0.1}
    assert found.scores[:3] == [pytest.approx(math.sqrt(c * r)) for c, r in ((0.4, 0.2), (0.6, 0.1), (0.65, 0.05))]
    fake_trial(state, keys[0], (0.9, 0.0), (0.9, 0.0))  # what withstands nothing, however good it is else
    assert choose(balance, "tecoa", State(tmp_path)).scores[0] == 0  # type: ignore[union-attr]


def test_the_best_of_the_rest_joins_the_headline_by_validation(tmp_path: Path) -> None:
    rows = {name: {"method": name, "search": "none"} for name in ("tecoa", "tima", "fare", "laat")}
    headline = {"rows": ["tima"], "seeds": [0, 1, 2], "best_of_rest": True}
    values = study_values(tmp_path, rows=rows, headline=headline, seeds=[0], search=None)
    study = load_study(write_study(tmp_path / "study.yaml", values))
    state = State(tmp_path)
    for name, value in (("tecoa", 0.2), ("fare", 0.4)):
        fake_trial(state, finals(study, name, {}, [0])[0].key, (value, value), (value, value))
    assert headline_rows(study, state) == ["tima"]  # laat is still open
    fake_trial(state, finals(study, "laat", {}, [0])[0].key, (0.9, 0.9), (0.9, 0.9), one_class=True)
    assert headline_rows(study, state) == ["tima", "fare"]
    mixed = {"method": "fare", "search": "fare", "settings": {"mix": 0.5}}  # no method of its own: neither waited for nor taken
    assert headline_rows(study.model_copy(update={"rows": study.rows | {"mixed": Row(**mixed)}}), state) == ["tima", "fare"]
    seeds = [
        p.job.training.recipe.seed for p in survey(study, state) if p.job.kind == "training" and p.job.training.row == "fare"
    ]
    assert seeds == [0, 1, 2]


@pytest.mark.parametrize(("rule", "best"), [("mean", "tecoa"), ("robust", "fare"), (True, "tecoa")])
def test_the_best_of_the_rest_is_the_most_robust_one_where_that_is_asked(tmp_path: Path, rule: str | bool, best: str) -> None:
    rows = {name: {"method": name, "search": "none"} for name in ("tecoa", "tima", "fare")}
    values = study_values(tmp_path, rows=rows, headline={"rows": ["tima"], "best_of_rest": rule}, seeds=[0], search=None)
    study = load_study(write_study(tmp_path / "study.yaml", values))
    state = State(tmp_path)
    for name, value in (("tecoa", (0.9, 0.0)), ("fare", (0.3, 0.2))):
        fake_trial(state, finals(study, name, {}, [0])[0].key, value, value)
    assert headline_rows(study, state) == ["tima", best]


# running -------------------------------------------------------------------------------------------------------------


def test_runs_are_ordinary_runs(done: tuple[Path, Path], world: Path) -> None:
    folder, _ = done
    study = load_study(world / "toy.yaml")
    runs = sorted(path.parent for path in folder.glob("runs/*/results"))
    assert len(runs) == 4
    for run in runs:
        assert (run / "recipe.yaml").is_file() and (run / "model" / "config.json").is_file()
        cost = json.loads((run / "cost.json").read_text())
        assert cost["steps_measured"] == 3 and cost["peak_memory_bytes"] > 2**20
        for path in run.glob("results/*.json"):
            result = read_result(path)
            assert result.complete and result.n == 12 and result.train_domain == (result.dataset == "toy")
        assert {path.stem for path in run.glob("texts/*.json")} == {"far", "near", "toy"}
    again = run_study(study, folder, workers=0, progress=False)
    assert (again.finished, again.failed) == ([], {})  # nothing left


def test_the_kept_file_says_what_the_runs_say(done: tuple[Path, Path]) -> None:
    folder, path = done
    store = read_store(path)
    assert [run.seed for run in store.runs] == [0, 1, 0, 1] and {run.state for run in store.runs} <= {"finished", "collapsed"}
    for run in store.runs:
        for kept in run.results:
            file = folder / kept.file
            result, tensors = read_result(file), load_sidecar(file)
            order = tensors["index_N"].argsort()
            assert (kept.outcomes("clean") == tensors["correct_N"][order].numpy()).all()
            assert (kept.outcomes("4/255") == tensors["robust_EN"][1][order].numpy()).all()
            assert kept.correct == {
                "clean": result.clean.correct,
                "1/255": result.robust[0].correct,
                "4/255": result.robust[1].correct,
            }
            assert kept.checkpoint_sha256 == result.checkpoint_sha256
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"row":') for line in lines) == 4  # a line a run
    assert str(folder) not in path.read_text()


def test_the_page_comes_from_the_kept_file_alone(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = done
    page, web = write_report([path], tmp_path / "results.md")
    text, html = page.read_text(encoding="utf-8"), web.read_text(encoding="utf-8")
    store = read_store(path)
    view = views_of(store)[0]
    assert view.zero_shot == ["far", "near"] and view.data == ["far", "near", "toy"]
    tecoa = view.lines[0]
    right = [np.stack([r.outcomes("clean") for r in tecoa.results(data, view.sha256)]) for data in ("far", "near")]
    mean = np.mean([part.mean() for part in right])
    row = next(line for line in text.splitlines() if line.startswith("| TeCoA | 2 |"))
    assert f"| {100 * mean:.1f} (" in row and "±" in row
    for number in view.columns[1:]:
        svg = tmp_path / "results" / f"toy-0-front-{number.replace('/', '-')}.svg"
        assert f"(results/{svg.name})" in text and "var(--" not in svg.read_text()
        ElementTree.fromstring(svg.read_text())
    assert "<script" not in html and "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", html)
    assert html.count("<table") == html.count("</table>") == len(re.findall(r"^\|---", text, re.MULTILINE))
    for words in (
        "TIMA is more robust",
        "What the searches chose",
        "Forward and backward",
        store.runs[0].results[0].sha256[:12],
    ):
        assert words in text and words in html
    assert write_report([path], tmp_path / "b" / "results.md")[0].read_text() == text  # the same again


def test_damaged_kept_files_are_refused(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = done
    bad = tmp_path / "bad.json"
    text = path.read_text()
    correct = re.search(r'"correct":\{"clean":(\d+)', text)
    assert correct is not None
    bad.write_text(text.replace(correct.group(0), f'"correct":{{"clean":{int(correct.group(1)) + 1}', 1))
    with pytest.raises(ResultError, match="do not add up"):
        read_store(bad)
    for content, message in (
        ("{", "not valid JSON"),
        ("{}", "no stored study"),
        (text.replace('"headline"', '"headlime"', 1), "headline"),
    ):
        bad.write_text(content)
        with pytest.raises(ResultError, match=message):
            read_store(bad)
    with pytest.raises(ResultError, match="cannot be read"):
        read_store(tmp_path / "nothing.json")


def test_what_fails_is_a_row_and_stops_nothing(world: Path, tmp_path: Path) -> None:
    rows = {
        "tecoa": {"method": "tecoa", "search": "none"},
        "wild": {"method": "tecoa", "search": "none", "settings": {"lr": 1e30, "warmup": 0, "clip_grad": 0}},
        "original": {"method": "zero-shot", "search": "none"},
    }
    changes: dict[str, Any] = dict(rows=rows, seeds=[0], search=None, claims=[])
    values = study_values(world, **changes)
    values["evaluate"][0]["data"] = [str(world / "far"), "nowhere"]
    study = load_study(write_study(tmp_path / "study.yaml", values))
    outcome = run_study(study, tmp_path / "out", workers=0, progress=False)
    assert outcome.failed.keys() == {
        "wild, seed 0: train",
        "tecoa, seed 0: custom@1, nowhere",
        "original, seed 0: custom@1, nowhere",
    }
    assert "tecoa, seed 0: custom@1" in outcome.finished
    store = collect(study, tmp_path / "out")
    assert {run.row: run.state for run in store.runs}["wild"] == "failed"
    write_store(tmp_path / "study.json", store)
    text = write_report([tmp_path / "study.json"], tmp_path / "results.md")[0].read_text()
    assert "| wild |  | training failed |" in text and "so in no average: nowhere" in text
    assert "Error: " in text and str(world) not in text.split("All runs share")[1].split("\n", 1)[1]
    # the set has come, and only what lacked it is done
    values["evaluate"][0]["data"] = [str(world / "far"), str(tmp_path / "nowhere")]
    (tmp_path / "nowhere").symlink_to(world / "near")
    later = run_study(load_study(write_study(tmp_path / "study.yaml", values)), tmp_path / "out", workers=0, progress=False)
    assert later.failed.keys() == {"wild, seed 0: train"} and len(later.finished) == 2


def test_failures_are_tried_again_when_asked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tima.train

    values = study_values(world, seeds=[0], search=None, rows={"tecoa": {"method": "tecoa", "search": "none"}}, claims=[])
    study = load_study(write_study(tmp_path / "study.yaml", values))
    with monkeypatch.context() as patch:
        patch.setattr(tima.train, "train", lambda *_, **__: (_ for _ in ()).throw(MemoryError("too large")))
        outcome = run_study(study, tmp_path / "out", workers=0, progress=False)
    assert outcome.failed == {"tecoa, seed 0: train": "too large"}
    assert run_study(study, tmp_path / "out", workers=0, progress=False).finished == []
    again = run_study(study, tmp_path / "out", workers=0, progress=False, retry=True)
    assert again.failed == {} and len(again.finished) == 2


def test_one_study_at_a_time_works_in_a_folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from tima.study import run

    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    study = load_study(write_study(tmp_path / "study.yaml", study_values(world)))
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimaError, match="Another study is at work"):
            run_study(study, tmp_path / "out", workers=0, progress=False)


# the command ---------------------------------------------------------------------------------------------------------


def test_the_command_reports_plans_and_lists(done: tuple[Path, Path], world: Path, tmp_path: Path) -> None:
    folder, path = done

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, ["study", *map(str, words)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "nano-quick" in run("--list")
    out = tmp_path / "studies"
    out.mkdir()
    (out / "toy").symlink_to(folder)
    output = run(world / "toy.yaml", "--out", out, "--report", "--page", tmp_path / "page.md")
    assert "page.md" in output and (tmp_path / "page.html").is_file()
    assert read_store(out / "toy.json") == read_store(path)
    # from what is kept alone
    run(world / "toy.yaml", "--out", tmp_path / "nothing", "--report", "--store", out, "--page", tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text().replace("again/", "page/") == (tmp_path / "page.md").read_text()
    output = run(world / "toy.yaml", "rows.tima.seeds=[0,1,2]", "--out", out, "--plan", "--workers", 2)
    assert re.search(r"tima\s+training\s+4/255\s+toy\s+2\s+todo", output) and "Left: about" in output
    with pytest.raises(RecipeError, match="Name a study"):
        run("--plan")


def test_plan_guesses_follow_the_attack() -> None:
    from tima.protocols import load_protocol
    from tima.study.plan import FALL, evaluation_seconds, passes_of

    # APGD-CE 25 steps and APGD-T 25 steps on 3 targets, each a forward and a backward pass of two
    protocol = load_protocol("apgd-small")
    assert passes_of(protocol) == 3 * (25 + 3 * 25)
    assert passes_of(load_protocol("standard")) == 3 * (100 + 900 + 900) + 5000
    attacked = 100 * 0.5 * sum(FALL**k for k in range(4))
    assert evaluation_seconds(protocol, 2, 0.01, 0.5) == pytest.approx(2 * 0.01 * (100 + attacked * 300))


def test_seeds_that_overlap_make_no_significance() -> None:
    from tima.study.accuracy import Test
    from tima.study.compare import Paired

    test = Test(None, None, "x", "clean", Paired(0.1, 0.05, 0.15, 0.001, 100), apart=None, p_holm=0.01)  # type: ignore[arg-type]
    assert test.significant and replace(test, apart=True).significant and not replace(test, p_holm=0.06).significant
    assert not replace(test, apart=False).significant and replace(test, apart=False).word == "may be chance: seeds overlap"
