"""How long `tima --help` takes, and what it loads: the figures of docs/install.md.

    python tools/measure_start.py            # prints them
    python tools/measure_start.py --write    # and puts them into docs/install.md

Processor time (user and system) of a fresh process, the median of several: on a machine that does other work, wall time
measures that work. The first start of a day also waits for the disk.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "install.md"
HEAVY = ("torch", "transformers", "numpy", "pydantic", "matplotlib")
BEGIN, END = "<!-- start: made by tools/measure_start.py; do not edit by hand -->", "<!-- end of start -->"


def processor_s(*command: str) -> float:
    """User and system seconds of one run of a command."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def loaded(statement: str) -> list[str]:
    """Which of the heavy modules are loaded after it."""
    code = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def text(runs: int) -> str:
    """The paragraph with its figures."""
    bare = statistics.median(processor_s(sys.executable, "-c", "pass") for _ in range(runs))
    both = statistics.median(processor_s(sys.executable, "-m", "tima", "--help") for _ in range(runs))
    heavy = loaded("import tima.cli")
    return (
        f"`tima --help` takes {both:.2f} s of processor time, of which {bare:.2f} s are Python itself "
        f"(median of {runs} starts, Python {platform.python_version()}, {platform.system()} {platform.machine()}). "
        f"Loaded by then, of {', '.join(HEAVY)}: {', '.join(heavy) or 'none'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = text(args.runs)
    print(found)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        page = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", f"{BEGIN}\n{found}\n{END}", page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
