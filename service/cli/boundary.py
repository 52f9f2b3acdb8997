"""The one place where a command's failure becomes a sentence and an exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Literal, NoReturn

import anyio
import structlog

from service.cli import exit_codes
from service.cli.exit_codes import ExitCode
from service.cli.hints import sentence_of
from service.cli.streams import OutputLost, abandon_out, flush_out, hold_standard_descriptors
from service.cli.visible import visible_line
from service.errors import RlmServiceError, sole_failure
from service.settings import Settings, read_settings


def run_command(
    command: Callable[[], Awaitable[ExitCode]], *, show_traceback: bool, keeps_log: bool = False
) -> NoReturn:
    """Run a command to its end and leave the process with its exit code. One that serves `keeps_log` on stderr."""
    hold_standard_descriptors()
    _configure_log("info" if keeps_log else "warning" if show_traceback else "critical")
    _take_signals()
    _leave(_exit_code(command, show_traceback=show_traceback))


def _take_signals() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `entry.main` left it
        # asyncio takes SIGINT over from Python's own handler and from no other.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for polite in (signal.SIGTERM, signal.SIGHUP):
        # Whoever stops us politely, or closes the terminal, wants what Ctrl-C does: cancel, settle, print what there
        # is.
        if signal.getsignal(polite) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(polite, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def _leave(code: ExitCode) -> NoReturn:
    sys.stderr.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # A worker thread that still waits for a disk or a pipe; Python would wait for it.
        os._exit(code)
    sys.exit(code)


def _exit_code(command: Callable[[], Awaitable[ExitCode]], *, show_traceback: bool) -> ExitCode:
    async def as_coroutine() -> ExitCode:
        return await command()

    try:
        code = anyio.run(as_coroutine)
        flush_out()
    except KeyboardInterrupt:
        abandon_out()
        return ExitCode.CANCELLED
    except Exception as error:  # noqa: BLE001  # the named boundary: whatever happened, one sentence and a code
        return _explain(error, show_traceback=show_traceback)
    return code


def _explain(error: Exception, *, show_traceback: bool) -> ExitCode:
    cause = sole_failure(error)
    try:
        flush_out()
    except (OutputLost, BrokenPipeError):
        abandon_out()
    if isinstance(cause, BrokenPipeError):
        return ExitCode.PIPE_CLOSED
    if show_traceback:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(cause, RlmServiceError):
        sys.stderr.write(f"rlm-service: {visible_line(sentence_of(cause))}\n")
        return exit_codes.of_error(cause)
    where = traceback.extract_tb(cause.__traceback__)[-1:] if cause.__traceback__ else []
    place = f" at {os.path.basename(where[0].filename)}:{where[0].lineno}" if where else ""
    what = f"{type(cause).__name__}{place}: {visible_line(str(cause), 300)}"
    sys.stderr.write(f"rlm-service: a defect of this program, please report it with --traceback: {what}\n")
    return ExitCode.INTERNAL


def without_warm_sandboxes() -> Settings:
    """The settings for a command that runs no code: it need not start a sandbox only to end it again."""
    return replace(read_settings(), warm_sandboxes=0)


def wants_colour() -> bool:
    """https://no-color.org. A convention of terminals, not a setting of the service, hence not in `settings`."""
    return not os.environ.get("NO_COLOR")


def _configure_log(least: Literal["info", "warning", "critical"]) -> None:
    """stdout belongs to the answer, and what a person should know comes as progress or as the one sentence.

    The log says the same once more, with tracebacks: it is there for reports of defects, and for those who run a
    service, of which nobody sees progress.
    """
    structlog.configure(
        # Tracebacks without local variables, which structlog's own would print: they hold contexts, code and grants.
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
