"""What callers of a session ask for and get."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from service.errors import BadRequest
from service.ids import KeyId, RunId, SessionId
from service.journal.values import SessionDetails
from service.loop.events import NamespaceRebuilt
from service.loop.values import CellResult, ContextBinding, StopReason
from service.money import MAX_NANO_USD, NanoUSD

MAX_NAME_CHARS = 200
MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512

SessionState = Literal["idle", "ready", "busy", "paused", "closed"]
"""`idle`: no sandbox, the next use brings one up with everything in it. `ready`: its sandbox waits. `busy`: a run is in
it, on whatever replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as callers see it."""

    session_id: SessionId
    name: str
    metadata: Mapping[str, str]
    sub_model: str | None
    budget: NanoUSD | None
    created_at: float
    closed_at: float | None
    state: SessionState
    generation: int
    """How many sandboxes it has had."""
    run_id: RunId | None
    """Of the run that is in it."""
    isolation: str | None
    """What is in force in its sandbox, `provider/level`; None while it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAsked:
    """A direct cell."""

    code: str
    wall_s: float = 300.0
    """For everything, the wait for the session and for models included."""
    active_s: float = 120.0
    cost: NanoUSD | None = None
    """For the sub-calls it makes."""
    sub_model: str | None = None
    """None: the session's. Where it has none either, sub-calls of the cell are refused."""
    contexts: tuple[ContextBinding, ...] = ()
    """To be attached to the session before the cell runs, beside what it has."""
    key_id: KeyId | None = None
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that it descends from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """Some output of a running cell, in order. `missed_bytes` before it came faster than it was read."""

    stream: Literal["stdout", "stderr"]
    text: str
    missed_bytes: int


@dataclass(frozen=True, slots=True)
class Silence:
    """The cell goes on and has printed nothing for a while."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The cell runs on another replica: what it prints is not heard here before its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDone:
    """How a direct cell ended. `result` is None where it never ran. `rebuilt` is how the session's namespace came back,
    if it had to: before the cell, or after it where that ended the interpreter."""

    run_id: RunId
    stop_reason: StopReason
    result: CellResult | None
    rebuilt: NamespaceRebuilt | None
    message: str
    spent: NanoUSD


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionChange:
    """What is to be different; None leaves a thing as it is."""

    name: str | None = None
    metadata: Mapping[str, str] | None = None
    budget: NanoUSD | None = None
    sub_model: str | None = None


def changed(details: SessionDetails, change: SessionChange) -> SessionDetails:
    """The details with what is to be different."""
    return replace(
        details,
        name=details.name if change.name is None else change.name,
        metadata=details.metadata if change.metadata is None else dict(change.metadata),
        sub_model=details.sub_model if change.sub_model is None else change.sub_model,
        budget=details.budget if change.budget is None else change.budget,
    )


def check_change(change: SessionChange) -> None:
    """Raises `BadRequest` for what no session can have."""
    if change.name is not None and (len(change.name) > MAX_NAME_CHARS or not (change.name + " ").isprintable()):
        raise BadRequest(f"a session's name may have {MAX_NAME_CHARS} printable characters")
    if change.budget is not None and not 0 < change.budget <= MAX_NANO_USD:
        raise BadRequest("a session's budget must be above $0, and within what the ledger counts")
    metadata = change.metadata or {}
    keys_fit = all(0 < len(key) <= MAX_METADATA_KEY_CHARS for key in metadata)
    values_fit = all(len(value) <= MAX_METADATA_VALUE_CHARS for value in metadata.values())
    if len(metadata) > MAX_METADATA or not keys_fit or not values_fit:
        raise BadRequest(
            f"metadata may have {MAX_METADATA} keys of 1 to {MAX_METADATA_KEY_CHARS} characters, "
            f"with values of at most {MAX_METADATA_VALUE_CHARS}"
        )
