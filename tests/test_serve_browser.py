"""The page in headless Chromium against a real server: what a person does, with mouse, keyboard, phone and screen reader.

With TIMA_SCREENSHOTS set to a folder, pictures of the page are left there (docs/images/serve-*.png were made so).
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from spawned import free_port

pytest.importorskip("fastapi", reason="the extra tima[serve] is not installed")
CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
playwright = pytest.importorskip("playwright.sync_api", reason="the extra tima[browser] is not installed")
if CHROMIUM is None:
    pytest.skip("there is no Chromium at /usr/bin/chromium", allow_module_level=True)

from conftest import make_image_set  # noqa: E402
from serving import CLASSES, picture, save_models  # noqa: E402

from tima.serve import Limits, Settings, create_app  # noqa: E402


class Server:
    """uvicorn on a thread, as the command starts it."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self.port = free_port()
        self.app = app
        config = uvicorn.Config(app, port=self.port, log_level="error", server_header=False, timeout_graceful_shutdown=20)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def server(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from tima.evaluate import evaluate
    from tima.models import load_model
    from tima.protocols import load_protocol

    root = tmp_path_factory.mktemp("browser")
    models = save_models(tokenizer, root)
    protocol = load_protocol("demo").override(samples=12, eps=["1/255", "8/255"], attack_params={"steps": 2})
    for name in models:
        folder = root / "runs" / Path(name).name
        evaluate(load_model(name), make_image_set(n=24), protocol, out=folder, progress=False)
    found = Server(create_app(Settings(models=models, runs=root / "runs", limits=Limits(classes=20))))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """A fresh window. Whatever the console complains of, a violated policy included, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.complaints = complaints
    opened.goto(server.url)
    opened.wait_for_selector(".answer")
    yield opened
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((server.url, "blob:", "data:"))] == []


def until(page: Any, condition: str) -> None:
    """Wait for a condition in the page. Playwright's wait_for_function evaluates a string, which the page's policy forbids."""
    ends = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < ends, condition
        page.wait_for_timeout(30)


def shares(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".answer .said").all_inner_texts()]


def test_own_picture_own_classes_attack(page: Any, server: Server) -> None:
    image = picture(size=(64, 64), seed=3)
    page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": image})
    page.get_by_label("Names, one a line").fill("\n".join(CLASSES))
    until(page, "document.querySelectorAll('.answer .bars li').length === 8")
    expected = httpx.post(
        f"{server.url}/v1/classify",
        files={"image": image},
        data={"classes": ",".join(CLASSES), "templates": page.get_by_label("Prompt").input_value()},
    ).json()
    until(page, f"document.querySelector('#status').textContent.includes('{expected['results'][1]['answer']}')")
    for text, result in zip(shares(page), expected["results"], strict=True):
        assert text.startswith(result["answer"])
        assert str(round(100 * max(result["probabilities"]))) in text
    page.get_by_label("Largest change, eps").fill("8")
    assert page.locator("#eps-text").inner_text() == "8/255"
    assert page.get_by_label("Largest change, eps").get_attribute("aria-valuetext") == "8 of 255 grey levels"
    page.get_by_label("Steps").fill("6")
    page.get_by_label("Drive the answer").select_option("to boat")
    page.get_by_role("button", name="Attack").click()
    page.wait_for_selector(".triple")
    attacked = httpx.post(
        f"{server.url}/v1/attack",
        files={"image": image},
        data={"classes": ",".join(CLASSES), "eps": "8/255", "steps": "6", "target": "boat"}
        | {"templates": page.get_by_label("Prompt").input_value()},
    ).json()
    assert page.locator(".triple img").count() == 6 and page.locator(".steps svg").count() == 2
    for card, result in zip(page.locator(".answer").all(), attacked["results"], strict=True):
        assert result["adversarial"]["answer"] in card.locator(".said").inner_text()
        assert ("moved" in card.locator(".pill").inner_text()) == (result["clean"]["answer"] != result["adversarial"]["answer"])
        source = card.locator(".triple img").nth(2).get_attribute("src")
        assert source == f"data:image/png;base64,{result['images']['adversarial']}"
        assert len(card.locator(".steps path.line").all()) == len(result["trace"]["classes"])
        assert "from" in card.locator(".steps svg").get_attribute("aria-label")
    page.get_by_label("Prompt").fill("a {c}")  # what was attacked is no longer what is asked
    page.wait_for_selector(".triple", state="detached")


def test_an_attack_is_of_what_is_on_the_page_now(page: Any) -> None:
    """Pressed right after a change, before its answers came: what is shown before and after is of the new picture and names."""
    page.get_by_role("button", name="Attack").click()
    page.wait_for_selector(".triple")
    page.set_input_files("#file", {"name": "new.png", "mimeType": "image/png", "buffer": picture(size=(48, 48), seed=11)})
    page.get_by_label("Names, one a line").fill("bow tie, bow-tie\ncat\ndog")
    with page.expect_response("**/v1/attack") as asked:
        page.get_by_role("button", name="Attack").click()
    found = asked.value.json()
    assert found["classes"] == ["bow tie, bow-tie", "cat", "dog"]
    until(page, "document.querySelectorAll('.answer .bars li').length === 6")
    for card, result in zip(page.locator(".answer").all(), found["results"], strict=True):
        source = card.locator(".triple img").first.get_attribute("src")
        assert source == f"data:image/png;base64,{result['images']['clean']}"
        before = dict(zip(found["classes"], result["clean"]["probabilities"], strict=True))
        for row in card.locator(".bars li").all():
            said = row.locator(".value .unseen").inner_text()
            share = float(said.removeprefix(", ").split("\u00a0")[0])
            assert abs(share - 100 * before[row.locator(".name").inner_text()]) <= 0.5, said
    page.wait_for_timeout(700)  # nothing that was due comes late and takes the attack away
    assert page.locator(".triple").count() == 2


def test_problems_are_said_and_go_away(page: Any) -> None:
    page.get_by_label("Names, one a line").fill("cat\ncat")
    alert = page.locator("#problem")
    alert.wait_for()
    assert "given twice" in alert.inner_text()
    page.get_by_label("Names, one a line").fill("cat\ndog")
    alert.wait_for(state="hidden")
    page.set_input_files("#file", {"name": "x.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.locator("#picture-problem").wait_for()
    assert "PNG, JPEG or WebP" in page.locator("#picture-problem").inner_text()
    page.complaints[:] = [text for text in page.complaints if "422" not in text]  # the browser notes a refused request


def test_everything_by_keyboard(page: Any) -> None:
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if reached[-1] == "attack":
            break
    assert reached[0] == "Skip to the content"
    assert [name for name in reached if name in ("file", "classes", "template", "eps", "steps", "goal", "attack")] == [
        "file", "classes", "template", "eps", "steps", "goal", "attack",
    ]  # fmt: skip
    page.keyboard.press("Enter")
    page.wait_for_selector(".triple")
    page.get_by_label("Largest change, eps").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#eps-text").inner_text() == "3/255"
    page.get_by_role("group", name="Sample pictures").get_by_role("button").nth(2).press("Enter")
    until(page, "document.querySelector('#preview').alt.includes('horse')")


def test_what_a_screen_reader_gets(page: Any) -> None:
    tree = page.locator("body").aria_snapshot()
    for line in ("banner", 'navigation "Views"', "main", 'heading "What does it see, and does it hold?" [level=1]', "status"):
        assert line in tree, line
    assert 'slider "Largest change, eps"' in tree and 'checkbox "first' in tree and 'list "Shares"' in tree
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, select, textarea, summary')]
            .filter((node) => node.checkVisibility())
            .filter((node) => !node.textContent.trim() && !node.ariaLabel && !node.labels?.length)
            .filter((node) => !node.querySelector('img[alt]'))
            .map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    until(page, "document.querySelector('#status').textContent.includes('answers')")
    page.get_by_role("button", name="Attack").click()
    page.wait_for_selector(".triple")
    said = page.locator("#status").inner_text()
    assert "first:" in said and ("becomes" in said or "stays" in said)


def test_class_texts_and_runs(page: Any, server: Server) -> None:
    page.get_by_role("link", name="Class texts").click()
    page.wait_for_selector("#text-chart svg")
    count = len(page.get_by_label("Names, one a line").input_value().splitlines())
    assert page.locator("#text-chart .dot").count() == 2 * count and page.locator("#text-chart .way").count() == count
    assert page.locator("#text-numbers .figures > span").count() == 4
    page.get_by_text("As a table").click()
    assert page.locator("#text-table tbody tr").count() == count
    page.get_by_role("link", name="Runs").click()
    page.wait_for_selector("#run-chart svg")
    assert page.evaluate("document.querySelector('nav [aria-current]').textContent") == "Runs"
    assert page.locator("#run-chart path.band").count() == 2 and page.locator("#run-table tbody tr").count() == 2
    stored = httpx.get(f"{server.url}/v1/runs").json()["charts"][0]["blocks"][0]["rows"][0]["points"][0]["value"]
    assert f"{100 * stored:.1f}" in page.locator("#run-table tbody tr td").first.inner_text()
    page.locator("#run-legend input").first.uncheck()
    assert page.locator("#run-chart path.band").count() == 1
    page.get_by_role("link", name="Report of All runs together").click(timeout=60_000)
    page.wait_for_selector("h1")
    assert page.locator("h1").inner_text() == "All runs" and page.evaluate("getComputedStyle(document.body).margin") == "0px"
    page.goto(f"{server.url}/docs")
    assert page.locator("section.card").count() >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(chromium: Any, server: Server, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector(".answer")
    page.get_by_role("button", name="Attack").tap()
    page.wait_for_selector(".triple")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 246, 243)", "dark": "rgb(18, 20, 23)"}[scheme]
    for view in ("picture", "texts", "runs"):
        page.goto(f"{server.url}/#{view}")
        page.wait_for_selector({"picture": ".answer", "texts": "#text-chart svg", "runs": "#run-chart svg"}[view])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, nav a, select, summary, .check, .button')]
                .filter((node) => node.checkVisibility()).map((node) => [node.getBoundingClientRect(), node.outerHTML])
                .filter(([box]) => box.width < 24 || box.height < 24).map(([, html]) => html)"""
        )
        assert small == [], view  # WCAG 2.2, 2.5.8
    page.goto(f"{server.url}/#texts")
    assert page.evaluate("document.querySelector('#view-texts .row .grow').clientWidth") > 200, "a column of single words"
    page.goto(f"{server.url}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_theme_can_be_switched_and_is_remembered(page: Any) -> None:
    page.get_by_role("button", name="Switch to dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    page.reload()
    page.get_by_role("button", name="Switch to light").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"


def test_a_slow_body_and_an_end_in_the_middle_of_an_attack(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tima.serve import service as module

    models = save_models(tokenizer, tmp_path)[:1]
    found = Server(create_app(Settings(models=models, limits=Limits(body_seconds=0.3), samples=False)))
    with socket.create_connection(("127.0.0.1", found.port), timeout=10) as raw:
        raw.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408") and b"problem+json" in answer

    real, inside, go = module.attack, threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        inside.set()
        go.wait(20)
        return real(*args)

    monkeypatch.setattr(module, "attack", slow)

    def ask() -> httpx.Response:
        fields = {"classes": "cat,dog", "steps": "2"}
        return httpx.post(f"{found.url}/v1/attack", files={"image": picture()}, data=fields, timeout=30)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        assert inside.wait(20)
        found.uvicorn.should_exit = True
        time.sleep(0.3)
        go.set()
        assert asked.result().status_code == 200  # who was let in gets an answer
    found.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found.url}/healthz")


@pytest.mark.skipif("TIMA_SCREENSHOTS" not in os.environ, reason="TIMA_SCREENSHOTS names no folder for the pictures")
def test_pictures_of_the_page(chromium: Any) -> None:
    """Of the runs in runs/demo, with the models that they hold."""
    found = Server(create_app(Settings(runs=Path("runs/demo"))))
    folder = Path(os.environ["TIMA_SCREENSHOTS"])
    shots = {"desktop": (1200, "light", "picture"), "dark": (1200, "dark", "runs"), "texts": (1200, "light", "texts")}
    for name, (width, scheme, view) in (shots | {"phone": (390, "dark", "picture")}).items():
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
        page = context.new_page()
        page.goto(found.url)
        page.wait_for_selector(".answer")
        if view == "picture":
            page.get_by_role("button", name="Attack").click()
            page.wait_for_selector(".triple", timeout=60_000)
        else:
            page.goto(f"{found.url}/#{view}")
            page.wait_for_selector({"texts": "#text-chart svg", "runs": "#run-list li:last-child a"}[view], timeout=180_000)
        page.mouse.move(0, 0)
        page.wait_for_timeout(200)
        page.screenshot(path=folder / f"serve-{name}.png", full_page=name != "phone")
        context.close()
    found.stop()
