"""What `doctor` finds: one line of its report each."""

from dataclasses import dataclass
from enum import StrEnum

from service.cli import exit_codes
from service.cli.exit_codes import ExitCode
from service.errors import RlmServiceError


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, and should be known."""
    MISSING = "missing"
    """Not available; nothing else depends on it."""
    BROKEN = "broken"
    """The service cannot do its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    subject: str
    state: State
    text: str
    details: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.ANSWERED
    """What the command ends with if this is the worst."""


def broken(subject: str, error: RlmServiceError) -> Finding:
    return Finding(
        subject=subject, state=State.BROKEN, text=str(error).removesuffix("."), exit_code=exit_codes.of_error(error)
    )
