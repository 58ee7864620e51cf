"""Bodies of requests: JSON, or a form with a file as browsers and curl send it. Files stay in memory."""

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tima.serve.limits import Limits
from tima.serve.problems import Problem, wrong_field

M = TypeVar("M", bound=BaseModel)
LISTS = ("classes", "templates", "models")
FIELDS = 512  # parts of one form


async def read_body(request: Request, kind: type[M], limits: Limits) -> M:
    """The request as a `kind`.

    Raises:
        Problem: 415 for another content type, 400 for a body that is not what its type says, 422 for fields that do not fit.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "application/json":
        try:
            values = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise Problem(400, f"The body is no JSON: {error}.", where="the body", do="Send one JSON object.") from None
        if not isinstance(values, dict):
            raise Problem(400, "The body is no JSON object.", where="the body", do="Send one JSON object.")
    elif media == "multipart/form-data":
        values = await _form(request, limits)
    else:
        raise Problem(
            415,
            f"The body's type is {media[:80] or 'not given'}.",
            where="the header Content-Type",
            do="Send application/json, or multipart/form-data as curl -F does.",
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise wrong_field(error.errors(include_url=False, include_context=False, include_input=False)) from None


class _InMemory(MultiPartParser):
    """Starlette's parser; it would put files above 1 MB into a temporary file."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self.spool_max_size = limits.body_bytes + 1
        super().__init__(request.headers, request.stream(), max_files=1, max_fields=FIELDS, max_part_size=limits.body_bytes)


async def _form(request: Request, limits: Limits) -> dict[str, Any]:
    try:
        form = await _InMemory(request, limits).parse()
    except MultiPartException as error:
        raise Problem(
            400, f"The form cannot be read: {error.message}", where="the body", do="Send it as curl -F does."
        ) from None
    values: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                values[name] = await value.read()
            elif name in LISTS:
                values.setdefault(name, []).extend(_split(value, commas=name != "templates"))
            else:
                values[name] = value
    finally:
        await form.close()
    return values


def _split(text: str, commas: bool) -> list[str]:
    """Parts of a list field: lines, or what stands between commas where there is one line and it is no sentence.

    A line that ends with a line break keeps its commas: "bow tie, bow-tie, bowtie" is one class of ImageNet.
    """
    lines = text.replace(",", "\n") if commas and "\n" not in text else text
    return [part.strip() for part in lines.splitlines() if part.strip()]
