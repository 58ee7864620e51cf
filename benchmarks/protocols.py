"""The same weights under the three protocols, as a user would: `tima evaluate` three times, `tima report --compare-protocols`.

    python benchmarks/protocols.py --model runs/demo/tima --samples 64
    python benchmarks/protocols.py --stored docs/demo/tima --data cifar10,groceries     # results that are there already

The shipped protocols with fewer images: nothing else differs, and the name says how many (`standard-64`). The table goes into
docs/evaluation.md between its markers.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tima.protocols import load_protocol
from tima.results import load_results

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
NAMES = ("standard", "fare-aa", "tecoa-pgd")
BEGIN, END = "<!-- made by benchmarks/protocols.py: begin -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/tima")
    parser.add_argument("--about", default="", help="what the model is, for the page")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--stored", type=Path, help="a run folder: evaluate nothing, compare what it holds of --data")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/protocols"), help="where protocols and results go")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in () if options.stored else NAMES:
        file = small_protocol(name, options.samples, options.out)
        tima("evaluate", "--model", options.model, "--data", options.data, "--protocol", file, "--out", options.out, "--quiet")
    if options.stored:
        copy(options.stored, options.data.split(","), options.out)
    table = options.out / "protocols.md"
    tima("report", "--compare-protocols", options.out, "--format", "markdown", "--out", table)
    write(options.page, text(options, table.read_text(encoding="utf-8")))


def small_protocol(name: str, samples: int, folder: Path) -> Path:
    """The shipped protocol with fewer images, under a name of its own."""
    import yaml

    shipped = load_protocol(name)
    content = {**shipped.content(), "name": f"{name}-{samples}", "samples": samples}
    file = folder / f"{name}-{samples}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def copy(run: Path, names: list[str], out: Path) -> None:
    """The results of some data sets."""
    shutil.rmtree(out / "results", ignore_errors=True)
    (out / "results").mkdir(parents=True)
    for file in (run / "results").glob("*"):
        if file.name.split(".")[0] in names:
            shutil.copy2(file, out / "results")


def tima(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "tima", *map(str, words)], check=True)


def text(options: argparse.Namespace, table: str) -> str:
    """What stands between the markers."""
    results = load_results(options.out)
    minutes = ", ".join(f"{r.dataset} under {r.protocol['name']}: {r.n} images, {r.wall_time_s / 60:.1f} min" for r in results)
    there = results[0].machine or {}
    lines = [
        f"Measured: {options.about or options.model} ({minutes}; {there.get('cpu')}, {there.get('threads')} thread(s), "
        f"torch {results[0].versions['torch']}).",
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
