"""A few pictures of the embedded sets to begin with, each with class names among which it belongs."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from tima.data import find_data
from tima.serve.pictures import sniff

# (id, set, split, number in it): pictures that are recognisable as thumbnails and that nano and the demo's TIMA model both
# get right, because a wrong answer leaves an attack nothing to do. They show how it works and measure nothing.
PICKED = (
    ("orange", "groceries", "test", 713),
    ("apple", "groceries", "test", 1431),
    ("horse", "cifar10", "test", 241),
    ("ship", "cifar10", "test", 1561),
    ("truck", "cifar10", "test", 1075),
    ("clock", "pictures", "val", 534),
)


@dataclass(frozen=True)
class Sample:
    """An encoded picture, what it shows, and a class list."""

    id: str
    label: str
    data: bytes
    media_type: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    source: str

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "label": self.label,
            "classes": list(self.classes),
            "templates": list(self.templates),
            "source": self.source,
            "url": f"/v1/samples/{self.id}",
        }


@cache
def load_samples() -> dict[str, Sample]:
    """All samples by id, read once."""
    found = {}
    for key, name, split, index in PICKED:
        images = find_data(name, split)
        data = images.read(index)
        assert isinstance(data, bytes)  # embedded sets hold their pictures in the table
        label = images.class_names[int(images.label_B[index])]
        classes = images.class_names
        if len(classes) > 14:  # nobody wants to read 300 names: the label among some others of its set
            others = [other for other in classes[:: len(classes) // 9] if other != label][:9]
            classes = sorted([label, *others])
        kind = f"image/{(sniff(data) or 'png').lower()}"
        found[key] = Sample(key, label, data, kind, tuple(classes), tuple(images.templates[:1]), name)
    return found
