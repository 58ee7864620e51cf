"""Counts for Prometheus, in its text format 0.0.4. https://prometheus.io/docs/instrumenting/exposition_formats/"""

import threading
from bisect import bisect_left
from collections.abc import Callable

Labels = tuple[tuple[str, str], ...]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A number that only grows, one for each set of labels."""

    kind = "counter"

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about
        self._lock, self._values = threading.Lock(), dict[Labels, float]()

    def add(self, amount: float = 1, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        return self._values.get(tuple(sorted(labels.items())), 0)

    def lines(self) -> list[str]:
        with self._lock:
            return [f"{self.name}{_braces(labels)} {_number(value)}" for labels, value in sorted(self._values.items())]


class Gauge:
    """A number as it is now, asked when somebody looks."""

    kind = "gauge"

    def __init__(self, name: str, about: str, ask: Callable[[], float], **labels: str) -> None:
        self.name, self.about, self._ask = name, about, ask
        self._labels: Labels = tuple(sorted(labels.items()))

    def lines(self) -> list[str]:
        return [f"{self.name}{_braces(self._labels)} {_number(self._ask())}"]


class Histogram:
    """How many observations were at most so large, one histogram for each set of labels."""

    kind = "histogram"

    def __init__(self, name: str, about: str, edges: tuple[float, ...]) -> None:
        self.name, self.about, self._edges = name, about, edges
        self._lock, self._counts, self._sums = threading.Lock(), dict[Labels, list[int]](), dict[Labels, float]()

    def observe(self, value: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(self._edges) + 1))
            counts[bisect_left(self._edges, value)] += 1  # an observation on an edge belongs to that bucket: le
            self._sums[key] = self._sums.get(key, 0) + value

    def lines(self) -> list[str]:
        found = []
        with self._lock:
            for labels, counts in sorted(self._counts.items()):
                total = 0
                for edge, count in zip((*self._edges, float("inf")), counts, strict=True):
                    total += count
                    found.append(f"{self.name}_bucket{_braces((*labels, ('le', _number(edge))))} {total}")
                found.append(f"{self.name}_sum{_braces(labels)} {_number(self._sums[labels])}")
                found.append(f"{self.name}_count{_braces(labels)} {total}")
        return found


class Metrics:
    """Everything that the server counts."""

    def __init__(self) -> None:
        self.requests = Counter("tima_requests_total", "Requests answered.")
        self.seconds = Histogram("tima_request_seconds", "Time from a request to its answer.", SECONDS)
        self.batches = Histogram("tima_batch_pictures", "Pictures in one forward pass.", (1, 2, 4, 8, 16, 32, 64))
        self.refused = Counter("tima_refused_total", "Requests answered 503 because too many were inside.")
        self.abandoned = Counter("tima_abandoned_total", "Jobs given up: over their time, or nobody waited any more.")
        self.texts = Counter("tima_text_cache_total", "Class texts asked for, found in the cache or encoded.")
        self.gauges: list[Gauge] = []

    def text(self) -> str:
        """The page at `/metrics`."""
        found: list[str] = []
        seen: set[str] = set()
        families: list[Counter | Gauge | Histogram] = [self.requests, self.seconds, self.batches, self.refused]
        families += [self.abandoned, self.texts, *self.gauges]
        for family in families:
            if family.name not in seen:
                found += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} {family.kind}"]
                seen.add(family.name)
            found += family.lines()
        return "\n".join(found) + "\n"


def _braces(labels: Labels) -> str:
    escaped = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels]
    return "{" + ",".join(escaped) + "}" if escaped else ""


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:.10g}"
