"""How the command line ends: one table, documented in docs/cli.md, tied to the error tree by a test."""

from enum import IntEnum
from typing import assert_never

from service.errors import Fault, RlmServiceError
from service.loop.values import AnswerSource, StopReason


class ExitCode(IntEnum):
    """What scripts may rely on."""

    ANSWERED = 0
    """The model submitted an answer, or the command did what it says."""
    INTERNAL = 1
    """A defect of this program."""
    BAD_USAGE = 2
    """The command, a file, a value or a setting is wrong, or a key is missing; nothing was started."""
    STOPPED = 3
    """A limit ended the run; what it had is printed, with its source on stderr."""
    POLICY = 4
    """Understood and not allowed: sandbox refused, no budget for even one call."""
    PROVIDER = 5
    """The language model's provider failed."""
    PLATFORM = 6
    """The store, the sandbox or the disk failed, or stdout could not be written."""
    DIFFERS = 7
    """A replay came out otherwise, or did not come to its end in time."""
    CANCELLED = 130
    """Ctrl-C, SIGTERM, SIGHUP or `runs cancel`; what the run had is printed."""
    PIPE_CLOSED = 141
    """Whoever read our output went away."""


EXIT_CODE_OF_FAULT: dict[Fault, ExitCode] = {
    Fault.CALLER: ExitCode.BAD_USAGE,
    Fault.POLICY: ExitCode.POLICY,
    Fault.PLATFORM: ExitCode.PLATFORM,
    Fault.PROVIDER: ExitCode.PROVIDER,
}


EXIT_CODE_OF_CODE: dict[str, ExitCode] = {
    "missing_api_key": ExitCode.BAD_USAGE,
}
"""Where the fault alone would mislead: whoever types the command is also who sets its environment."""


def of_error(error: RlmServiceError) -> ExitCode:
    return EXIT_CODE_OF_CODE.get(error.code, EXIT_CODE_OF_FAULT[error.fault])


def of_run(stop_reason: StopReason, source: AnswerSource) -> ExitCode:
    """An answer asked for at a limit is a `STOPPED` run: a script must not take it for a submitted one."""
    match stop_reason:
        case StopReason.ANSWERED:
            return ExitCode.ANSWERED if source is AnswerSource.SUBMITTED else ExitCode.STOPPED
        case StopReason.CELL_DONE:
            return ExitCode.ANSWERED
        case (
            StopReason.TURN_LIMIT
            | StopReason.BUDGET
            | StopReason.TOKEN_LIMIT
            | StopReason.DEADLINE
            | StopReason.NO_PROGRESS
            | StopReason.ANSWER_TOO_LARGE
        ):
            return ExitCode.STOPPED
        case StopReason.SUSPENDED:
            return ExitCode.POLICY
        case StopReason.CANCELLED:
            return ExitCode.CANCELLED
        case StopReason.MODEL_FAILED:
            return ExitCode.PROVIDER
        case StopReason.SANDBOX_LOST | StopReason.STORE_FAILED | StopReason.DIVERGED:
            return ExitCode.PLATFORM
        case StopReason.INTERNAL_ERROR:
            return ExitCode.INTERNAL
        case _:
            assert_never(stop_reason)
