"""What the builders of the data sets share: encoding a picture, hashing, and writing one set as parquet."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Example:
    """One finished row: the encoded image, its file name, its class id (None without a class) and its caption."""

    image: bytes
    path: str
    label: int | None = None
    caption: str | None = None


def seeded_key(*parts: object) -> str:
    """Give a fixed pseudo-random sort key, the same on every machine and in every run."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def on_white(image: Image.Image, size: int, margin: int = 0) -> Image.Image:
    """Lay a picture on a white square: transparency removed, empty border cut off, aspect ratio kept."""
    if image.mode != "RGB":
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        box = alpha.point(lambda value: 255 if value > 8 else 0).getbbox()
        if box is None:
            raise ValueError("the picture is fully transparent")
        image = Image.new("RGB", rgba.size, WHITE)
        image.paste(rgba, mask=alpha)
        image = image.crop(box)
    scale = (size - 2 * margin) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (size, size), WHITE)
    resized = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
    return canvas


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image as 'PNG' or 'WEBP' (options go to the encoder) and give the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_split(path: Path, examples: Sequence[Example], classes: Sequence[str] | None) -> None:
    """Write rows as one parquet file whose metadata lets the ``datasets`` library read it as images and labels."""
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[pa.Field] = [pa.field("image", image_type)]
    columns: list[list[object]] = [[{"bytes": row.image, "path": row.path} for row in examples]]
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if classes is not None:
        fields.append(pa.field("label", pa.int64()))
        columns.append([row.label for row in examples])
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    if any(row.caption is not None for row in examples):
        fields.append(pa.field("caption", pa.string()))
        columns.append([row.caption for row in examples])
        features["caption"] = {"dtype": "string", "_type": "Value"}
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, fields, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, path, row_group_size=100, compression="zstd", write_statistics=False)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, one item a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_names(folder: Path, classes: Sequence[str], templates: Sequence[str]) -> None:
    """Write the class names and the prompt templates of a set."""
    write_lines(folder / "classnames.txt", classes)
    write_lines(folder / "zeroshot_classification_templates.txt", templates)
