"""Layouts on disk as the publishers of the field's sets pack them, which torchvision keeps too: one file a family."""

from pathlib import Path

from tima.data.layouts import caltech, captions, cifar, imagenet, listed, matlab, pcam, stl10
from tima.data.layouts.layout import Contents, Layout

LAYOUTS: tuple[Layout, ...] = tuple(
    layout for module in (cifar, stl10, listed, matlab, caltech, pcam, imagenet, captions) for layout in module.LAYOUTS
)


def recognise(folder: Path) -> tuple[Layout, Path] | None:
    """The layout that a folder holds and where in it, or None."""
    for layout in LAYOUTS:
        home = layout.home(folder)
        if home is not None:
            return layout, home
    return None


__all__ = ["LAYOUTS", "Contents", "Layout", "recognise"]
