"""A value on its way from the kernel to the host."""

from collections.abc import Callable
from contextlib import suppress

from .kernel_exit import KernelLost
from .kernel_life import KernelLife
from .kernel_messages import ValueOutcome

_PATIENCE_MS = 60_000


class ValueStream:
    """`close` gives the kernel back."""

    def __init__(self, life: KernelLife, outcome: ValueOutcome, release: Callable[[], None]) -> None:
        self._life = life
        self._release = release
        self._left = outcome.size_bytes
        self.outcome = outcome

    def next_chunk(self) -> bytes:
        """Empty at the end. Raises `KernelLost`."""
        if self._left == 0:
            return b""
        chunk = self._life.next_chunk(_PATIENCE_MS)
        if len(chunk) > self._left:
            raise self._life.bury("the kernel broke the protocol: more of a value than it announced")
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Reads to the end even if nobody wants it: the kernel can do nothing else until it has sent everything."""
        try:
            with suppress(KernelLost):
                while self._left:
                    self.next_chunk()
        finally:
            self._release()
