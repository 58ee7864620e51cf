"""`create_app`: the parts put together into one ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

import tima
from tima.serve.api import make_router
from tima.serve.docs_page import docs_page
from tima.serve.guard import Guard
from tima.serve.problems import Problem, add_handlers
from tima.serve.service import Service
from tima.serve.settings import Settings
from tima.serve.static_files import StaticFile, read_static

ABOUT = """\
Zero-shot classification under attack. Pictures are PNG, JPEG or WebP. Models and runs are named by ids from the lists.
Errors are problem details (RFC 9457) with `detail` (what), `where` and `do`. A full server answers 503 with `Retry-After`.
"""


def create_app(settings: Settings) -> FastAPI:
    """Load the models and make the application; nothing is read from disk on behalf of a request afterwards.

    Raises:
        TimaError: a model that cannot be loaded, or runs that are not there.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    # FastAPI's own pages of the documentation load scripts from elsewhere; ours is docs_page.py
    app = FastAPI(title="tima", version=tima.__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics, names=settings.names)
    add_handlers(app)
    app.include_router(make_router(service))
    _add_pages(app)
    return app


def _add_pages(app: FastAPI) -> None:
    static = read_static()
    app.openapi()  # now, and kept: so that no request waits for it
    docs = StaticFile(docs_page(app.openapi()).encode(), "text/html; charset=utf-8")
    hidden: dict[str, Any] = {"include_in_schema": False, "response_class": Response}

    @app.get("/", **hidden)
    async def index(request: Request) -> Response:
        return static["index.html"].response(request)

    @app.get("/docs", **hidden)
    async def documentation(request: Request) -> Response:
        return docs.response(request)

    @app.get("/favicon.ico", **hidden)
    async def icon(request: Request) -> Response:
        return static["icon.svg"].response(request)

    @app.get("/static/{name}", **hidden)
    async def file(name: str, request: Request) -> Response:
        if name not in static:
            raise Problem(404, "There is no such file.", where="the address", do="Begin at /.")
        return static[name].response(request)
