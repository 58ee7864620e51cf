"""Errors as problem details, RFC 9457: `detail` says what was wrong, `where` in which part of the request, `do` what helps."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tima.errors import ModelError, TimaError

MEDIA_TYPE = "application/problem+json"
MOST_WORDS = 20_000  # characters: all class names fit, a body sent back does not
log = logging.getLogger("tima.serve")


class ProblemDetails(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what was wrong")
    where: str = Field(description="which part of the request, or of the server")
    do: str = Field(description="what to do about it")


class Problem(Exception):
    """An answer other than the one hoped for. `retry_after` is in seconds."""

    def __init__(self, status: int, detail: str, *, where: str, do: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.where, self.do, self.retry_after = status, detail, where, do, retry_after

    def response(self) -> JSONResponse:
        body = ProblemDetails(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail[:MOST_WORDS],
            where=self.where,
            do=self.do[:MOST_WORDS],
        )
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in (400, 408, 413):  # the rest of the body is not going to be read
            headers["Connection"] = "close"
        return JSONResponse(body.model_dump(), self.status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """Any exception as an answer that tells strangers nothing about the inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return wrong_field(error.errors())
    if isinstance(error, TimaError) and not isinstance(error, ModelError):
        return Problem(422, str(error), where="the request", do="Change what the message names and send it again.")
    if isinstance(error, HTTPException):
        known = {404: "There is nothing under this address.", 405: "This address does not take this method."}
        said = known.get(error.status_code, str(error.detail))
        return Problem(error.status_code, said, where="the address", do="/docs lists every address and its methods.")
    log.error("a request failed", exc_info=error)
    return Problem(
        500, "Something went wrong on the server.", where="the server", do="Look into the server's log, and report it."
    )


def wrong_field(errors: Sequence[Any]) -> Problem:
    """Pydantic's first complaint as a problem. It names the field; the value itself is not sent back."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])[:200] or "the request"
    said = str(first["msg"]).removeprefix("Value error, ")
    return Problem(422, said, where=where, do="Correct this field; /docs lists all fields with their types.")


def add_handlers(app: FastAPI) -> None:
    """Let FastAPI answer with problems, its own 404s included."""

    async def handle(request: Request, error: Any) -> JSONResponse:
        return problem_of(error).response()

    for kind in (Problem, RequestValidationError, TimaError, HTTPException):
        app.add_exception_handler(kind, handle)
