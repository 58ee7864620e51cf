"""The addresses under `/v1`, `/healthz` and `/metrics`: HTTP around `Service`, nothing else."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import PlainTextResponse, Response

import tima
from tima.serve import schemas
from tima.serve.bodies import read_body
from tima.serve.guard import REPORT_POLICY
from tima.serve.jobs import while_connected
from tima.serve.metrics import MEDIA_TYPE
from tima.serve.problems import MEDIA_TYPE as PROBLEM
from tima.serve.problems import Problem, ProblemDetails
from tima.serve.service import Service

KeyPath = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="an id from the list")]


def _errors(*codes: int, busy: str | None = None) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI part on errors. `busy`: what 503 means at an address where it is not a full room."""
    content = {PROBLEM: {"schema": ProblemDetails.model_json_schema()}}
    why = WHY if busy is None else WHY | {503: busy}
    return {code: {"description": why[code], "content": content} for code in codes}


WHY = {
    400: "the body cannot be read",
    404: "no such id",
    408: "the body came too slowly",
    413: "too many bytes or pixels",
    415: "another format than PNG, JPEG or WebP, or another content type",
    422: "a field that does not fit",
    503: "too many requests inside; the header Retry-After says when to come back",
    504: "the work took too long and was given up",
}
WORK = _errors(400, 404, 408, 413, 415, 422, 503, 504)


def _body(kind: Any) -> dict[str, Any]:
    """The OpenAPI part on a body that comes as JSON or as a form."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {media: {"schema": schema} for media in _MEDIA}}}


_MEDIA = ("multipart/form-data", "application/json")


def make_router(service: Service) -> APIRouter:
    """All addresses of one service."""
    router = APIRouter()
    limits = service.limits

    @router.post(
        "/v1/classify", tags=["work"], responses=WORK, openapi_extra=_body(schemas.ClassifyRequest), summary="What is it?"
    )
    async def classify(request: Request) -> schemas.ClassifyResponse:
        """What each model sees in a picture, among the classes named."""
        with service.rooms["classify"].enter():
            asked = await read_body(request, schemas.ClassifyRequest, limits)
            return await while_connected(request, service.classify(asked))

    @router.post(
        "/v1/attack", tags=["work"], responses=WORK, openapi_extra=_body(schemas.AttackRequest), summary="Does it hold?"
    )
    async def attack(request: Request) -> schemas.AttackResponse:
        """PGD against each model on its own, with the answer at every step. The picture returned is what was judged."""
        with service.rooms["attack"].enter():
            asked = await read_body(request, schemas.AttackRequest, limits)
            return await while_connected(request, service.attack(asked))

    @router.post(
        "/v1/texts",
        tags=["work"],
        responses=WORK,
        openapi_extra=_body(schemas.TextsRequest),
        summary="Where do class texts stand?",
    )
    async def texts(request: Request) -> schemas.TextsResponse:
        """The class texts of each model in two dimensions, and how close together they stand."""
        with service.rooms["texts"].enter():
            asked = await read_body(request, schemas.TextsRequest, limits)
            return await while_connected(request, service.look_at_texts(asked))

    @router.get("/v1/models", tags=["lists"], summary="Models, limits and sample pictures")
    async def models() -> schemas.ModelsResponse:
        """The models by id, what one request may cost, and pictures to begin with."""
        return schemas.ModelsResponse(
            models=[
                schemas.ModelInfo(
                    id=m.id, title=m.title, about=m.about, image_size=m.encoder.image_size, embed_dim=m.encoder.embed_dim
                )
                for m in service.models.values()
            ],
            limits=limits.shown(),
            samples=[sample.shown() for sample in service.samples.values()],
            version=tima.__version__,
        )

    @router.get(
        "/v1/samples/{key}", tags=["lists"], responses=_errors(404, 422), summary="A sample picture", response_class=Response
    )
    async def sample(key: KeyPath) -> Response:
        """The encoded picture."""
        if key not in service.samples:
            raise Problem(404, "There is no sample of this id.", where="the address", do="/v1/models lists them.")
        found = service.samples[key]
        return Response(found.data, media_type=found.media_type, headers={"Cache-Control": "max-age=3600"})

    @router.get("/v1/runs", tags=["lists"], summary="Stored runs")
    async def runs() -> schemas.RunsResponse:
        """The runs by id, and accuracy against eps under each protocol."""
        return schemas.RunsResponse(**service.runs.listing())

    @router.get(
        "/v1/runs/{key}/report",
        tags=["lists"],
        responses=_errors(404, 422, 503, busy="the report is still being made"),
        summary="A run's report",
        response_class=Response,
    )
    async def report(key: KeyPath) -> Response:
        """The report as one page; `all` is that of all runs together. Made in the background after the start."""
        if key != "all" and key not in service.runs.entries:
            raise Problem(404, "There is no run of this id.", where="the address", do="/v1/runs lists them.")
        page = service.runs.report(key)
        if page is None:
            raise Problem(
                503, "This report is still being made.", where="the report", do="Come back in some seconds.", retry_after=5
            )
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @router.get("/healthz", tags=["operation"], responses=_errors(503, busy="the server is ending"), summary="Is it well?")
    async def healthz() -> dict[str, Any]:
        """200 while the server takes requests; it stays so when it is merely busy."""
        if not service.ready:
            raise Problem(503, "The server is ending.", where="the server", do="Ask another one.", retry_after=5)
        return {"status": "ok", "models": list(service.models)}

    @router.get("/metrics", tags=["operation"], summary="Counts for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Requests, times, sizes of batches, refusals: the Prometheus text format."""
        return Response(service.metrics.text(), media_type=MEDIA_TYPE)

    return router
