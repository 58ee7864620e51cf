"""Caltech-101 and Caltech-256: a folder for each class, beside one of background that is no class.

https://data.caltech.edu/records/mzrjq-6wc02 and https://data.caltech.edu/records/nyy15-4j048. Caltech-101's folder
BACKGROUND_Google and Caltech-256's 257.clutter hold pictures of anything: a zero-shot classifier has no text for them.
"""

from pathlib import Path

from tima.data.image_folder import SUFFIXES
from tima.data.layouts.layout import Contents, Layout, readable

BETTER = {"Faces": "faces of people", "Faces_easy": "close-up face"}  # two folders of one thing, told apart by their framing


def _read(home: Path, split: str) -> Contents:
    folders = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith((".", "BACKGROUND", "257.clutter")))
    paths = [p for folder in folders for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    number = {folder.name: label for label, folder in enumerate(folders)}
    return Contents.of_files([_name(folder.name) for folder in folders], paths, [number[p.parent.name] for p in paths])


def _name(folder: str) -> str:
    """`accordion`, `Faces_easy`; `012.binoculars`, `204.sunflower-101`, `145.motorbikes-101`: "-101" says it is in both."""
    if folder in BETTER:
        return BETTER[folder]
    return readable(folder.split(".")[-1].removesuffix("-101").replace("-", " "))


LAYOUTS = (
    Layout(
        "caltech101",
        ("accordion", "yin_yang"),
        ("101_ObjectCategories", "caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories"),
        ("all",),
        _read,
        "https://data.caltech.edu/records/mzrjq-6wc02",
    ),
    Layout(
        "caltech256",
        ("001.ak47", "002.*"),
        ("256_ObjectCategories", "caltech256/256_ObjectCategories"),
        ("all",),
        _read,
        "https://data.caltech.edu/records/nyy15-4j048",
    ),
)
