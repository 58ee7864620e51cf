"""A small server for the tests: two random models, two stored runs, pictures."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from conftest import build_tiny_clip
from PIL import Image

from tima.serve import Limits, Settings, create_app

CLASSES = ["cat", "dog", "tree", "boat"]


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 16), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def save_models(tokenizer: Any, root: Path) -> list[str]:
    for seed, name in enumerate(("first", "second")):
        build_tiny_clip(tokenizer, seed=seed).save_pretrained(root / name)
    return [str(root / "first"), str(root / "second")]


def make_app(models: list[str], runs: Path | None = None, **limits: Any) -> Any:
    return create_app(Settings(models=models, runs=runs, limits=Limits(**limits), samples=False))


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client in the same process, with the server's start and stop around it."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            yield client


async def post(client: httpx.AsyncClient, path: str, image: bytes | None = None, /, **fields: Any) -> httpx.Response:
    """As a form; lists become lines."""
    data = {key: "\n".join(value) if isinstance(value, list) else str(value) for key, value in fields.items()}
    files = {"image": ("p", image)} if image is not None else {"nothing": (None, "")}
    if image is None:
        data, files = {}, {key: (None, value) for key, value in data.items()}
    return await client.post(path, data=data, files=files)
