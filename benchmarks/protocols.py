"""The same weights under the three protocols, as a user would: `tima evaluate` three times, `tima report --compare-protocols`.

    python benchmarks/protocols.py --model runs/demo/tima --about "the demo's TIMA model" --samples 48
    python benchmarks/protocols.py --page-only          # the page from the results that are there

The shipped protocols with fewer images, the same ones under all three: nothing else differs, and the name says how many
(`standard-48`). What was measured is kept in benchmarks/results/protocols; the table goes into docs/evaluation.md between its
markers. A run that was stopped goes on.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tima.protocols import load_protocol
from tima.results import Result, load_results, write_result

HERE = Path(__file__).parent
PAGE, KEPT = HERE.parent / "docs" / "evaluation.md", HERE / "results" / "protocols"
NAMES = ("tecoa-pgd", "fare-aa", "standard")  # the quick ones first
BEGIN, END = "<!-- made by benchmarks/protocols.py: begin -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/tima")
    parser.add_argument("--about", default="", help="what the model is, for tables and page; by default --model")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("runs/protocols"), help="where protocols and unfinished results go")
    parser.add_argument("--kept", type=Path, default=KEPT, help="a run folder: its results make the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            file = small_protocol(name, options.samples, options.out)
            words = ("--model", options.model, "--data", options.data, "--protocol", file, "--out", options.out, "--quiet")
            tima("evaluate", *words, "--gallery", 0)
        keep(options.out, options.kept, options.about or options.model)
    table = options.out / "protocols.md"
    tima("report", "--compare-protocols", options.kept, "--format", "markdown", "--out", table)
    write(options.page, text(load_results(options.kept), table.read_text(encoding="utf-8")))


def small_protocol(name: str, samples: int, folder: Path) -> Path:
    """The shipped protocol with fewer images, under a name of its own."""
    import yaml

    shipped = load_protocol(name)
    content = {**shipped.content(), "name": f"{name}-{samples}", "samples": samples}
    file = folder / f"{name}-{samples}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def keep(out: Path, kept: Path, about: str) -> None:
    """The finished records, without the outcomes of single images, in place of those that were there."""
    found = load_results(out)
    shutil.rmtree(kept / "results", ignore_errors=True)
    for result in found:
        result.model = about
        write_result(kept / "results" / f"{result.dataset}.{result.protocol['name']}.json", result)


def tima(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "tima", *map(str, words)], check=True)


def text(results: list[Result], table: str) -> str:
    """What stands between the markers."""
    minutes = ", ".join(f"{r.dataset} under {r.protocol['name']} {r.wall_time_s / 60:.1f} min" for r in results)
    grids = ", ".join(f"{r.grid} px under {r.protocol['name']}" for r in results)
    there = results[0].machine or {}
    same = "the same under every protocol" if len({(r.dataset, r.seed, r.n) for r in results}) == 1 else "not always the same"
    lines = [
        f"Measured: {results[0].model}, {results[0].n} images, {same} ({minutes}; {there.get('cpu')}, "
        f"{there.get('threads')} thread(s), torch {results[0].versions['torch']}). Eps applies to a grid of {grids}.",
        "",
        # a page's headings are its own
        "\n".join(f"**{line.lstrip('# ')}**" if line.startswith("#") else line for line in table.strip().splitlines()),
    ]
    return "\n".join(lines)


def write(page: Path, content: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
