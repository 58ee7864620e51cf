"""Installing and starting: nothing heavy at the start, completion, and a wheel that holds what the commands need."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tima"
sys.path.insert(0, str(ROOT / "tools"))
import measure_start  # noqa: E402


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_nothing_heavy_is_loaded_before_a_command_runs() -> None:
    code = (
        "import sys, tima, tima.cli\n"
        "from typer.main import get_command\n"
        "names = list(get_command(tima.cli.app).commands)\n"
        "assert 'train' in names and 'report' in names, names\n"
        "print(*[m for m in ('torch', 'transformers', 'numpy', 'scipy', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    assert python(code).split() == []


def test_help_of_the_whole_and_of_each_command_loads_no_torch() -> None:
    code = (
        "import sys, io, contextlib\nfrom typer.testing import CliRunner\nfrom typer.main import get_command\n"
        "from tima.cli import app\n"
        "for name in ['', *get_command(app).commands]:\n"
        "    result = CliRunner().invoke(app, [*name.split(), '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.output, name\n"
        "    assert 'torch' not in sys.modules, f'tima {name} --help loads torch'\n"
        "print('all')"
    )
    assert python(code).strip() == "all"


def test_help_takes_less_than_a_second() -> None:
    """Of processor time, the best of three: a machine that does other work makes the clock on the wall say more."""
    best = min(measure_start.processor_s(sys.executable, "-m", "tima", "--help") for _ in range(3))
    assert best < 1.0, f"tima --help takes {best:.2f} s"


def test_completion_answers_as_the_shell_asks() -> None:
    def ask(words: str) -> list[str]:
        cursor = str(len(words.split(" ")) - 1)
        env = {**os.environ, "_TIMA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": cursor}
        command = [sys.executable, "-c", "import sys; sys.argv[0] = 'tima'; from tima.cli import app; app(prog_name='tima')"]
        return subprocess.run(command, env=env, capture_output=True, text=True).stdout.split()

    assert ask("tima ev") == ["evaluate"]
    assert "--compare-protocols" in ask("tima report --com")
    assert {"train", "evaluate", "report"} <= set(ask("tima "))


def test_every_extra_is_on_the_install_page_and_the_other_way_round() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = set(re.findall(r"^\| `tima\[([\w-]+)\]`", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE))
    assert named == extras - {"peers", "browser"}, "those two serve the project's own benchmarks and tests"


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("tima-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tima/")}
    there = {f"tima/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert packed == there
    for kind in ("assets/nano/model.safetensors", "protocols/standard.yaml", "report/page.html.jinja", "report/reload.js"):
        assert f"tima/{kind}" in packed
    assert any(name.startswith("tima/recipes/") and name.endswith(".yaml") for name in packed)
