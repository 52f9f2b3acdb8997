"""Starting a thread ends: with the thread, or with `RuntimeError`, as code expects where no thread can be had.

CPython's `Thread.start` waits until the new thread reports in. One whose stack was the last thing that fitted into the
memory limit dies before it can, and `start` would wait for ever. So a thread needs room beside its stack before it is
tried; and where it dies young all the same (others took the room), that is noticed: what was to run in it has been
let go, which takes no code, and so no memory, in the thread itself.
"""

import functools
import mmap
import threading
import weakref
from collections.abc import Callable
from typing import Any

_ROOM_BYTES = 1 << 20
"""For a thread's first frames and the allocator's arena of its own, and for whoever handles that there is no more."""
_LOOK_S = 0.05
_STARTERS = ("_start_joinable_thread", "_start_new_thread")
"""What `threading.Thread.start` calls: since 3.13, and before."""


def bound_thread_starts(stack_bytes: int) -> None:
    """From now on, in this process, whose threads get stacks of this size."""
    threading.stack_size(stack_bytes)
    for name in _STARTERS:
        if (start := getattr(threading, name, None)) is not None:
            setattr(threading, name, _bounded(start, stack_bytes))


def _bounded(start: Callable[..., Any], stack_bytes: int) -> Callable[..., Any]:
    def start_and_wait(bootstrap: Any, *arguments: Any, **named: Any) -> Any:
        _check_room(stack_bytes)
        work = functools.partial(bootstrap)
        is_held = weakref.ref(work)
        started = start(work, *arguments, **named)
        del work  # from here on the thread alone holds it
        reports_in: threading.Event = bootstrap.__self__._started  # noqa: SLF001  (`start` waits for the same)
        while not reports_in.wait(_LOOK_S):
            if is_held() is None and not reports_in.is_set():
                raise _refusal()
        return started

    return start_and_wait


def _check_room(stack_bytes: int) -> None:
    try:
        mmap.mmap(-1, stack_bytes + _ROOM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise _refusal() from None


def _refusal() -> RuntimeError:
    """In CPython's words."""
    return RuntimeError("can't start new thread")
