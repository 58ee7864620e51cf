"""The two text files that may lie beside a data set: `classnames.txt` and `zeroshot_classification_templates.txt`."""

from pathlib import Path

from tima.errors import DataError


def read_class_names(file: Path) -> list[str] | None:
    """One name a line, line number = label; None when there is no such file.

    Blank lines at the end are dropped. One in the middle is kept, to be refused as an empty name: dropping it would
    move every label after it.
    """
    lines = _lines(file)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_templates(folder: Path) -> tuple[str, ...] | None:
    """One prompt a line with `{c}` in it; None when there is no such file or nothing in it."""
    return tuple(line for line in _lines(folder / "zeroshot_classification_templates.txt") or () if line) or None


def _lines(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}.") from error
