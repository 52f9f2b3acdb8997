"""What happens to the sandbox of a session that nobody uses: it is paused, and later ended.

Paused it takes memory and no processor time, and goes on where it stood at the next use. Ended it takes nothing: the
next use builds it anew from the session's log, which shows as another generation. Only providers that can pause do
(Docker); a process that waits for its host takes no processor time anyway.
"""

from dataclasses import dataclass
from enum import Enum, auto

SWEEP_S = 5.0
"""How often idle sessions are looked for; how late one may be paused or ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePatience:
    """How long a session's sandbox may be idle. None: for ever."""

    pause_s: float | None
    end_s: float | None


class Rest(Enum):
    """What an idle sandbox comes to."""

    NONE = auto()
    PAUSE = auto()
    END = auto()


def rest_of(idle_s: float, *, is_paused: bool, patience: IdlePatience) -> Rest:
    """What is due after so long without use."""
    if patience.end_s is not None and idle_s >= patience.end_s:
        return Rest.END
    if patience.pause_s is not None and idle_s >= patience.pause_s and not is_paused:
        return Rest.PAUSE
    return Rest.NONE
