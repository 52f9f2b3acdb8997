"""When a SIGINT may become a `KeyboardInterrupt`: while a cell's code runs, and never in the kernel's own loop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class Interrupts:
    """Owns the signal's disposition. `restore` before every piece of foreign code, since code may have replaced it."""

    def __init__(self) -> None:
        self._armed = False
        self._holds = 0
        self._pending = False

    def restore(self) -> None:
        signal.signal(signal.SIGINT, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def run(self, work: Callable[[], Result]) -> Result | BaseException:
        """Run foreign code interruptibly; its exception, of any kind, is returned and not raised."""
        self._pending = False
        self._holds = 0
        try:
            try:
                self._armed = True
                return work()
            except BaseException as error:
                return error
            finally:
                self._armed = False
        except KeyboardInterrupt as late:  # it struck within one of the two handlers above
            self._armed = False
            return late

    @contextmanager
    def held(self) -> Iterator[None]:
        """For a few lines of ours that must not be torn (a frame half sent): the interrupt strikes after them.

        Only the main thread is ever interrupted, so only it holds.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._pending and self._armed and self._holds == 0:
            self._pending = False
            raise KeyboardInterrupt

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._holds:
            self._pending = True
            return
        raise KeyboardInterrupt
