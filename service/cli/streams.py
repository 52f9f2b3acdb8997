"""stdout and stderr as a command needs them: stdout tells when it cannot be written, stderr never gets in the way.

Everything that goes to stdout goes through `write_out`, so that a full disk or a closed descriptor behind it becomes a
sentence. A reader that went away is something else (`BrokenPipeError`, which `boundary` knows).
"""

import io
import os
import sys
from typing import Never

from service.errors import Fault, RlmServiceError


class OutputLost(RlmServiceError):
    """What was to be printed or saved could not be. An answer is kept all the same."""

    code = "output_lost"
    fault = Fault.PLATFORM

    def __init__(self, where: str, reason: str, *, run_id: str | None = None) -> None:
        """With `run_id` it was that run's answer."""
        kept = f"; `rlm-service runs show {run_id} --answer` prints it" if run_id else ""
        what = f"the answer could not be written to {where}" if run_id else f"{where} could not be written"
        super().__init__(f"{what}: {reason}{kept}", data={"where": where})
        self.where = where
        self.reason = reason


def hold_standard_descriptors() -> None:
    """Keep 0, 1 and 2 taken where the caller closed them, or else the next files that are opened stand there.

    `sys.stdout` stays None where it was closed. `sys.stderr` becomes one that swallows what nobody can take.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Forgiving()), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def write_out(text: str) -> None:
    """Print on stdout.

    Raises:
        OutputLost: it was not taken.
        BrokenPipeError: nobody reads any more.
    """
    try:
        if sys.stdout is None:
            _refuse_closed()
        sys.stdout.write(text)
    except OSError as error:
        _refuse(error)


def write_out_bytes(data: bytes) -> None:
    """The same for bytes, as they are. Not to be mixed with text that is not flushed."""
    try:
        if sys.stdout is None:
            _refuse_closed()
        sys.stdout.buffer.write(data)
    except OSError as error:
        _refuse(error)


def flush_out() -> None:
    """Raises as `write_out` does: only now is it known whether what was written before has been taken."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _refuse(error)


def is_terminal() -> bool:
    """Whether stdout is looked at by a person."""
    return sys.stdout is not None and sys.stdout.isatty()


def abandon_out() -> None:
    """Forget what stdout has not taken: Python flushes it once more at exit, and must not complain then."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_closed() -> Never:
    raise OutputLost("stdout", "it is closed")


def _refuse(error: OSError) -> Never:
    if isinstance(error, BrokenPipeError):
        raise error
    raise OutputLost("stdout", error.strerror or type(error).__name__) from error


class _Forgiving(io.RawIOBase):
    """Descriptor 2. Progress that a full disk or a closed terminal does not take must not cost the answer."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        try:
            return os.write(2, data)
        except BlockingIOError:
            return len(data)  # a terminal that somebody made non-blocking, and that is full
        except OSError:
            return len(data)
