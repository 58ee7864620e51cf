"""`tima report --watch`: the page is written again whenever a run has something new, until the runs are done.

While it is watched, the page carries the one script a report ever has: it loads itself again and keeps the reader's place
and what was unfolded. The last version, written when all is done, on Ctrl-C or after an error, has no script and stays as it
is.
"""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tima._files import write_text
from tima.errors import ResultError
from tima.report.page import DEFAULT_TITLE, report

FILES = ("recipe.yaml", "metrics.jsonl", "summary.json", "results/*.json")
# what page.html.jinja adds to a page that loads itself again; text of a run is escaped there and cannot look like it
LIVE = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'(?<=<html lang="en") data-reload="[^"]*"',
        r"<noscript><meta http-equiv=\"refresh\".*?</noscript>",
        r'<p class="live".*?</p>',
        r"<script>.*?</script>",
    )
)
Signature = tuple[tuple[str, int, int], ...]


def watch(
    run_folders: Sequence[str | Path],
    out: str | Path,
    title: str = DEFAULT_TITLE,
    *,
    every: float = 5.0,
    pictures: int = 3,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Keep a report up to date while runs train; returns the page when every run is done.

    Folders that are not there yet are waited for. A run is done when its training has written `summary.json` and none of
    its results is unfinished; a folder with results and no recipe was only evaluated, and is done when those are whole.

    Args:
        run_folders, out, title, pictures: as for `report`.
        every: seconds between looks, and between the page's reloads.
        say: told one line for each version of the page.
        sleep: waits; for tests.

    Raises:
        ResultError: `every` below one second, or a file that cannot be read.
    """
    if every < 1:
        raise ResultError(f"Looking every {every:g} s is too often to read anything. Take --every 1 or more.")
    folders = [Path(folder) for folder in run_folders]
    last: tuple[list[Path], Signature] | None = None
    page = Path(out)
    try:
        while True:
            there = [folder for folder in folders if signature([folder])]
            waiting = [folder for folder in folders if not done(folder)]
            now = (there, signature(there))
            if not waiting:
                break
            if now != last and there:
                page = report(there, out, title, pictures=pictures, reload_s=every)
                say(f"{page}: waiting for {', '.join(map(str, waiting))}")
            elif now != last:
                say(f"waiting for {', '.join(map(str, waiting))} to begin")
            last = now
            sleep(every)
    finally:  # also on Ctrl-C: a page that nobody writes any more must not go on loading itself
        there = [folder for folder in folders if signature([folder])]
        if there:
            try:
                page = report(there, out, title, pictures=pictures)
            except Exception:
                settle(page)
                raise
    return page


def settle(page: Path) -> None:
    """Take the script and the note that it is still written out of a page, when a new one cannot be made: the old one stays."""
    try:
        text = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for part in LIVE:
        text = part.sub("", text)
    write_text(page, text)


def done(folder: Path) -> bool:
    """Whether nothing more is to come from this run, as far as its files say."""
    from tima.results import read_result

    results = [path for path in (folder / "results").glob("*.json") if not path.name.startswith(".")]
    trained = (folder / "summary.json").is_file()
    begun = trained or (bool(results) and not (folder / "recipe.yaml").is_file())
    return begun and all(read_result(path).complete for path in results)


def signature(folders: Sequence[Path]) -> Signature:
    """Changes whenever a file that the report reads does: path, time and size of each."""
    found = []
    for path in sorted(path for folder in folders for pattern in FILES for path in folder.glob(pattern)):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue  # replaced just now; the next look sees the new one
        found.append((str(path), state.st_mtime_ns, state.st_size))
    return tuple(found)
