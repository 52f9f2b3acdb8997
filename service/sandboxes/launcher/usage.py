"""Usage: what a container has used, measured from outside it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Since it was started, but for what it uses now."""

    memory_bytes: int
    """Now, page cache included."""
    memory_peak_bytes: int
    """What it uses now where nobody tells a peak."""
    cpu_s: float
    processes: int
    """And threads, now."""
