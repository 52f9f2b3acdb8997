"""Rows: what was measured, as one JSON object a line and as a table. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

RATES = frozenset({"runs/s", "calls/s", "MB/s"})
"""Units of which more is better; of all others, less is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One benchmark's result. `ratio` is how many times better ours is."""

    name: str
    unit: str
    ours: float
    other: float
    ratio: float
    n: int
    """How many samples ours is the median of; of a rate, how many things were counted."""


def row_of(name: str, unit: str, ours: Sequence[float], other: Sequence[float], *, n: int | None = None) -> Row:
    """The medians of both sides, compared."""
    if not ours or not other:
        raise ValueError(f"{name}: expected samples of both sides, found {len(ours)} of ours and {len(other)}")
    mine, theirs = median(ours), median(other)
    return Row(
        name=name,
        unit=unit,
        ours=mine,
        other=theirs,
        ratio=ratio(unit, mine, theirs),
        n=len(ours) if n is None else n,
    )


def ratio(unit: str, ours: float, other: float) -> float:
    """How many times better ours is: the quotient, the right way up for the unit."""
    better, worse = (ours, other) if unit in RATES else (other, ours)
    return better / worse if worse else float("inf")


def as_line(row: Row) -> str:
    """One line of JSON; figures keep four significant digits, because no run of this repeats more."""
    fields = asdict(row)
    return json.dumps({key: _rounded(value) if isinstance(value, float) else value for key, value in fields.items()})


def table(rows: Sequence[Row]) -> str:
    """All rows for people."""
    header = ("name", "unit", "ours", "other", "ratio", "n")
    cells = [header]
    cells += [
        (row.name, row.unit, _shown(row.ours), _shown(row.other), f"{_shown(row.ratio)} ×", str(row.n)) for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = []
    for line in cells:
        left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _rounded(value: float) -> float | None:
    """JSON has no infinity."""
    return None if value == float("inf") else float(f"{value:.4g}")


def _shown(value: float) -> str:
    if value == float("inf"):
        return "∞"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"
