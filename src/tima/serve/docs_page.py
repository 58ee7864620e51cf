"""The API's documentation as one page made from its OpenAPI document, since the usual ones load scripts from elsewhere."""

from importlib.resources import files
from typing import Any


def docs_page(openapi: dict[str, Any]) -> str:
    """HTML without a script."""
    from jinja2 import Environment, StrictUndefined

    schemas = openapi.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = (files("tima.serve") / "docs.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(info=openapi["info"], operations=operations)


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    good = operation["responses"]["200"].get("content", {})
    answer: dict[str, Any] = next(iter(good.values()), {"schema": {}}).get("schema", {})
    return {
        "method": method.upper(),
        "path": path,
        "title": operation["summary"],
        "about": operation.get("description", "").replace("`", ""),
        "media": list(content),
        "fields": _fields(next(iter(content.values()))["schema"], schemas) if content else [],
        "answers": _fields(answer, schemas),
        "answer_media": ", ".join(good),
        "errors": [(code, r["description"]) for code, r in operation["responses"].items() if code != "200"],
    }


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table: name, type, whether needed, what it is."""
    schema = _resolve(schema, schemas)
    needed = schema.get("required", [])
    rows = []
    for name, part in schema.get("properties", {}).items():
        default = (
            ""
            if name in needed or part.get("default") in (None, [], "")
            else f"{part['default']:.4g}"
            if isinstance(part["default"], float)
            else str(part["default"])
        )
        rows.append(
            {
                "name": name,
                "type": _type(part, schemas),
                "needed": name in needed,
                "default": default,
                "about": part.get("description", ""),
            }
        )
    return rows


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _type(part: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "$ref" in part:
        return _resolve(part, schemas).get("title", "object")
    if "anyOf" in part:
        return " or ".join(_type(option, schemas) for option in part["anyOf"])
    if part.get("type") == "array":
        return f"list of {_type(part.get('items', {}), schemas)}"
    if part.get("format") == "binary":
        return "file"
    return {"number": "number", "integer": "whole number", "boolean": "true or false", "null": "null"}.get(
        part.get("type", ""), part.get("type", "any")
    )
