"""What the commands share: option types, reading of lists, the console."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tima.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="nano (embedded), a run folder, a Hugging Face folder or name, open_clip:NAME,PRETRAINED."
    ),
]
Classes = Annotated[str, typer.Option("--classes", "-c", help="Class names, separated by commas, or a file with one a line.")]
Templates = Annotated[
    list[str] | None, typer.Option("--template", help="Prompt with {c} for the class name; give it several times to average.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def stdout() -> "Console":
    from rich.console import Console

    return Console()


def read_classes(text: str) -> list[str]:
    """`"a cat, a dog"` or a file with one name a line.

    Raises:
        DataError: an empty list, a name given twice, a file that is not there or is no text.
    """
    from tima.data.image_set import check_class_names

    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # a class list longer than a file name may be
        is_file = False
    if not is_file and "," not in text and path.suffix in (".txt", ".csv", ".tsv", ".json", ".yaml"):
        raise DataError(f"--classes: {path} does not exist. Give a file with one class name a line, or names with commas.")
    try:
        parts = path.read_text(encoding="utf-8-sig").splitlines() if is_file else text.split(",")
    except UnicodeDecodeError as error:
        raise DataError(f"--classes: {path} is not UTF-8 text ({error}). Save it as UTF-8, one class name a line.") from error
    names = [part.strip() for part in parts if part.strip()]
    check_class_names(names, "--classes")
    return names


def read_templates(templates: list[str] | None, class_names: list[str]) -> list[str]:
    """The prompts asked for; by default 'a photo of a {c}.', without a second article when the names bring their own."""
    if templates:
        return templates
    with_article = all(name.lower().split()[0] in ("a", "an", "the", "some") for name in class_names)
    return ["a photo of {c}."] if with_article else ["a photo of a {c}."]


def read_picture(path: Path, image_size: int) -> "Tensor":
    """One picture file as pixels `1 x 3 x S x S` in [0, 1], turned upright as its EXIF data says."""
    from PIL import Image

    from tima.data import decode

    if path.is_dir():
        raise DataError(f"{path} is a folder. Give picture files, such as {path / '*.jpg'}.")
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    try:
        return decode(path, image_size, upright=True).unsqueeze(0).float() / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({type(error).__name__}: {error}).") from error


def split_names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
