"""Put the demo's tables into README.md (AutoAttack) and docs/demo.md (PGD, which `make demo` runs), from files in docs/demo.

    tima demo
    tima evaluate --model runs/demo/tima --data pictures,zero-shot --protocol demo-autoattack   # and tecoa, and nano:
    tima evaluate --model nano --data pictures,zero-shot --protocol demo-autoattack --out runs/demo/original
    python tools/update_readme.py --from runs/demo                  # copies the new results, then writes the table
    python tools/update_readme.py                                   # writes the table from what is stored

Only result JSONs, summaries, metrics and recipes are stored: no figure in the README is typed by hand.
"""

import argparse
import shutil
from pathlib import Path

from tima.report import markdown_table
from tima.results import read_result

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "docs" / "demo"
RUNS = ("original", "tecoa", "tima")
PAGES = {"README.md": "demo-autoattack", "docs/demo.md": "demo"}  # page: protocol of its table
BEGIN, END = "<!-- results:", "<!-- end of results -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="folder of a finished demo")
    parser.add_argument("--protocols", default="demo,demo-autoattack", help="results of these protocols are stored")
    args = parser.parse_args()
    if args.source:
        store(args.source, args.protocols.split(","))
    for name, protocol in PAGES.items():
        page = ROOT / name
        page.write_text(with_table(page.read_text(encoding="utf-8"), protocol), encoding="utf-8")


def store(source: Path, protocols: list[str]) -> None:
    """Copy what the table needs. A data set that is not complete for every run under a protocol is left out of it."""
    found = [[f.name for f in source.glob(f"{run}/results/*.json") if read_result(f).complete] for run in RUNS]
    wanted = [n for n in found[0] if all(n in names for names in found) and n.split(".")[-2] in protocols]
    for run in RUNS:
        target = STORED / run
        shutil.rmtree(target, ignore_errors=True)
        (target / "results").mkdir(parents=True)
        for file in [*source.glob(f"{run}/*.json"), *source.glob(f"{run}/*.jsonl"), *source.glob(f"{run}/recipe.yaml")]:
            shutil.copy(file, target / file.name)
        for name in wanted:
            shutil.copy(source / run / "results" / name, target / "results" / name)


def with_table(page: str, protocol: str) -> str:
    """`page` with the protocol's table between the two comments made anew."""
    head, _, rest = page.partition(BEGIN)
    comment, _, rest = rest.partition("\n")
    _, _, tail = rest.partition(END)
    table = markdown_table([STORED / run for run in RUNS], protocol)
    return f"{head}{BEGIN}{comment}\n{table}\n{END}{tail}"


if __name__ == "__main__":
    main()
