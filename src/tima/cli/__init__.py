"""The command line. Parsing and printing only; torch is imported when a command runs, not before."""

import sys

import typer

from tima.cli import attack, bench, data, demo, evaluate, export, lists, plan, predict, probe, report, serve, study, train
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


def main() -> None:
    """Entry point: errors that have a message for the user end without a traceback, exit status 1."""
    from tima.cli.common import stderr

    try:
        app()
    except SystemExit as end:  # how typer ends
        if not end.code:
            _leave_processes()
        raise
    except TimaError as error:
        stderr().print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        stderr().print("\nstopped. What was written so far is whole; the same command goes on from there.")
        sys.exit(130)


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
