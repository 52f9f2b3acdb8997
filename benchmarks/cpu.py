"""What processes have used of the machine's processors, by their own accounting."""

import time

_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """Of all threads of a process since it began, user and system together.

    Raises:
        OSError: there is no such process (any more).
    """
    # What clock_getcpuclockid(3) makes of a pid; Python has it for threads only.
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
