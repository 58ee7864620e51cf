"""Load test of `tima serve`: classifications at capacity and at twice the capacity, over localhost.

    python benchmarks/serve_load.py                       # starts a server of nano, measures, stores, writes the table
    python benchmarks/serve_load.py --table               # only the table in docs/serve.md, from the stored figures

Clients are closed loops: each sends its next request when the last one is answered, and waits as long as `Retry-After` says
when it is refused. "At capacity" are as many clients as the server lets in, so that nobody is refused; "at twice the capacity"
twice as many, of whom only 503 may be heard beside answers. Client and server share the machine's cores, as the record says.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "serve" / "load.json"
PAGE = ROOT / "docs" / "serve.md"
CLASSES = ["cat", "dog", "ship", "truck", "bird", "frog", "horse", "deer", "airplane", "automobile"]


def picture(seed: int) -> bytes:
    """A JPEG of 640 x 480, noise over a gradient: as large a file as a photo of that size."""
    from PIL import Image

    grain = np.random.default_rng(seed).normal(0, 12, (480, 640, 3))
    slope = np.linspace(40, 200, 640)[None, :, None]
    buffer = io.BytesIO()
    Image.fromarray(np.clip(slope + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)]


async def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` closed loops for `seconds`."""
    # encoded once: what is measured is the server, and the client takes its share of the same cores
    bodies = [httpx.Request("POST", url, files={"image": picture(n)}, data={"classes": ",".join(CLASSES)}) for n in range(8)]
    for body in bodies:
        body.read()
    times: list[float] = []
    refusals: list[float] = []
    codes: Counter[str] = Counter()
    without_header = 0
    ends = 0.0

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal without_header
        turn = number
        while time.perf_counter() < ends:
            turn += 1
            began = time.perf_counter()
            try:
                body = bodies[turn % len(bodies)]
                kind = {"content-type": body.headers["content-type"]}
                answer = await http.post(f"{url}/v1/classify", content=body.content, headers=kind)
            except httpx.HTTPError as error:
                codes[type(error).__name__] += 1
                continue
            codes[str(answer.status_code)] += 1
            took = time.perf_counter() - began
            if answer.status_code == 200:
                times.append(took)
            elif answer.status_code == 503:
                refusals.append(took)
                without_header += "retry-after" not in answer.headers
                # a little later than asked, each at another moment, as clients should
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)) * (1 + number % 8 / 8))

    # one connection for each: a pool shared by all hands out connections late, which would be counted as the server's time
    async with AsyncExitStack() as stack:
        https = [await stack.enter_async_context(httpx.AsyncClient(timeout=60, verify=False)) for _ in range(clients)]
        started = time.perf_counter()
        ends = started + seconds
        await asyncio.gather(*(client(number, http) for number, http in enumerate(https)))
    passed = time.perf_counter() - started
    if not times:
        raise SystemExit(f"The server answered nothing: {dict(codes)}")
    return {
        "clients": clients,
        "seconds": round(passed, 2),
        "answered": len(times),
        "requests_per_s": round(len(times) / passed, 2),
        "p50_ms": round(1000 * percentile(times, 0.5), 1),
        "p99_ms": round(1000 * percentile(times, 0.99), 1),
        "refused_p50_ms": round(1000 * percentile(refusals, 0.5), 1) if refusals else None,
        "refused_without_retry_after": without_header,
        "status": dict(codes),
    }


def start_server(model: str, room: int) -> tuple[subprocess.Popen[bytes], str]:
    """`tima serve` as users start it, on a free port, when it is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "tima", "serve", "--model", model, "--port", str(port), "--room", str(room)]
    server = subprocess.Popen(words, cwd=ROOT / "benchmarks", stdout=subprocess.DEVNULL)  # a folder without runs
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return server, url
        except httpx.HTTPError:
            if server.poll() is not None:
                break
        time.sleep(0.2)
    server.kill()
    raise SystemExit("The server did not start.")


def batches(url: str) -> dict[str, float]:
    """Forward passes and pictures in them so far."""
    values = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[0] != "#")
    return {name: float(values.get(f"tima_batch_pictures_{name}", 0)) for name in ("count", "sum")}


def measure(model: str, room: int, seconds: float) -> dict[str, Any]:
    import torch

    other_work = round(os.getloadavg()[0], 1)  # before this script adds its own
    server, url = start_server(model, room)
    try:
        asyncio.run(load(url, 2, 2))  # warm: imports, the cache of texts
        before = batches(url)
        rounds = {"at capacity": asyncio.run(load(url, room, seconds))}
        after = batches(url)
        rounds["at twice the capacity"] = asyncio.run(load(url, 2 * room, seconds))
        alive = httpx.get(f"{url}/healthz").status_code
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return {
        "model": model,
        "room": room,
        "classes": len(CLASSES),
        "picture": "JPEG, 640 x 480",
        "rounds": rounds,
        "pictures_per_batch": round((after["sum"] - before["sum"]) / max(1, after["count"] - before["count"]), 2),
        "healthy_afterwards": alive == 200,
        "exit_status": code,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": other_work,
        "torch": torch.__version__,
        "finished": f"{datetime.now(tz=UTC):%Y-%m-%d}",
    }


def verdicts(record: dict[str, Any]) -> list[str]:
    """What must hold and does not."""
    at, twice = record["rounds"]["at capacity"], record["rounds"]["at twice the capacity"]
    wrong = []
    if set(at["status"]) != {"200"}:
        wrong.append(f"at capacity not everything was answered: {at['status']}")
    if not set(twice["status"]) <= {"200", "503"} or twice["refused_without_retry_after"]:
        wrong.append(f"at twice the capacity there was more than 200 and 503 with Retry-After: {twice['status']}")
    if not record["healthy_afterwards"] or record["exit_status"] not in (0, -signal.SIGTERM):
        wrong.append("the server was not well afterwards")
    return wrong


def table(record: dict[str, Any]) -> str:
    """The part of docs/serve.md between its two marks."""
    lines = [
        "| | clients | answers/s | p50 ms | p99 ms | answered | 503 | other errors |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in record["rounds"].items():
        status = found["status"]
        other = sum(count for code, count in status.items() if code not in ("200", "503"))
        lines.append(
            f"| {name} | {found['clients']} | {found['requests_per_s']:.1f} | {found['p50_ms']:.0f} | {found['p99_ms']:.0f} "
            f"| {status.get('200', 0)} | {status.get('503', 0)} | {other} |"
        )
    twice = record["rounds"]["at twice the capacity"]
    refused = f" A refusal took {twice['refused_p50_ms']:.0f} ms in the median." if twice["refused_p50_ms"] is not None else ""
    lines += [
        "",
        f"`{record['model']}`, {record['classes']} classes, {record['picture']}, room for {record['room']}, "
        f"{record['pictures_per_batch']:.1f} pictures a forward pass at capacity.{refused} "
        f"{record['processor']}, {record['cores']} core(s) for clients and server together, a load average of "
        f"{record['load_average']} from other work, torch {record['torch']}, {record['finished']}.",
    ]
    return "\n".join(lines)


def write_table(record: dict[str, Any]) -> None:
    begin, end = "<!-- load: made by benchmarks/serve_load.py; do not edit by hand -->", "<!-- end of load -->"
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    PAGE.write_text(f"{head}{begin}\n{table(record)}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--room", type=int, default=16, help="the server's capacity")
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two rounds")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        record = measure(options.model, options.room, options.seconds)
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    print(table(record))
    write_table(record)
    if wrong := verdicts(record):
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
