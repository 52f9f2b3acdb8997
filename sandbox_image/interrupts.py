"""When a SIGINT may become a `KeyboardInterrupt`: while a cell's code runs, and never in the kernel's own loop.

The same for what code leaves behind for Python to call: handlers of other signals, timers, trace functions.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Held here because a cell may replace them in the modules that it shares with the kernel.
_set_handler, _handler_of, _set_timer = signal.signal, signal.getsignal, signal.setitimer
_set_trace, _set_profile = sys.settrace, sys.setprofile


class Interrupts:
    """Owns the signal's disposition. `restore` before every piece of foreign code, since code may have replaced it."""

    def __init__(self) -> None:
        self._armed = False
        self._holds = 0
        self._pending: dict[int, Callable[[], object]] = {}

    def guard_handlers(self) -> None:
        """From now on, in this process, a signal's handler that code sets is called only while foreign code runs: a
        signal that comes between cells is dropped."""

        def set_handler(number: int, handler: Any) -> Any:
            old = _set_handler(number, _Guarded(handler, self) if callable(handler) else handler)
            return old.handler if isinstance(old, _Guarded) else old

        def handler_of(number: int) -> Any:
            handler = _handler_of(number)
            return handler.handler if isinstance(handler, _Guarded) else handler

        vars(signal).update(signal=set_handler, getsignal=handler_of)

    def restore(self) -> None:
        """Take back the signal, and take away the timers that code has left running."""
        _set_handler(signal.SIGINT, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for timer in _TIMERS:
            _set_timer(timer, 0)

    def run(self, work: Callable[[], Result]) -> Result | BaseException:
        """Run foreign code interruptibly; its exception, of any kind, is returned and not raised. What traces or
        profiles it does so no longer afterwards."""
        self._pending.clear()
        self._holds = 0
        try:
            try:
                self._armed = True
                return work()
            except BaseException as error:
                return error
            finally:
                _set_profile(None)
                _set_trace(None)
                self._armed = False
        except BaseException as late:  # a signal, or a trace function, struck within one of the two handlers above
            self._armed = False
            _set_trace(None)
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
        while self._pending and self._armed and self._holds == 0:
            _, act = self._pending.popitem()
            act()

    def strike(self, number: int, act: Callable[[], object]) -> None:
        """What a signal does to foreign code: now, behind what must not be torn, or never when none runs."""
        if not self._armed:
            return
        if self._holds:
            self._pending[number] = act
            return
        act()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.strike(number, _interrupt)


class _Guarded:
    """A handler that a cell has set."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], interrupts: Interrupts) -> None:
        self.handler = handler
        self._interrupts = interrupts

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._interrupts.strike(number, lambda: self.handler(number, frame))


def _interrupt() -> None:
    raise KeyboardInterrupt
