"""What one request may cost, and how many may wait. Everything a stranger can make large has its bound here."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        body_bytes: size of a request's body.
        body_seconds: time for a body to arrive.
        pixels: of a picture, width times height, read from its header before anything is decoded.
        classes, name_length: number and length of class names; the length is that of a template too.
        templates: prompts a class.
        models: models in one request.
        steps, eps: of an attack; eps in pixel units of [0, 1].
        classify_seconds, attack_seconds: time for the work itself. The texts have `classify_seconds` too.
        classify_room, attack_room: requests inside at once, working or waiting. One more is answered 503.
        batch: pictures in one forward pass.
        batch_wait: seconds that a lone picture waits for company.
        cached_texts: class texts kept, the least recently used go first.
    """

    body_bytes: int = 8 << 20
    body_seconds: float = 20.0
    pixels: int = 40_000_000
    classes: int = 100
    name_length: int = 100
    templates: int = 8
    models: int = 4
    steps: int = 50
    eps: float = 32 / 255
    classify_seconds: float = 20.0
    attack_seconds: float = 60.0
    classify_room: int = 32
    attack_room: int = 4
    batch: int = 16
    batch_wait: float = 0.002
    cached_texts: int = 10_000

    def shown(self) -> dict[str, Any]:
        """What a client wants to know before it asks."""
        kept = ("body_bytes", "pixels", "classes", "name_length", "templates", "models", "steps", "eps")
        values = asdict(self)
        return {name: values[name] for name in kept}
