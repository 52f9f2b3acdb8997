"""The one place for a kernel: who may talk to the one that is there, and that another follows it."""

import threading
import time
from contextlib import suppress

from .host_calls import HostCalls
from .kernel_birth import KernelBirth, KernelTerms
from .kernel_exit import KernelLost
from .kernel_life import KernelLife
from .waker import Waker
from .zygote import Zygote

_LOOK_S = 0.02


class KernelSeat:
    """Between `acquire` (or `clear`) and `release`, the caller may talk to the kernel, and nobody else does."""

    def __init__(self, zygote: Zygote, birth: KernelBirth, host_calls: HostCalls) -> None:
        self._zygote = zygote
        self._birth = birth
        self._host_calls = host_calls
        self._lock = threading.Lock()  # whoever holds it may talk to the kernel, and replace it
        self._life: KernelLife | None = None
        self._terms: KernelTerms | None = None
        self.waker = Waker()
        self.lives = 0
        self.unreported_loss: str | None = None
        """How a kernel was lost of which no cell's result has told yet."""

    @property
    def life(self) -> KernelLife:
        """The kernel that is there, or the last one, if it has ended and none could follow."""
        assert self._life is not None
        return self._life

    def living(self) -> KernelLife:
        """Raises `KernelLost` where it has ended."""
        self.life.check_alive()
        return self.life

    def stand_by(self) -> None:
        """Have a kernel ready before there are terms for it. One that does not come up is tried again in `begin`.

        Raises:
            ZygoteLost: no kernel can come up any more.
        """
        with self._lock, suppress(KernelLost):
            self._fork()

    def acquire(self, patience_s: float) -> bool:
        """Whether it could be had in this time."""
        return self._lock.acquire(timeout=patience_s)

    def clear(self, why: str, patience_s: float) -> bool:
        """`acquire`, and end the kernel: the one that somebody else is talking to is killed under them."""
        deadline = time.monotonic() + patience_s
        killed: KernelLife | None = None
        while not self._lock.acquire(timeout=_LOOK_S):
            if time.monotonic() > deadline:
                return False
            if killed is None and self._life is not None:
                killed = self._life
                killed.kill(why)
        try:
            # Whoever talked to the one that was killed has left a new one behind.
            if self._life is not None and (killed is None or self._life is killed):
                self._life.bury(why)
        except BaseException:
            self._lock.release()
            raise
        return True

    def begin(self, terms: KernelTerms) -> KernelLife:
        """Put the terms in force, from now on for every kernel, in the one that stands by or in a new one.

        Raises:
            KernelLost: none came up.
        """
        life = self._begin(terms)
        self._terms = terms
        return life

    def release(self, *, reported: bool = False) -> None:
        """Leave a living kernel behind: one that died is replaced at once.

        A loss that the host was not told of in a cell's result (`reported`) is told by the next cell, so that no cell
        runs in a namespace that is silently new.
        """
        try:
            if reported:
                self.unreported_loss = None
            if self._life is not None and self._life.ended_with is not None and self._terms is not None:
                self._host_calls.abandon()
                if not reported:
                    self.unreported_loss = f"the kernel was lost: {self._life.ended_with}"
                self._begin(self._terms)
        except KernelLost:
            pass  # the life has ended already, so the next cell reports it and the one after tries again
        finally:
            self._lock.release()

    def look_at_idle(self) -> None:
        """To be called now and then, by a thread that has nothing else to do. Raises `ZygoteLost`."""
        if self._terms is None or not self._lock.acquire(blocking=False):
            return
        try:
            if self._life is not None and self._life.ended_with is None:
                self._life.look_at_idle()
        except KernelLost:
            pass  # replaced below, and the next cell tells of it
        finally:
            self.release()

    def _begin(self, terms: KernelTerms) -> KernelLife:
        try:
            if self._life is None:
                raise KernelLost("it did not come up")
            self._life.check_alive()
        except KernelLost:
            life = self._fork()
        else:
            life = self._life
        life.begin(terms)
        return life

    def _fork(self) -> KernelLife:
        self.lives += 1
        self._life = KernelLife(self._zygote, self._birth, self.waker)
        return self._life
