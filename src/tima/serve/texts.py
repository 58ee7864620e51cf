"""Class texts, encoded once: a bounded cache of embeddings, the least recently used go first.

One entry is one class name under one list of templates, so that editing one name of a list encodes one name.
Shapes: `C` classes, `D` embedding width.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from tima.models import encode_classes
from tima.serve.jobs import Token
from tima.serve.metrics import Metrics
from tima.serve.models import ServedModel

PROMPTS = 32  # texts encoded between two looks at the clock


class TextCache:
    """Embeddings by (model, class name, templates), for any number of threads."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self.capacity = capacity
        self._metrics, self._lock = metrics, threading.Lock()
        self._kept: OrderedDict[tuple[str, str, tuple[str, ...]], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def kept(self, model: ServedModel, class_names: Sequence[str], templates: Sequence[str]) -> Tensor | None:
        """`text_CD` if every row of it is there, so that nobody has to wait for a thread; else None."""
        found = self._look_up(model, class_names, tuple(templates))
        if len(found) < len(class_names):
            return None
        self._metrics.texts.add(len(found), outcome="found")
        return torch.stack([found[name] for name in class_names])

    def embed(self, model: ServedModel, class_names: Sequence[str], templates: Sequence[str], token: Token) -> Tensor:
        """Unit-norm class embeddings `text_CD`, in the order of the names.

        Raises:
            Abandoned: the token is no longer valid.
        """
        form = tuple(templates)
        found = self._look_up(model, class_names, form)
        missing = [name for name in class_names if name not in found]
        self._metrics.texts.add(len(found), outcome="found")
        self._metrics.texts.add(len(missing), outcome="encoded")
        chunk = max(1, PROMPTS // len(form))
        for i in range(0, len(missing), chunk):
            token.check()
            part = missing[i : i + chunk]
            with torch.no_grad():  # not inference_mode: attacks take gradients through products with these
                text_CD = encode_classes(model.encoder, part, form)
            for name, text_D in zip(part, text_CD, strict=True):
                found[name] = text_D.clone()  # a row of its own: a view would keep the whole list alive
        with self._lock:
            for name in missing:
                self._kept[(model.id, name, form)] = found[name]
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        return torch.stack([found[name] for name in class_names])

    def _look_up(self, model: ServedModel, class_names: Sequence[str], form: tuple[str, ...]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with self._lock:
            for name in class_names:
                key = (model.id, name, form)
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[name] = self._kept[key]
        return found
