"""A plan in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: dict[str, Any], console: Console) -> None:
    """Time and cost, memory by its parts, what does not fit."""
    table = Table(box=None)
    for column in ("", "low", "likely", "high"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {"seconds a step": "seconds_per_step", "hours": "hours", "device hours": "device_hours", "cost": "cost"}
    for name, key in rows.items():
        if key in found:
            table.add_row(name, *(f"{found[key][level]:,.3g}" for level in ("low", "likely", "high")))
    console.print(table)
    console.print(
        f"{found['optimiser_steps']:,} optimiser steps, {found['images_per_s']:,.0f} images/s on {found['devices']} device(s)"
    )
    parts = list(next(iter(found["memory_gb"].values())))
    memory = Table(title="GB a device", title_justify="left", box=None)
    for column in ("", *parts, "sum"):
        memory.add_column(column, justify="left" if not column else "right")
    for how, values in found["memory_gb"].items():
        memory.add_row(how, *(f"{values[p]:.2f}" for p in parts), f"{sum(values.values()):.2f}")
    console.print(memory)
    console.print(f"With checkpointing a step takes {found['checkpointing_times']:.2f} times as long.")
    for line in found["warnings"]:
        console.print(f"[bold yellow]does not fit:[/] {line}", highlight=False)
