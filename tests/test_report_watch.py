"""`tima report --watch`: waits, follows, ends; and in a browser the reader keeps the place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, write_metrics, write_run, write_stored
from typer.testing import CliRunner

from tima.cli import app
from tima.errors import ResultError
from tima.report import report, watch
from tima.report.watch import done, signature

CHROMIUM = Path("/usr/bin/chromium")


def begin(folder: Path, steps: int = 0) -> Path:
    """A training that has begun and logged this many steps of 60."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("method: tima\nmodel: nano\ndata: pictures\neps: 4/255\nsteps: 60\nseed: 0\n")
    if steps:
        write_metrics(folder, steps)
    return folder


def end(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps({"method": "tima", "model": "nano", "steps": 60, "seconds": 9.0}))


def script(*acts: Callable[[], Any]) -> Callable[[float], None]:
    """A `sleep` in which the runs go on: one act a look."""
    left: Iterator[Callable[[], Any]] = iter(acts)
    return lambda seconds: next(left)()


def test_a_run_is_done_when_it_has_a_summary_and_whole_results(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    assert not done(folder)
    begin(folder, 20)
    assert not done(folder)
    write_stored(folder, "cifar10", [0.5, 0.4, 0.3], complete=False)
    end(folder)
    assert not done(folder), "a result is unfinished"
    write_stored(folder, "cifar10", [0.5, 0.4, 0.3, 0.2, 0.1])
    assert done(folder)
    assert done(write_run(tmp_path / "original", None, {"cifar10": [0.5, 0.1, 0.0, 0.0, 0.0]})), "never trained here"


def test_the_page_follows_a_training_from_before_it_begins_to_its_end(tmp_path: Path) -> None:
    folder, out, seen, said = tmp_path / "x", tmp_path / "report.html", [], []

    def look() -> None:
        seen.append(Page(out))

    def act(change: Callable[[], Any]) -> Callable[[], None]:
        def both() -> None:
            if out.is_file():
                look()
            change()

        return both

    acts = [act(lambda: begin(folder)), act(lambda: begin(folder, 20)), act(lambda: None), act(lambda: begin(folder, 60))]
    page = watch([folder], out, every=2, say=said.append, sleep=script(*acts, act(lambda: end(folder))))
    assert page == out
    assert said[0] == f"waiting for {folder} to begin"
    assert len(said) == 4, "one line for each version of the page, none when nothing changed"
    begun, first, again, last = seen
    assert "TIMA" in begun.text and "0 of 60 steps done" in begun.text and "as it was" not in begun.text
    assert "20 of 60 steps done" in first.text and again.source == first.source and "60 of 60 steps done" in last.text
    for page_then in seen:
        assert len(page_then.of("script")) == 1 and page_then.of("html")[0]["data-reload"] == "2"
        assert not [a for _, a in page_then.tags if "src" in a], "the script is the page's own"
    final = Page(out)
    assert not final.of("script") and not final.of("meta")[-1].get("http-equiv") and "60 steps" in final.text


def test_stopping_the_watch_leaves_a_page_that_stays_as_it_is(tmp_path: Path) -> None:
    folder, out = begin(tmp_path / "x", 20), tmp_path / "report.html"

    def stop(seconds: float) -> None:
        assert "data-reload" in out.read_text()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch([folder], out, sleep=stop)
    assert "data-reload" not in out.read_text() and "<script" not in out.read_text()


def test_after_an_error_the_page_of_before_stays_and_no_longer_loads_itself(tmp_path: Path) -> None:
    folder, out = begin(tmp_path / "x", 20), tmp_path / "report.html"

    def damage() -> None:
        assert "data-reload" in out.read_text()
        (folder / "results").mkdir()
        (folder / "results" / "cifar10.json").write_text("{")

    with pytest.raises(ResultError):
        watch([folder], out, sleep=script(damage))
    left = Page(out)
    assert "20 of 60 steps done" in left.text and "loads itself" not in left.text
    assert not left.of("script") and not left.of("noscript") and "data-reload" not in left.source
    assert left.source.rstrip().endswith("</html>")


def test_the_page_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = begin(tmp_path / "x", 20), tmp_path / "report.html"
    report([folder], out)
    before = out.read_text()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(Exception, match="no space left"):
        report([folder], out, title="another")
    assert out.read_text() == before


def test_a_signature_changes_with_every_file_that_the_report_reads(tmp_path: Path) -> None:
    folder = begin(tmp_path / "x")
    found = [signature([folder])]
    for change in (lambda: write_metrics(folder, 10), lambda: write_metrics(folder, 20), lambda: end(folder)):
        change()
        found.append(signature([folder]))
    write_stored(folder, "cifar10", [0.5, 0.4], complete=False)
    found.append(signature([folder]))
    (folder / "notes.txt").write_text("not read")
    assert len(set(found)) == 5 and signature([folder]) == found[-1]


def test_bad_watches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="too often"):
        watch([tmp_path], tmp_path / "r.html", every=0.1)
    result = CliRunner().invoke(app, ["report", "--watch", "--format", "csv", str(tmp_path)])
    assert isinstance(result.exception, ResultError) and "--watch keeps the page" in str(result.exception)


def test_the_command_ends_when_the_runs_are_done(tmp_path: Path) -> None:
    folder = begin(tmp_path / "x", 60)
    end(folder)
    result = CliRunner().invoke(app, ["report", "--watch", str(folder)])
    assert result.exit_code == 0 and (folder / "report.html").is_file() and "Report:" in result.output


@pytest.mark.skipif(not CHROMIUM.is_file(), reason="no /usr/bin/chromium")
def test_a_reader_keeps_place_folds_and_pause_while_the_page_grows(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    runs = [begin(tmp_path / "x", 20), write_run(tmp_path / "original", None, {"cifar10": [0.5, 0.1, 0.0, 0.0, 0.0]})]
    out = report(runs, tmp_path / "report.html", reload_s=1)
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 500})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(out.as_uri())
        page.evaluate("document.querySelectorAll('.sources details').forEach(fold => fold.open = true)")
        heading = "document.getElementById('provenance').getBoundingClientRect().top"
        page.evaluate(f"scrollTo(0, {heading} + scrollY + 40)")
        place = page.evaluate(heading)
        assert place == pytest.approx(-40, abs=1)
        write_stored(runs[1], "fashion-mnist", [0.4, 0.1, 0.0, 0.0, 0.0])  # a card and a chart more, all above the reader
        report(runs, out, reload_s=1)
        arrived = "document.readyState == 'complete' && document.querySelector('main').innerText.includes('fashion-mnist')"
        page.wait_for_function(arrived, timeout=15000)
        assert page.evaluate(heading) == pytest.approx(place, abs=2)
        assert page.evaluate("[...document.querySelectorAll('.sources details')].every(fold => fold.open)")
        page.click("#pause")
        page.evaluate("window.old = true")
        page.wait_for_timeout(2500)
        assert page.evaluate("window.old") and page.inner_text("#pause") == "Go on updating"
        page.click("#pause")
        report(runs, out)
        page.wait_for_function("!window.old && !document.documentElement.dataset.reload", timeout=15000)
        assert not errors
        browser.close()
