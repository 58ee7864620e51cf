"""JSON Schemas of protocols and results, generated from the models that validate them: `tima protocols --schemas FOLDER`."""

import json
from pathlib import Path
from typing import Any

from tima._files import write_text

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """`{file name: schema}`. The protocol's is that of its YAML file, where eps may be written as text."""
    from tima.protocols.protocol import Protocol
    from tima.results import Result

    protocol = Protocol.model_json_schema(mode="validation")
    one = {"type": ["string", "number"], "examples": ["4/255", 0.0157]}
    eps = protocol["properties"]["eps"]
    protocol["properties"]["eps"] = {
        "title": "Eps",
        "description": eps["description"],
        "anyOf": [one, {"type": "array", "minItems": 1, "items": one}],
    }
    return {
        "protocol.schema.json": {"$schema": DIALECT, **protocol},
        "result.schema.json": {"$schema": DIALECT, **Result.model_json_schema(mode="serialization", by_alias=True)},
    }


def write_schemas(folder: str | Path) -> list[Path]:
    """Write both into a folder; returns the files."""
    paths = []
    for name, schema in schemas().items():
        paths.append(Path(folder) / name)
        write_text(paths[-1], json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    return paths
