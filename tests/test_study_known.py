"""A study that goes on from a kept file alone, as on another machine."""

from pathlib import Path
from typing import Any

import pytest
from studying import build_world, same, study_values, write_study
from typer.testing import CliRunner

from tima.cli import app
from tima.errors import ResultError
from tima.study import Store, Study, adopt, collect, count_known, load_study, read_store, run_study, write_store
from tima.study.jobs import survey, trainings
from tima.study.known import Known
from tima.study.records import KeptResult, KeptSearch
from tima.study.state import State, choose, score


@pytest.fixture(scope="module")
def world(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tokenizer, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def kept(world: Path) -> Path:
    """A finished study of one seed."""
    study = toy(world)
    assert run_study(study, world / "first", workers=0, progress=False).failed == {}
    write_store(world / "toy.json", collect(study, world / "first"))
    return world / "toy.json"


def toy(world: Path, **changes: Any) -> Study:
    return load_study(write_study(world / "toy.yaml", study_values(world, **{"seeds": [0], **changes})))


def test_nothing_is_done_twice(world: Path, kept: Path, tmp_path: Path) -> None:
    adopt(tmp_path, kept)
    outcome = run_study(toy(world), tmp_path, workers=0, progress=False)
    assert outcome.finished == [] and outcome.failed == {} and not (tmp_path / "runs").exists()
    found, before = collect(toy(world), tmp_path).model_dump(), read_store(kept).model_dump()
    assert {k: v for k, v in found.items() if v != before[k]} == {}


def test_only_the_new_seed_is_run(world: Path, kept: Path, tmp_path: Path) -> None:
    adopt(tmp_path, kept)
    wider = toy(world, seeds=[0, 1])
    finished = run_study(wider, tmp_path, workers=0, progress=False).finished
    assert len(finished) == 4 and all("seed 1" in title for title in finished)
    found = collect(wider, tmp_path)
    first = {run.key: run for run in read_store(kept).runs}
    assert [run == first[run.key] for run in found.runs if run.seed == 0] == [True, True]
    assert run_study(wider, world / "whole", workers=0, progress=False).failed == {}
    assert same(found) == same(collect(wider, world / "whole")), "settings of the search came from the file"


def test_another_protocol_needs_the_weights(world: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained again, and the outcomes known of these weights stay; of other weights they do not."""
    values = study_values(world)["evaluate"]
    asked = [*values, {**values[0], "protocol": "demo", "changes": {"eps": ["2/255"], "samples": 12, "health_probe": 0}}]
    more = toy(world, evaluate=asked)
    adopt(tmp_path / "same", kept)
    finished = run_study(more, tmp_path / "same", workers=0, progress=False).finished
    assert len(finished) == 2 + 2 and sum("train" in title for title in finished) == 2
    results = [result for run in collect(more, tmp_path / "same").runs for result in run.results]
    known = {result.sha256 for run in read_store(kept).runs for result in run.results}
    assert len(results) == 2 * 6 and len([r for r in results if r.sha256 in known]) == 6

    monkeypatch.setattr("tima.study.state.trained_weights", lambda run: "others")
    adopt(tmp_path / "other", kept)
    assert len(run_study(more, tmp_path / "other", workers=0, progress=False).finished) == 2 + 4
    results = [result for run in collect(more, tmp_path / "other").runs for result in run.results]
    assert len(results) == 2 * 6 and not [r for r in results if r.sha256 in known]


def test_a_run_belongs_to_its_settings_and_not_to_its_study(world: Path, kept: Path, tmp_path: Path) -> None:
    """What another study finished is taken by the same settings, under this study's name for the row."""
    row = next(run for run in read_store(kept).runs if run.recipe["method"] == "tecoa")
    rows = {"same": {"method": "tecoa", "settings": {"lr": row.recipe["lr"]}}}
    other = toy(world, name="other", rows=rows, reference="same", search=None, claims=[])
    assert adopt(tmp_path, kept) == [kept]
    assert count_known(other, tmp_path) == {
        "search": (0, 0),
        "training": (1, 1),
        "evaluation": (1, 1),
    }
    assert run_study(other, tmp_path, workers=0, progress=False).finished == []
    (found,) = collect(other, tmp_path).runs
    assert found.row == "same" and found.results == row.results and found.taken_from == "toy"


def test_a_score_by_one_rule_is_none_by_another(world: Path, kept: Path, tmp_path: Path) -> None:
    """Unless the file says what the score is made of: then the trial need not be repeated."""
    asked = toy(world, search={**study_values(world)["search"], "rule": "balance"})
    adopt(tmp_path / "new", kept)
    state, before = State(tmp_path / "new"), read_store(kept)
    choice = choose(asked, "tecoa", state)
    assert choice is not None and choice.keys == before.searches["tecoa"].keys
    first = before.searches["tecoa"]
    assert all(first.val) and choice.notes == first.notes
    expected = [None if note else score({"val": val}, "balance") for val, note in zip(first.val, first.notes, strict=True)]
    assert choice.scores == expected and any(value is not None for value in expected)
    assert choice.scores != before.searches["tecoa"].scores
    plain = {name: search.model_copy(update={"val": []}) for name, search in before.searches.items()}  # as kept before
    write_store(tmp_path / "old.json", before.model_copy(update={"searches": plain}))
    adopt(tmp_path / "old", tmp_path / "old.json")
    old = State(tmp_path / "old")
    assert choose(asked, "tecoa", old) is None and choose(toy(world), "tecoa", old) is not None
    lost = {key for search in plain.values() for key, note in zip(search.keys, search.notes, strict=True) if note}
    found = {p.job.training.key: p.state for p in survey(asked, old) if p.job.kind == "search"}
    assert found == {key: "done" if key in lost else "todo" for key in found} and "todo" in found.values()
    assert {p.state for p in survey(toy(world), old) if p.job.kind == "search"} == {"done"}


def test_of_several_files_the_one_with_most_of_a_run_counts(kept: Path) -> None:
    """A run is never put together from two, whose weights may differ."""
    whole = read_store(kept)
    run = whole.runs[0]

    def results(*parts: list[KeptResult]) -> list[KeptResult]:
        files = [whole.model_copy(update={"runs": [run.model_copy(update={"results": part})]}) for part in parts]
        found = Known(files).run(run.key)
        assert found is not None
        return found.results

    assert len(run.results) == 3 and results(run.results[:1], run.results) == run.results
    assert results(run.results[:2], run.results[2:]) == run.results[:2] and results([], run.results[1:]) == run.results[1:]


def test_of_several_files_the_one_that_says_how_a_trial_does_counts(kept: Path) -> None:
    whole = read_store(kept)
    (name, search), *_ = whole.searches.items()
    key = search.keys[0]

    def file(rule: str, score: float | None, note: str, val: dict[str, Any] | None) -> Store:
        only = KeptSearch(points=[{}], keys=[key], scores=[score], notes=[note], val=[val] if val else [], winner=None)
        return whole.model_copy(update={"study": {**whole.study, "search": {"rule": rule}}, "searches": {name: only}})

    val = {"seen": {"clean_accuracy": 0.5, "robust_accuracy": 0.5}}
    killed, other, same = file("mean", None, "signal SIGKILL", None), file("robust", 0.3, "", None), file("mean", 0.4, "", None)
    rich = file("robust", 0.3, "", val)
    for files, found in (
        ([killed, same], 0.4),
        ([other, same], 0.4),
        ([same, rich], 0.3),
        ([killed], None),
    ):
        trial = Known(files).trial(key, "mean")
        assert trial is not None and trial.score == found
    assert Known([other]).trial(key, "mean") is None and Known([other]).trial("another", "robust") is None
    assert Known([rich]).trial(key, "mean").val == val  # type: ignore[union-attr]


def test_a_trial_that_is_known_is_no_training(world: Path, kept: Path, tmp_path: Path) -> None:
    """A score says how to set a run up. Where the run itself is wanted, it is trained."""
    search = read_store(kept).searches["tecoa"]
    won = search.points[search.winner or 0]
    rows = {"tecoa": {"method": "tecoa", "settings": {"lr": won["lr"], "steps": 2}}}
    plain = toy(world, name="plain", rows=rows, reference="tecoa", search=None, claims=[], evaluate=[])
    adopt(tmp_path, kept)
    (training,) = trainings(plain, State(tmp_path))
    assert training.key in search.keys and count_known(plain, tmp_path)["training"] == (0, 1)
    assert run_study(plain, tmp_path, workers=0, progress=False).finished != []
    assert collect(plain, tmp_path).runs[0].summary["steps"] == 2


def test_a_set_must_have_been_called_the_same(world: Path, kept: Path, tmp_path: Path) -> None:
    """Results go by the last part of a folder's name, without the split: other pictures can have it, too."""
    adopt(tmp_path, kept)
    run = read_store(kept).runs[0]
    known = State(tmp_path).known
    assert known is not None and run.results[0].data == "far"
    protocol = run.results[0].protocol
    assert known.result(run.key, str(world / "far"), "far", protocol) == run.results[0]
    assert known.result(run.key, "/elsewhere/far", "far", protocol) is None
    assert known.result(run.key, f"{world / 'far'}:train", "far", protocol) is None


def test_files_of_one_study_stay_beside_each_other(world: Path, kept: Path, tmp_path: Path) -> None:
    """Of two machines, say. And the one file of earlier versions is still read."""
    whole = read_store(kept)
    for number, run in enumerate(whole.runs):
        write_store(tmp_path / "files" / f"{number}.json", whole.model_copy(update={"runs": [run], "searches": {}}))
    adopt(tmp_path / "study", tmp_path / "files")
    for run in whole.runs:
        assert State(tmp_path / "study").summary(run.key) == run.summary
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "known.json").write_bytes(kept.read_bytes())
    assert State(tmp_path / "before").summary(whole.runs[0].key) == whole.runs[0].summary
    assert collect(toy(world), tmp_path / "before").runs == whole.runs
    words = ["study", str(world / "toy.yaml"), "--report", "--out", str(tmp_path / "out"), "--quiet"]
    (tmp_path / "before").rename(tmp_path / "toy")
    (tmp_path / "out").mkdir()
    (tmp_path / "toy").rename(tmp_path / "out" / "toy")
    assert CliRunner().invoke(app, words).exit_code == 0
    assert read_store(tmp_path / "out" / "toy.json").runs == whole.runs


def test_what_cannot_be_known_is_said(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        adopt(tmp_path / "study", tmp_path / "nothing.json")
    with pytest.raises(ResultError, match="holds no kept file"):
        adopt(tmp_path / "study", tmp_path)
    (tmp_path / "a.json").write_bytes(kept.read_bytes())
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ResultError, match="no stored study"):
        adopt(tmp_path / "study", tmp_path)
    assert not (tmp_path / "study").exists()


def test_on_the_command_line(world: Path, kept: Path, tmp_path: Path) -> None:
    toy(world)
    words = ["study", str(world / "toy.yaml"), "--known", str(kept.parent), "--out", str(tmp_path), "--quiet", "--workers", "0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 of 4 trials, 2 of 2 trainings, 2 of 2 evaluations" in " ".join(done.output.split())
    assert read_store(tmp_path / "toy.json") == read_store(kept) and (tmp_path / "results.md").is_file()
