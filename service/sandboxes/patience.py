"""How long the host waits for a sandbox."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the host waits for a sandbox before it counts as stuck."""

    control_s: float = 10.0
    fork_s: float = 30.0
    """For what forks a kernel (claim, restart), on a machine that may be busy."""
    margin_s: float = 5.0
    """What a supervisor may be late beyond a cell's own limits."""
    slowest_bytes_per_s: int = 4 << 20
    """Of values read out and contexts read in."""
    sample_s: float = 1.0
    """How often a running cell is measured from outside."""
    measure_s: float = 2.0
    """For one measurement, which no caller is to be kept waiting by."""


DEFAULT_PATIENCE = Patience()
