"""Make `.venv` and install tima into it with known-good versions. Standard library only; safe to run again.

    python3 tools/setup_env.py                 # what `make setup` does
    python3 tools/setup_env.py --torch-index https://download.pytorch.org/whl/cpu

Which PyTorch: with an NVIDIA driver on the machine, the package index's default build (CUDA on Linux). Without one, the
CPU build of the same version, `torch==X+cpu`, if the index offers it, else the default build, which also runs on a CPU.
PyTorch is installed before anything that depends on it, so that no other package chooses a build for us.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch-index", default=os.environ.get("TORCH_INDEX", ""), help="package index to take PyTorch from")
    args = parser.parse_args()
    if sys.version_info < OLDEST:
        print(f"tima needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    stamp = args.venv / "tima-setup.sha256"
    wanted = fingerprint()
    python = args.venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return 0
    if not python.exists():
        print(f"creating {args.venv}")
        venv.create(args.venv, with_pip=True, clear=args.venv.exists())
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    install_torch(pip, args.torch_index)
    print("installing tima and what it needs")
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[dev]"], check=True)
    stamp.write_text(wanted)
    return 0


def install_torch(pip: list[str], index: str) -> None:
    version = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None, "constraints.txt pins no torch"
    pin = f"torch=={version[1]}"
    where = ["--index-url", index] if index else []
    choices = [pin] if has_nvidia() else [f"{pin}+cpu", pin]
    for choice in choices:
        print(f"installing {choice}")
        last = choice == choices[-1]
        quiet = None if last else subprocess.DEVNULL
        if subprocess.run([*pip, *where, choice], stderr=quiet, stdout=quiet).returncode == 0:
            return
        if last:
            raise SystemExit(f"{choice} could not be installed from the package index; see the message above.")
        print(f"the package index offers no {choice}; taking its default build")


def has_nvidia() -> bool:
    """Whether a driver answers; `nvidia-smi` alone may be there without a card."""
    smi = shutil.which("nvidia-smi")
    return bool(smi) and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


def fingerprint() -> str:
    digest = hashlib.sha256()
    for name in ("constraints.txt", "pyproject.toml", "tools/setup_env.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"setup failed: {' '.join(map(str, error.cmd[:6]))} ... ended with status {error.returncode}")
