"""The command line. Parsing and printing only; torch is imported when a command runs, not before."""

import errno
import sys
from typing import NoReturn

import typer

from tima.cli import attack, bench, data, demo, evaluate, export, lists, plan, predict, probe, report, serve, study, train
from tima.cli.common import stderr
from tima.errors import TimaError

app = typer.Typer(
    name="tima",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Robust zero-shot classifiers from CLIP: fine-tune against adversarial pictures, measure what holds, and show it.\n\n"
        "eps is the largest change of a pixel, in units of the range [0, 1]: write [bold]4/255[/] or 0.0157.\n\n"
        "[bold]tima demo[/] does everything once in under ten minutes and leaves a report in runs/demo."
    ),
)
train.add(app)
evaluate.add(app)
report.add(app)
study.add(app)
predict.add(app)
attack.add(app)
probe.add(app)
export.add(app)
demo.add(app)
serve.add(app)
data.add(app)
bench.add(app)
plan.add(app)
lists.add(app)


# what a disk answers that no command has put into words, and what to do about it
DISK = {
    errno.ENOSPC: "Make room, or choose a folder on another disk.",
    errno.EDQUOT: "Make room, or choose a folder on another disk.",
    errno.EACCES: "Choose a folder that you may read and write.",
    errno.EPERM: "Choose a folder that you may read and write.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EEXIST: "A file stands where a folder is needed: choose another name.",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another name.",
    errno.EISDIR: "A folder stands where a file is needed: choose another name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def main() -> None:
    """Entry point: errors that have a message for the user end without a traceback, exit status 1."""
    try:
        app()
    except SystemExit as end:  # how typer ends
        if not end.code:
            _leave_processes()
        raise
    except TimaError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in DISK:
            raise
        _end(f"{error.strerror}{f': {error.filename}' if error.filename else ''}. {DISK[error.errno]}")
    except KeyboardInterrupt:
        stderr().print("\nstopped. What was written so far is whole; the same command goes on from there.")
        sys.exit(130)


def _end(message: str) -> NoReturn:
    stderr().print(f"[bold red]error:[/] {_plain(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


def _leave_processes() -> None:
    """Several processes part before Python ends: gloo's threads, still running then, now and then abort a run that is done.

    Only after success: others may wait for one that failed, and parting from them would wait too. The launcher ends those.
    """
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
