"""Functions in threads of their own that stop at each point that is named, and go on when the test says so: any
interleaving of two of them, and the same one each time."""

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

PATIENCE_S = 60.0

_P = ParamSpec("_P")
_T = TypeVar("_T")
_here = threading.local()


def pause() -> None:
    """A point to stop at, for a function that is stepped; nothing for anybody else."""
    stepped: Stepped | None = getattr(_here, "stepped", None)
    if stepped is not None:
        stepped.stop()


def paused_before(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, with such a point before it."""

    def stepped(*args: _P.args, **named: _P.kwargs) -> _T:
        pause()
        return function(*args, **named)

    return stepped


class Stepped:
    """One such function. It stands before its first line until it is stepped."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._may_go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._failure: BaseException | None = None
        self.is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Let it go on to the next point, if it is not over."""
        if not self.is_over:
            self._may_go.release()
            self._wait()

    def finish(self) -> None:
        """Let it do the rest."""
        while not self.is_over:
            self.step()
        self._thread.join(PATIENCE_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Called by the function itself."""
        self._stands.release()
        assert self._may_go.acquire(timeout=PATIENCE_S), "nobody lets it go on"

    def _wait(self) -> None:
        assert self._stands.acquire(timeout=PATIENCE_S), "it does not come to its next point"

    def _run(self) -> None:
        _here.stepped = self
        try:
            self.stop()
            self._act()
        except BaseException as failure:  # noqa: BLE001  raised again by `finish`
            self._failure = failure
        finally:
            self.is_over = True
            self._stands.release()
