"""The HTTP API: answers equal to those of the library, limits, refusals, and what happens when it is too much."""

import asyncio
import base64
import io
import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the extra tima[serve] is not installed")

from serving import CLASSES, client_of, make_app, picture, post, save_models

from tima.attacks import pgd
from tima.data import decode
from tima.models import ZeroShotClassifier, load_model
from tima.serve.guard import HEADERS

Work = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture(scope="module")
def models(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_models(tokenizer, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def app(models: list[str]) -> Any:
    return make_app(models, body_bytes=4 << 20, classes=8, name_length=30, steps=12, pixels=1_000_000)


def ask(app: Any, work: Work) -> Any:
    async def run() -> Any:
        async with client_of(app) as client:
            return await work(client)

    return asyncio.run(run())


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


def grid(image: bytes) -> torch.Tensor:
    return decode(image, 16)[None].float() / 255


# the answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_classify_answers_as_the_library_does(app: Any, models: list[str], kind: str) -> None:
    image, templates = picture(kind), ["a photo of a {c}.", "a picture of the {c}"]

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        values = {"image": base64.b64encode(image).decode(), "classes": CLASSES, "templates": templates}
        return [
            await post(client, "/v1/classify", image, classes=CLASSES, templates=templates),
            await client.post("/v1/classify", json=values),
            await client.post("/v1/classify", json=values | {"models": ["second"]}),
        ]

    form, as_json, one = ask(app, work)
    assert form.status_code == 200, form.text
    assert form.json()["results"] == as_json.json()["results"]
    assert [r["model"] for r in form.json()["results"]] == ["first", "second"]
    assert [r["model"] for r in one.json()["results"]] == ["second"]
    assert form.json()["picture"] == {"format": kind, "width": 20, "height": 16}
    for name, found in zip(models, form.json()["results"], strict=True):
        expected_C = ZeroShotClassifier(load_model(name), CLASSES, templates)(grid(image)).softmax(-1)[0]
        np.testing.assert_allclose(found["probabilities"], expected_C.detach().numpy(), atol=2e-6)
        assert found["answer"] == CLASSES[int(expected_C.argmax())]


def test_a_photo_is_turned_upright(app: Any) -> None:
    image = Image.open(io.BytesIO(picture(size=(20, 20))))
    turned, plain = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was held upside down
    image.rotate(180).save(turned, "PNG", exif=exif)
    image.save(plain, "PNG")

    async def work(client: httpx.AsyncClient) -> list[Any]:
        return [(await post(client, "/v1/classify", i.getvalue(), classes=CLASSES)).json()["results"] for i in (turned, plain)]

    first, second = ask(app, work)
    assert first == second


def test_the_attack_is_pgd_and_judged_as_it_is_stored(app: Any, models: list[str]) -> None:
    image = picture()

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await post(client, "/v1/attack", image, classes=CLASSES, eps="8/255", steps=7, models="first")

    answer = ask(app, work)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["results"]
    classifier = ZeroShotClassifier(load_model(models[0]), CLASSES).requires_grad_(False)
    clean_C = classifier(grid(image)).softmax(-1)[0]
    label = clean_C.argmax()[None]
    adv = pgd(classifier, grid(image), label, 8 / 255, steps=7, random_start=False)
    clean, after = pixels_of(found["images"]["clean"]), pixels_of(found["images"]["adversarial"])
    assert np.abs(after - clean).max() == found["largest_change"] == 8
    assert (clean == decode(image, 16).permute(1, 2, 0).numpy()).all()
    assert np.abs(after - (adv[0] * 255).permute(1, 2, 0).numpy()).max() <= 1  # rounded to 8 bits inside eps
    expected_C = classifier(torch.tensor(after).permute(2, 0, 1)[None].float() / 255).softmax(-1)[0]
    np.testing.assert_allclose(found["adversarial"]["probabilities"], expected_C.numpy(), atol=2e-6)
    assert found["label"] == found["clean"]["answer"] == CLASSES[int(label)]
    assert found["succeeded"] == (found["adversarial"]["answer"] != found["label"])
    # grey is no change, and eps fills the range
    delta = (after - clean) / (2 * 8) * 255 + 127.5
    assert np.abs(pixels_of(found["images"]["perturbation"]) - delta).max() <= 0.51
    trace = np.asarray(found["trace"]["probabilities"])
    assert trace.shape == (8, 4)
    order = [CLASSES.index(name) for name in found["trace"]["classes"]]
    np.testing.assert_allclose(trace[0], clean_C.numpy()[order], atol=1e-5)  # the start is the picture itself
    true = found["trace"]["classes"].index(found["label"])
    assert found["trace"]["kept_step"] == trace[:, true].argmin()  # highest cross-entropy is lowest share


def test_targets_labels_and_random_starts(app: Any) -> None:
    async def work(client: httpx.AsyncClient) -> list[Any]:
        common = {"classes": CLASSES, "eps": "32/255", "steps": 12, "models": "first"}
        asked: list[dict[str, Any]] = [
            {"target": "boat"},
            {"label": "tree"},
            {"random_start": "true", "seed": 1},
            {"random_start": "true", "seed": 1},
            {"random_start": "true", "seed": 2},
        ]
        answers = [await post(client, "/v1/attack", picture(), **common, **more) for more in asked]
        assert all(answer.status_code == 200 for answer in answers), answers[0].text
        return [answer.json() for answer in answers]

    targeted, labelled, once, again, other = ask(app, work)
    boat = CLASSES.index("boat")
    result = targeted["results"][0]
    assert (
        targeted["targeted"]
        and result["label"] == "boat"
        and result["succeeded"] == (result["adversarial"]["answer"] == "boat")
    )
    assert result["adversarial"]["probabilities"][boat] > result["clean"]["probabilities"][boat]
    tree = CLASSES.index("tree")
    result = labelled["results"][0]
    assert not labelled["targeted"] and result["label"] == "tree"
    assert result["adversarial"]["probabilities"][tree] < result["clean"]["probabilities"][tree]
    assert once["results"] == again["results"] and once["results"] != other["results"]


def test_texts_by_their_formulas(app: Any, models: list[str]) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.post("/v1/texts", json={"classes": CLASSES}),
            await client.post("/v1/texts", json={"classes": ["cat"], "models": ["first"]}),
        ]

    answer, single = ask(app, work)
    found = answer.json()
    assert found["same_plane"] and 0 < found["explained"] <= 1
    for name, result in zip(models, found["results"], strict=True):
        t = ZeroShotClassifier(load_model(name), CLASSES).text_CD.double().numpy()
        pairs = [(j, k) for j in range(4) for k in range(4) if j < k]
        assert result["mean_cosine"] == pytest.approx(np.mean([t[j] @ t[k] for j, k in pairs]), abs=1e-6)
        energy = np.mean([1 / (1 + ((t[j] - t[k]) ** 2).sum()) for j, k in pairs])
        assert result["energy"] == pytest.approx(energy, abs=1e-5)
        for c, point in enumerate(result["points"]):
            near = max((float(t[c] @ t[k]), k) for k in range(4) if k != c)
            assert (point["name"], point["nearest"]) == (CLASSES[c], CLASSES[near[1]])
            assert point["cosine"] == pytest.approx(near[0], abs=1e-6)
    lone = single.json()["results"][0]
    assert lone["mean_cosine"] is None and lone["points"][0]["nearest"] is None


def test_lists_health_and_documentation(app: Any) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        paths = ["/v1/models", "/v1/runs", "/healthz", "/openapi.json", "/docs", "/", "/static/main.js", "/favicon.ico"]
        return [await client.get(path) for path in paths]

    listed, runs, health, openapi, docs, page, script, icon = ask(app, work)
    assert [m["id"] for m in listed.json()["models"]] == ["first", "second"] and listed.json()["models"][0]["image_size"] == 16
    assert listed.json()["limits"]["steps"] == 12 and runs.json() == {"runs": [], "charts": []}
    assert health.json() == {"status": "ok", "models": ["first", "second"]}
    paths = openapi.json()["paths"]
    assert set(paths) >= {"/v1/classify", "/v1/attack", "/v1/models", "/v1/texts", "/v1/runs", "/healthz", "/metrics"}
    fields = paths["/v1/attack"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"image", "classes", "eps", "steps"} <= set(fields) and "503" in paths["/v1/classify"]["post"]["responses"]
    assert "/v1/attack" in docs.text and "random_start" in docs.text and "<script>" not in docs.text
    assert "the server is ending" in docs.text and "Validation Error" not in docs.text and "`" not in docs.text
    assert "text/html" in page.headers["content-type"] and "javascript" in script.headers["content-type"]
    assert icon.headers["content-type"].startswith("image/svg")


# refusals ----------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A valid PNG of 50,000 x 50,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


GOOD: dict[str, Any] = {"classes": CLASSES}
REFUSED: dict[str, tuple[str, dict[str, Any], bytes | None, int, str]] = {
    "gif": ("classify", GOOD, picture("GIF"), 415, "image"),
    "text": ("classify", GOOD, b"not a picture", 415, "image"),
    "only the signature": ("classify", GOOD, b"\x89PNG\r\n\x1a\n", 415, "image"),
    "cut off": ("classify", GOOD, picture("JPEG", (64, 64))[:700], 422, "image"),
    "empty file": ("classify", GOOD, b"", 422, "image"),
    "bomb": ("classify", GOOD, bomb(), 413, "image"),
    "many pixels": ("classify", GOOD, picture("JPEG", (1001, 1000)), 413, "image"),
    "no picture": ("classify", GOOD, None, 422, "image"),
    "no classes": ("classify", {}, picture(), 422, "classes"),
    "nine classes": ("classify", {"classes": [f"c{i}" for i in range(9)]}, picture(), 422, "classes"),
    "long name": ("classify", {"classes": ["a" * 31]}, picture(), 422, "classes.0"),
    "two alike": ("classify", {"classes": ["cat", "Cat "]}, picture(), 422, "the request"),
    "control sign": ("classify", {"classes": ["cat\x07"]}, picture(), 422, "classes.0"),
    "no place": ("classify", GOOD | {"templates": ["a photo"]}, picture(), 422, "the request"),
    "many templates": ("classify", GOOD | {"templates": ["{c}"] * 9}, picture(), 422, "templates"),
    "unknown model": ("classify", GOOD | {"models": "third"}, picture(), 404, "models"),
    "a path as model": ("classify", GOOD | {"models": "../../etc/passwd"}, picture(), 422, "models.0"),
    "unknown field": ("classify", GOOD | {"path": "/etc/passwd"}, picture(), 422, "path"),
    "many steps": ("attack", GOOD | {"steps": 13}, picture(), 422, "steps"),
    "no step": ("attack", GOOD | {"steps": 0}, picture(), 422, "steps"),
    "eps in levels": ("attack", GOOD | {"eps": 4}, picture(), 422, "eps"),
    "eps of nothing": ("attack", GOOD | {"eps": "0"}, picture(), 422, "eps"),
    "eps that is no number": ("attack", GOOD | {"eps": "nan"}, picture(), 422, "eps"),
    "large eps": ("attack", GOOD | {"eps": "33/255"}, picture(), 422, "eps"),
    "unknown target": ("attack", GOOD | {"target": "cow"}, picture(), 422, "target"),
    "unknown label": ("attack", GOOD | {"label": "cow"}, picture(), 422, "label"),
}


def check_problem(answer: httpx.Response, status: int, where: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "where", "do"} and body["status"] == status
    assert body["where"] == where and body["detail"] and body["do"]
    assert "Traceback" not in answer.text and "/src/" not in answer.text
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat, dog", ["cat", "dog"]),
        ("cat\ndog", ["cat", "dog"]),
        ("bow tie, bow-tie\r\ncat\r\n", ["bow tie, bow-tie", "cat"]),
        ("bow tie, bow-tie\n", ["bow tie, bow-tie"]),
    ],
)
def test_a_class_name_may_hold_a_comma(app: Any, text: str, classes: list[str]) -> None:
    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/classify", data={"classes": text}, files={"image": ("p", picture())})

    assert ask(app, work).json()["classes"] == classes


def test_what_cannot_be_meant_is_refused_with_the_reason(app: Any) -> None:
    async def work(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
        return {name: await post(client, f"/v1/{p}", image, **fields) for name, (p, fields, image, _, _) in REFUSED.items()}

    for name, answer in ask(app, work).items():
        try:
            check_problem(answer, *REFUSED[name][3:])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_bodies_addresses_and_methods_that_do_not_fit(app: Any) -> None:
    large = b"x" * ((4 << 20) + 1)

    async def pieces() -> Any:
        for start in range(0, len(large), 1 << 18):
            yield large[start : start + (1 << 18)]

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        as_json = {"content-type": "application/json"}
        return [
            await client.post("/v1/classify", content=large, headers=as_json),
            await client.post("/v1/classify", content=pieces(), headers=as_json),  # no Content-Length to go by
            await client.post("/v1/classify", content=b"{", headers=as_json),
            await client.post("/v1/classify", content=b"[1]", headers=as_json),
            await client.post("/v1/classify", content=b"[" * 100_000, headers=as_json),
            await client.post("/v1/classify", content=b"x", headers={"content-type": "text/plain"}),
            await client.post("/v1/classify", content=b"x", headers={"content-type": "multipart/form-data"}),
            await client.post("/v1/classify", json={"image": "%%%", "classes": CLASSES}),
            await client.post("/v1/classify", json=GOOD, headers={"sec-fetch-site": "cross-site"}),
            await client.get("/v1/classify"),
            await client.get("/nothing"),
            await client.get("/static/..%2fapp.py"),
            await client.get("/v1/runs/nothing/report"),
            await client.get("/v1/runs/..%2f..%2fetc/report"),
            await client.get("/v1/samples/A_B"),
        ]

    expected = [
        (413, "the body"), (413, "the body"), (400, "the body"), (400, "the body"), (400, "the body"),
        (415, "the header Content-Type"), (400, "the body"), (422, "image"), (403, "the header Sec-Fetch-Site"),
        (405, "the address"), (404, "the address"), (404, "the address"), (404, "the address"), (404, "the address"),
        (422, "path.key"),
    ]  # fmt: skip
    answers = ask(app, work)
    for answer, (status, where) in zip(answers, expected, strict=True):
        check_problem(answer, status, where)
    assert answers[0].headers["connection"] == "close"  # or the server would have to read what it refused


def test_an_error_of_ours_tells_strangers_nothing(app: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("secret place /home/me")

    monkeypatch.setattr("tima.serve.service.attack", fail)

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await post(client, "/v1/attack", picture(), **GOOD)

    answer = ask(app, work)
    check_problem(answer, 500, "the server")
    assert "secret" not in answer.text and "secret" in caplog.text


def test_a_model_that_answers_nan_is_an_error_and_no_answer(models: list[str]) -> None:
    app = make_app(models[:1])
    with torch.no_grad():
        next(iter(app.state.service.models["first"].encoder.image_parameters().values())).fill_(torch.nan)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await post(client, f"/v1/{path}", picture(), **GOOD) for path in ("classify", "attack")]

    for answer in ask(app, work):
        check_problem(answer, 500, "the server")


# too much at once --------------------------------------------------------------------------------------------------


def test_a_full_room_answers_503_and_lets_in_again(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.serve import service as module

    app, real, go = make_app(models[:1], attack_room=2), module.attack, threading.Event()

    def slow(*args: Any) -> Any:
        go.wait(20)
        return real(*args)

    monkeypatch.setattr(module, "attack", slow)

    async def work(client: httpx.AsyncClient) -> tuple[list[httpx.Response], httpx.Response, httpx.Response, str]:
        inside = [asyncio.create_task(post(client, "/v1/attack", picture(), **GOOD, steps=2)) for _ in range(2)]
        while app.state.service.rooms["attack"].inside < 2:
            await asyncio.sleep(0.01)
        refused = await post(client, "/v1/attack", picture(), **GOOD, steps=2)
        elsewhere = await post(client, "/v1/classify", picture(), **GOOD)  # one kind of work does not hold up another
        go.set()
        answers = await asyncio.gather(*inside)
        after = await post(client, "/v1/attack", picture(), **GOOD, steps=2)
        assert elsewhere.status_code == after.status_code == 200
        return answers, refused, after, (await client.get("/metrics")).text

    answers, refused, _, metrics = ask(app, work)
    assert [answer.status_code for answer in answers] == [200, 200]
    check_problem(refused, 503, "the queue of attack")
    assert int(refused.headers["retry-after"]) >= 1
    assert 'tima_refused_total{room="attack"} 1' in metrics and 'tima_inside{room="attack"} 0' in metrics


def test_twice_the_capacity_gets_answers_or_503(models: list[str]) -> None:
    app = make_app(models[:1], classify_room=6)

    async def work(client: httpx.AsyncClient) -> list[int]:
        asked = [post(client, "/v1/classify", picture(seed=i), **GOOD) for i in range(12)]
        return [answer.status_code for answer in await asyncio.gather(*asked)]

    codes = ask(app, work)
    assert set(codes) == {200, 503} and codes.count(200) >= 6


def test_an_attack_over_its_time_is_given_up_at_the_next_step(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.serve import attack as module

    app, steps = make_app(models[:1], attack_seconds=0.5), []

    class Slow(module.Recorder):
        def __call__(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            steps.append(time.monotonic())
            time.sleep(0.1)
            return super().__call__(image_BCHW)

    async def work(client: httpx.AsyncClient) -> tuple[httpx.Response, int, httpx.Response, str]:
        with monkeypatch.context() as patched:
            patched.setattr(module, "Recorder", Slow)
            late = await post(client, "/v1/attack", picture(), **GOOD, steps=50)
        await asyncio.sleep(0.3)
        made = len(steps)
        await asyncio.sleep(0.3)
        assert len(steps) == made  # nobody works on any more
        return late, made, await post(client, "/v1/attack", picture(), **GOOD, steps=2), (await client.get("/metrics")).text

    late, made, after, metrics = ask(app, work)
    check_problem(late, 504, "the work of attack")
    assert 3 <= made <= 7 and after.status_code == 200
    assert 'tima_abandoned_total{kind="attack"} 1' in metrics


def test_a_client_that_hangs_up_ends_its_attack(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.serve import service as module

    app, seen = make_app(models[:1]), []

    def endless(model: Any, text: Any, image: Any, wanted: Any, token: Any) -> None:
        seen.append(token)
        while True:
            token.check()
            time.sleep(0.01)

    monkeypatch.setattr(module, "attack", endless)

    async def run() -> None:
        body = json.dumps(GOOD | {"image": base64.b64encode(picture()).decode()}).encode()
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            while not seen:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            return None

        scope = {"type": "http", "method": "POST", "path": "/v1/attack", "query_string": b"", "http_version": "1.1"}
        scope |= {"headers": [(b"content-type", b"application/json")], "raw_path": b"/v1/attack", "root_path": ""}
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(app(scope, receive, send), 10)
            assert not seen[0].valid and app.state.service.rooms["attack"].inside == 0

    asyncio.run(run())


def test_requests_that_come_together_share_a_forward_pass(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(models[:1], batch=8)
    encoder, sizes = app.state.service.models["first"].encoder, []
    real = encoder.encode_image

    def counted(image_BCHW: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(image_BCHW))
        assert torch.is_inference_mode_enabled()
        return real(image_BCHW, **options)

    monkeypatch.setattr(encoder, "encode_image", counted)

    async def work(client: httpx.AsyncClient) -> tuple[list[Any], list[Any], str]:
        lists = [CLASSES[: 2 + i % 3] for i in range(12)]
        alone = [await post(client, "/v1/classify", picture(seed=i), classes=lists[i]) for i in range(12)]
        assert sizes == [1] * 12
        sizes.clear()
        asked = [post(client, "/v1/classify", picture(seed=i), classes=lists[i]) for i in range(12)]
        together = await asyncio.gather(*asked)
        return alone, together, (await client.get("/metrics")).text

    alone, together, metrics = ask(app, work)
    assert sum(sizes) == 12 and len(sizes) <= 6 and max(sizes) <= 8
    for one, other in zip(alone, together, strict=True):
        first, second = (answer.json()["results"][0]["probabilities"] for answer in (one, other))
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert "tima_batch_pictures_sum 24" in metrics


# the disk ----------------------------------------------------------------------------------------------------------

opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if opened is not None and event in ("open", "os.listdir", "os.scandir", "os.remove", "os.mkdir", "os.rename"):
        opened.append(f"{event} {arguments[0]}")


def test_no_request_touches_the_disk(app: Any) -> None:
    global opened
    sys.addaudithook(_watch)
    large = picture("PNG", (900, 900))
    assert len(large) > 2 << 20  # a form parser would put this into a temporary file

    async def work(client: httpx.AsyncClient) -> list[int]:
        global opened
        codes = []
        for _ in range(2):  # the first time imports modules
            codes = [
                (await post(client, "/v1/classify", large, **GOOD)).status_code,
                (await post(client, "/v1/attack", picture("WEBP"), **GOOD, steps=2)).status_code,
                (await client.post("/v1/texts", json=GOOD)).status_code,
                *[
                    (await client.get(p)).status_code
                    for p in ("/", "/static/app.css", "/docs", "/v1/models", "/v1/runs", "/metrics")
                ],
                (await client.get("/static/..%2f..%2f..%2fetc%2fpasswd")).status_code,
                (await post(client, "/v1/classify", picture(), **GOOD, models="/etc")).status_code,
            ]
            opened = []
        return codes

    try:
        assert ask(app, work) == [200] * 9 + [404, 422]
        with open(Path(__file__)):
            pass
        assert opened and opened[-1].endswith("test_serve.py")  # the watch works
        assert [line for line in opened[:-1] if "tima-reports" not in line] == []
    finally:
        opened = None


# operation ---------------------------------------------------------------------------------------------------------


def test_pages_may_load_nothing_from_elsewhere(app: Any) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = await client.get("/")
        return [first, await client.get("/", headers={"if-none-match": first.headers["etag"]})]

    page, again = ask(app, work)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
    assert again.status_code == 304 and not again.content


def test_metrics_are_in_prometheus_format(app: Any) -> None:
    import re

    async def work(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        await client.get("/nothing/one")
        await client.get("/nothing/two")
        first = await client.get("/metrics")
        return first, await client.get("/metrics")

    first, second = ask(app, work)
    assert first.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in second.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [0-9.e+-]+', line), line
    names = re.findall(r"^# TYPE (\w+) ", second.text, re.MULTILINE)
    assert len(names) == len(set(names)) >= 8
    other = re.findall(r'tima_requests_total\{method="GET",path="other",status="404"\} (\d+)', second.text)
    assert int(other[0]) >= 2 and "/nothing/one" not in second.text  # one label for all unknown addresses
    assert 'path="/metrics",status="200"' in second.text


def test_health_ends_with_the_server(models: list[str]) -> None:
    app = make_app(models[:1])

    async def run() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            before = (await client.get("/healthz")).status_code
            async with app.router.lifespan_context(app):
                during = (await client.get("/healthz")).status_code
            return [before, during, (await client.get("/healthz")).status_code]

    assert asyncio.run(run()) == [503, 200, 503]
