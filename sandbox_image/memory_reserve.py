"""Memory that a cell cannot take, so that the kernel can say what happened after a cell has taken all there was.

While foreign code runs, the soft limit of RLIMIT_DATA is below the hard one; afterwards it is lifted. Lifting must not
need memory itself, not even for an integer: hence the tuples made beforehand, and small objects that are let go first.
"""

import resource

_MAX_RESERVE_BYTES = 48 << 20
_BALLAST_PIECES = 4_000
_BALLAST_PIECE_BYTES = 400

_limit = resource.setrlimit
_DATA = resource.RLIMIT_DATA


class MemoryReserve:
    """Owns the soft limit."""

    def __init__(self, memory_bytes: int) -> None:
        """Sets the hard limit, for good."""
        reserve = min(_MAX_RESERVE_BYTES, memory_bytes // 8)
        self._whole = (memory_bytes, memory_bytes)
        self._usual = (memory_bytes - reserve, memory_bytes)
        self._after_exhaustion = (memory_bytes - reserve // 2, memory_bytes)
        self._is_exhausted = False
        self._ballast: list[bytes] = []
        _limit(_DATA, self._whole)

    def withhold(self) -> None:
        """Before foreign code runs. After a cell that ran out it leaves a little, for `del` to work with."""
        if not self._ballast:
            self._ballast.extend(bytes(_BALLAST_PIECE_BYTES) for _ in range(_BALLAST_PIECES))
        _limit(_DATA, self._after_exhaustion if self._is_exhausted else self._usual)

    def lift(self) -> None:
        """After it has run, first of all."""
        self._is_exhausted = False
        _limit(_DATA, self._whole)

    def lift_in_need(self, error: BaseException) -> None:
        """The same after an exception: the ballast makes room for the few objects that handling it takes."""
        self._ballast.clear()
        self._is_exhausted = isinstance(error, MemoryError)
        _limit(_DATA, self._whole)
