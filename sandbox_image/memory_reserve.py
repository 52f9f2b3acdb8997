"""Memory that a cell cannot take, so that the kernel can say what happened after a cell has taken all there was.

While foreign code runs, the soft limit of RLIMIT_DATA is below the hard one; afterwards it is lifted. Lifting must not
need memory itself, not even for an integer: hence the tuples made beforehand, and small objects that are let go first.

Under gVisor RLIMIT_DATA limits nothing, so there RLIMIT_AS stands in for it. That one counts mapped files too, so each
of them gets room of its own, and for that the hard limit has to stay open: a cell that lifts the soft limit meets the
container's. Where no limit on memory holds (macOS), there is nothing to withhold and nothing to lift.
"""

import mmap
import resource
from contextlib import suppress

_MAX_RESERVE_BYTES = 48 << 20
_TRIAL_BYTES = 1 << 20
_USUAL_SPACE_BYTES = 64 << 20
_BALLAST_PIECES = 4_000
_BALLAST_PIECE_BYTES = 400


def _leave(_limited: int, _limits: tuple[int, int]) -> None:
    """In the place of `resource.setrlimit`."""


_limit = resource.setrlimit
_NO_LIMIT = resource.RLIM_INFINITY


class MemoryReserve:
    """Owns the soft limit."""

    def __init__(self, *, is_limited: bool = True) -> None:
        """`limit` comes before anything else. Unless it `is_limited`, memory is as large as the machine's."""
        self._limit = _limit if is_limited else _leave
        self._memory_bytes = 0
        self._is_exhausted = False
        self._ballast: list[bytes] = []
        self._mapped_bytes = 0
        self._space_bytes = 0
        self._counts_mapped_files = is_limited and not _data_is_limited()
        self._limited = resource.RLIMIT_AS if self._counts_mapped_files else resource.RLIMIT_DATA

    def limit(self, memory_bytes: int) -> None:
        """Where RLIMIT_DATA limits, sets its hard limit, for good."""
        self._memory_bytes = memory_bytes
        self._space_bytes = _address_space_bytes() if self._counts_mapped_files else 0
        self._make_tuples()
        self._limit(self._limited, self._whole)

    def make_room(self, size_bytes: int) -> None:
        """Before a file is mapped, which is to take none of this memory. Not while foreign code runs."""
        if self._counts_mapped_files:
            self._mapped_bytes += size_bytes
            self._make_tuples()
            self._limit(self._limited, self._whole)

    def _make_tuples(self) -> None:
        reserve = min(_MAX_RESERVE_BYTES, self._memory_bytes // 8)
        most = self._memory_bytes + self._space_bytes + self._mapped_bytes
        hard = _NO_LIMIT if self._counts_mapped_files else most
        self._whole = (most, hard)
        self._usual = (most - reserve, hard)
        self._after_exhaustion = (most - reserve // 2, hard)

    def withhold(self) -> None:
        """Before foreign code runs. After a cell that ran out it leaves a little, for `del` to work with."""
        if not self._ballast:
            self._load()
        self._limit(self._limited, self._after_exhaustion if self._is_exhausted else self._usual)

    def _load(self) -> None:
        self._ballast.extend(bytes(_BALLAST_PIECE_BYTES) for _ in range(_BALLAST_PIECES))

    def lift(self) -> None:
        """After it has run, first of all."""
        self._is_exhausted = False
        self._limit(self._limited, self._whole)

    def lift_in_need(self, error: BaseException) -> None:
        """The same after an exception: the ballast makes room for the few objects that handling it takes."""
        self._ballast.clear()
        self._is_exhausted = isinstance(error, MemoryError)
        self._limit(self._limited, self._whole)


def _data_is_limited() -> bool:
    """Tried, because it is announced everywhere."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    _limit(resource.RLIMIT_DATA, (mmap.PAGESIZE, before[1]))  # 0 would be taken for no limit (for Valgrind's sake)
    try:
        mmap.mmap(-1, _TRIAL_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return True
    finally:
        _limit(resource.RLIMIT_DATA, before)
    return False


def _address_space_bytes() -> int:
    """What this process has mapped already."""
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE
    return _USUAL_SPACE_BYTES
