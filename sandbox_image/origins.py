"""Which run a thread or a task belongs to, so that what an earlier run left behind cannot spend a later run's money.

A guard against accidents, not against code that means harm: all runs of a session share one interpreter, and what an
earlier one did to it is in the way of the later one anyway.

A thread belongs to the run of whoever started it, work in a pool to whoever submitted it, a task to whoever made it
(tasks copy their context). A thread that came to be by other means belongs to the run in which it is first seen.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

_run: ContextVar[int] = ContextVar("run")


class Origins:
    """For a whole interpreter: `watch` is called once in it."""

    def __init__(self) -> None:
        self.run = 0
        self._threads: WeakKeyDictionary[threading.Thread, int] = WeakKeyDictionary()

    def begin_run(self) -> None:
        self.run += 1

    def open_cell(self) -> None:
        """On the main thread: what it makes from now on belongs to the run that is under way."""
        _run.set(self.run)

    def of_caller(self) -> int:
        """The run that the calling thread or task belongs to."""
        run = _run.get(None)
        if run is not None:
            return run
        thread = threading.current_thread()
        if thread is threading.main_thread():
            return self.run
        return self._threads.setdefault(thread, self.run)

    def watch(self) -> None:
        """Note from now on where threads, and work given to pools, come from."""
        start_thread, submit_work = threading.Thread.start, ThreadPoolExecutor.submit

        def start(thread: threading.Thread) -> None:
            self._threads[thread] = self.of_caller()
            start_thread(thread)

        def submit(pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
            return submit_work(pool, _Work(work, self.of_caller()), *args, **named)

        threading.Thread.start = start  # type: ignore[method-assign, assignment]
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign, assignment]


class _Work:
    """Something to call, in the run that it belongs to."""

    __slots__ = ("_call", "_run")

    def __init__(self, call: Callable[..., Any], run: int) -> None:
        self._call = call
        self._run = run

    def __call__(self, *args: Any, **named: Any) -> Any:
        before = _run.set(self._run)
        try:
            return self._call(*args, **named)
        finally:
            _run.reset(before)
