"""Requests that were made to break the server: crafted pictures, other sites' pages, strangers' host names."""

import asyncio
import io
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import CLASSES, client_of, make_app, picture, post, save_models

from tima.serve import Limits, Settings, create_app
from tima.serve.connections import PatientH11
from tima.serve.jobs import together
from tima.serve.pictures import MOST_PROFILES, MOST_SCANS, check_picture
from tima.serve.problems import Problem


@pytest.fixture(scope="module")
def models(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_models(tokenizer, tmp_path_factory.mktemp("served"))


def ask(app: Any, work: Any) -> Any:
    async def run() -> Any:
        async with client_of(app) as client:
            return await work(client)

    return asyncio.run(run())


def with_profiles(count: int) -> bytes:
    """A PNG with so many colour profiles of 900 kB, which are a kilobyte each when packed."""
    data = picture("PNG")
    content = b"iCCP" + b"a\0\0" + zlib.compress(bytes(900_000), 9)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return data[:33] + chunk * count + data[33:]  # 8 bytes of signature, 25 of IHDR


def with_scans(count: int) -> bytes:
    data = picture("JPEG")
    return data[:-2] + data[data.index(b"\xff\xda") : -2] * (count - 1) + data[-2:]


def test_files_that_unpack_again_and_again_are_refused_at_once() -> None:
    assert check_picture(with_profiles(1), Limits()).format == "PNG"
    assert check_picture(with_scans(4), Limits()).format == "JPEG"
    for data, what in ((with_profiles(MOST_PROFILES + 1), "colour profiles"), (with_scans(MOST_SCANS + 1), "scans")):
        with pytest.raises(Problem, match=what) as error:
            check_picture(data, Limits())
        assert error.value.status == 422
    started = time.perf_counter()
    with pytest.raises(Problem, match="7,000 colour profiles"):
        check_picture(with_profiles(7000), Limits())  # read in full it would take most of a minute
    assert time.perf_counter() - started < 2


def test_many_scans_of_a_real_progressive_picture_pass() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture("PNG", (300, 200)))).save(buffer, "JPEG", progressive=True)
    assert buffer.getvalue().count(b"\xff\xda") > 5 and check_picture(buffer.getvalue(), Limits()).width == 300


def test_headers_are_read_beside_the_event_loop(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []

    def slow(data: bytes, limits: Limits) -> Any:
        where.append(threading.current_thread().name)
        return check_picture(data, limits)

    monkeypatch.setattr("tima.serve.service.check_picture", slow)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await post(client, path, picture(), classes=CLASSES) for path in ("/v1/classify", "/v1/attack")]

    assert [answer.status_code for answer in ask(make_app(models, steps=2), work)] == [200, 200]
    assert len(where) == 2 and all(name.startswith("tima-decode") for name in where)


def test_what_fails_ends_what_was_begun_beside_it() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def bad() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("bad")

    async def run() -> None:
        with pytest.raises(ValueError, match="bad"):
            await together(long(), bad())
        await asyncio.sleep(0)
        assert ended == ["cancelled"]
        assert await together(asyncio.sleep(0, 1), asyncio.sleep(0, 2)) == [1, 2]

    asyncio.run(run())


SENT = {
    "a command": ({}, 200),
    "the page": ({"sec-fetch-site": "same-origin", "origin": "http://test"}, 200),
    "the page behind a proxy with a name of its own": ({"sec-fetch-site": "same-origin", "origin": "https://other"}, 200),
    "the page, over plain http": ({"origin": "http://test"}, 200),
    "another site": ({"sec-fetch-site": "cross-site"}, 403),
    "another port of this machine": ({"sec-fetch-site": "same-site", "origin": "http://test:3000"}, 403),
    "another site, over plain http": ({"origin": "http://other"}, 403),
    "a page in a sandbox": ({"origin": "null"}, 403),
}


def test_only_this_page_and_commands_may_ask_for_work(models: list[str]) -> None:
    async def work(client: httpx.AsyncClient) -> dict[str, int]:
        return {
            name: (await client.post("/v1/texts", json={"classes": CLASSES}, headers=headers)).status_code
            for name, (headers, _) in SENT.items()
        }

    assert ask(make_app(models), work) == {name: status for name, (_, status) in SENT.items()}


def test_requests_for_a_strangers_name_are_refused(models: list[str]) -> None:
    app = create_app(Settings(models=models[:1], names=("localhost", "Tima.example"), samples=False))
    hosts = {
        "localhost": 200, "LOCALHOST:8000": 200, "localhost.": 200, "127.0.0.1:8000": 200, "[::1]:8000": 200,
        "192.168.1.7": 200, "tima.example": 200, "evil.example:8000": 421, "localhost.evil.example": 421, "[evil": 421,
    }  # fmt: skip

    async def work(client: httpx.AsyncClient) -> dict[str, int]:
        return {host: (await client.get("/healthz", headers={"host": host})).status_code for host in hosts}

    assert ask(app, work) == hosts


def test_a_length_said_twice_ends_the_connection(models: list[str]) -> None:
    async def work(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"content-type": "application/json", "content-length": "2", "transfer-encoding": "chunked"}
        return await client.post("/v1/texts", content=b"{}", headers=headers)

    answer = ask(make_app(models), work)
    assert answer.status_code == 400 and answer.json()["where"] == "the headers" and answer.headers["connection"] == "close"


def test_answers_stay_short_whatever_was_sent(models: list[str]) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        as_json = {"content-type": "application/json"}
        half = b'{"classes": ["a"], "\\ud800": 1}'
        long = b'{"classes": ["a"], "image": "", "eps": "%s"}' % (b"9x" * 500_000)
        return [
            await client.post("/v1/texts", content=half, headers=as_json),
            await client.post("/v1/attack", content=long, headers=as_json),
        ]

    for answer in ask(make_app(models), work):
        assert answer.status_code == 422 and len(answer.content) < 100_000, answer.text[:300]


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tima.serve import pictures

    inside, most = [0], [0]

    def decode(*arguments: Any, **options: Any) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    monkeypatch.setattr(pictures, "decode", decode)
    for width, expected in ((4000, 1), (100, 3)):
        most[0] = 0
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: pictures.to_grid(pictures.Picture(b"", "PNG", width, 3000), 8), range(3)))  # noqa: B023
        assert most[0] == expected


def test_the_command_takes_names(tokenizer: Any, models: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import uvicorn
    from typer.testing import CliRunner

    import tima.serve
    from tima.cli import app

    seen: list[Any] = []
    protocols: list[Any] = []

    def create(settings: Settings) -> Any:
        seen.append(settings.names)
        return create_app(settings)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tima.serve, "create_app", create)
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: protocols.append(options["http"]))
    for words in ([], ["--name", "a.example"], ["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--name", "localhost"]):
        assert CliRunner().invoke(app, ["serve", "--model", models[0], *words], catch_exceptions=False).exit_code == 0
    assert [None if names is None else set(names) for names in seen] == [
        {"localhost", "127.0.0.1"}, {"localhost", "127.0.0.1", "a.example"}, None, {"localhost", "0.0.0.0"},
    ]  # fmt: skip
    assert set(protocols) == {PatientH11}


def test_who_never_finishes_a_head_is_let_go() -> None:
    import asyncio

    import uvicorn

    class Short(PatientH11):
        head_seconds = 0.4

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.8)  # work may take longer than a head
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def closed(port: int, *parts: bytes) -> tuple[float, bytes]:
        """Seconds until the server hangs up, and all that it said; the last part goes on a letter at a time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begun, said = asyncio.get_running_loop().time(), b""
        for part in parts[:-1]:
            writer.write(part)
            said += await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        begun = asyncio.get_running_loop().time()
        for letter in parts[-1]:
            writer.write(bytes([letter]))
            await asyncio.sleep(0.02)
        said += await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return asyncio.get_running_loop().time() - begun, said

    async def talk() -> list[tuple[float, bytes]]:
        config = uvicorn.Config(answer, port=0, http=Short, log_level="error", lifespan="off", timeout_keep_alive=3)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        whole, half = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT"
        found = await asyncio.gather(closed(port, b""), closed(port, half), closed(port, whole, half))
        server.should_exit = True
        await task
        return list(found)

    silent, slow, again = asyncio.run(talk())
    for seconds, _ in (silent, slow, again):
        assert 0.3 < seconds < 2
    assert silent[1] == slow[1] == b"" and again[1].endswith(b"ok"), "work is not cut off"
