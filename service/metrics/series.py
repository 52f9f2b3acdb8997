"""Counters, gauges and histograms, and how Prometheus reads them (text format 0.0.4)."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES = 2000
"""Of one metric. Labels are closed sets already; this holds should one of them turn out not to be."""
OTHER = "other"
"""Instead of each label's value beyond that."""

Labels = tuple[str, ...]


@dataclass(eq=False)
class Counter:
    """Only ever grows."""

    name: str
    """Ends with `_total`."""
    about: str
    labels: Labels
    _values: dict[Labels, int] = field(default_factory=dict)

    def add(self, *values: str, amount: int = 1) -> None:
        """`values` are those of the labels, in their order."""
        key = _bounded(self._values, values)
        self._values[key] = self._values.get(key, 0) + amount

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.about, "counter")
        for values, count in sorted(self._values.items()):
            yield f"{self.name}{_labelled(self.labels, values)} {count}"


@dataclass(eq=False)
class Gauge:
    """Looked at when it is read."""

    name: str
    about: str
    labels: Labels
    look: Callable[[], Mapping[Labels, float]]

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.about, "gauge")
        for values, value in sorted(self.look().items()):
            yield f"{self.name}{_labelled(self.labels, values)} {value:g}"


@dataclass(eq=False)
class Histogram:
    """How often something took at most so long."""

    name: str
    """Ends with `_seconds`."""
    about: str
    labels: Labels
    bounds: tuple[float, ...]
    """In ascending order; everything above the last counts as well."""
    _counts: dict[Labels, list[int]] = field(default_factory=dict)
    _sums: dict[Labels, float] = field(default_factory=dict)

    def note(self, *values: str, seconds: float) -> None:
        key = _bounded(self._counts, values)
        counts = self._counts.setdefault(key, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, seconds)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.about, "histogram")
        bounds = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        for values, counts in sorted(self._counts.items()):
            for bound, count in zip(bounds, accumulate(counts), strict=True):
                yield f"{self.name}_bucket{_labelled((*self.labels, 'le'), (*values, bound))} {count}"
            labelled = _labelled(self.labels, values)
            yield f"{self.name}_sum{labelled} {self._sums[values]:.6f}"
            yield f"{self.name}_count{labelled} {sum(counts)}"


Metric = Counter | Gauge | Histogram


def exposition(metrics: Sequence[Metric]) -> str:
    """All of them, as Prometheus reads them."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def _bounded(known: Mapping[Labels, object], values: Labels) -> Labels:
    return values if values in known or len(known) < MOST_SERIES else (OTHER,) * len(values)


def _head(name: str, about: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _labelled(labels: Labels, values: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
