"""`tima serve`: the page and the HTTP API on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import stderr, stdout
from tima.errors import TimaError

LOCAL = ("127.0.0.1", "localhost", "::1")


def add(app: typer.Typer) -> None:
    app.command("serve", help="Show models, attacks and stored runs on a page, and answer the same over HTTP.")(serve)


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Give it once a model: original (what the runs started from), a run, or any model name."
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder that holds run folders; by default runs, if it is there.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. There is no login: think before opening it to others.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name that it may be reached by, besides localhost and IP addresses, such as a proxy's. Any if --host "
            "opens it to others and no name is given."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    room: Annotated[int, typer.Option(min=1, help="Classifications inside at once; one more is answered 503.")] = 32,
    attack_room: Annotated[int, typer.Option(min=1, help="Attacks inside at once, of which one works.")] = 4,
    attack_seconds: Annotated[float, typer.Option(min=1, help="Time for one attack.")] = 60.0,
) -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise TimaError(
            f'`tima serve` needs packages that are not installed ({error.name}): pip install "tima[serve]"'
        ) from None

    from tima.serve import Limits, Settings, create_app
    from tima.serve.connections import PatientH11

    limits = Limits(classify_room=room, attack_room=attack_room, attack_seconds=attack_seconds)
    folder = runs if runs is not None else (Path("runs") if Path("runs").is_dir() else None)
    names = ("localhost", host, *(name or ())) if name or host in LOCAL else None
    app = create_app(Settings(models=model, runs=folder, limits=limits, names=names))
    service = app.state.service
    for line in service.left_out:
        stderr().print(f"left out: {line}", highlight=False, markup=False)
    titles = ", ".join(served.title for served in service.models.values())
    stdout().print(f"Models: {titles}. Runs: {len(service.runs.entries)}.", highlight=False, markup=False)
    if host not in LOCAL:
        stderr().print("Anybody who reaches this address can use it: there is no login.", highlight=False)
    stdout().print(f"Open [bold]http://{'localhost' if host in LOCAL else host}:{port}[/] · the API: /docs · Ctrl-C ends it")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        http=PatientH11,
        timeout_keep_alive=15,
        # a little longer than any work may take: who was let in gets an answer
        timeout_graceful_shutdown=int(max(limits.attack_seconds, limits.classify_seconds)) + 5,
    )
