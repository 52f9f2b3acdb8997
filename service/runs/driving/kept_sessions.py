"""Sessions that outlive their runs, of all tenants on this replica: their sandboxes may wait for the next run."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from service.errors import Fault, RlmServiceError
from service.ids import RunId, SessionId, TenantId
from service.runs.sessions.idling import SWEEP_S, IdlePatience, Rest, rest_of
from service.runs.sessions.open_session import OpenSession
from service.sandboxes.slots import Chain
from service.store.errors import StaleEpoch
from service.store.rounds import tried_again


@dataclass(eq=False)
class Kept:
    """A session that outlives its runs. `slot` is its own, with `in_slot` holding it, while it has a sandbox."""

    session: OpenSession
    tenant: TenantId
    end_idle: Callable[["Kept"], Awaitable[None]]
    """What its tenant's seats do, unless somebody has come for it."""
    is_left: Callable[["Kept"], Awaitable[bool]]
    """Whether its record says that nobody comes back to this sandbox: the session was paused, closed or used elsewhere.
    Raises `StoreFailed`."""
    turnstile: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(1))
    """One run at a time: a host call is charged to the run whose cell is active."""
    run_id: RunId | None = None
    """Of the run that sits in it."""
    is_closed: bool = False
    """Nobody will come back to it: runs that were submitted before still run, and leave nothing behind."""
    slot: Chain | None = None
    in_slot: AsyncExitStack = field(default_factory=AsyncExitStack)
    is_in_slot: bool = False
    epoch: int = 0
    """Of its last claim by a run of this replica."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """A kept session as it stands on this replica."""

    session: OpenSession
    run_id: RunId | None
    """Of the run that is in it."""
    has_sandbox: bool


class SessionBusy(RlmServiceError):
    """A run is in the session; nothing was done."""

    code = "session_busy"
    fault = Fault.CALLER
    may_be_retried = True


@contextlib.contextmanager
def refused_where_taken(session_id: SessionId) -> Iterator[None]:
    """For a change between runs: a run on another replica that has come for the session meanwhile is `SessionBusy`."""
    try:
        yield
    except StaleEpoch as exc:
        raise SessionBusy(
            f"session {session_id} is in use by a run on another replica: try again when it has ended"
        ) from exc


class SessionPaused(RlmServiceError):
    """The session takes no work until it is resumed."""

    code = "session_paused"
    fault = Fault.CALLER


class KeptSessions:
    """The sessions of all tenants that are kept between runs on this replica: whoever needs a slot may end the
    sandbox of any that is idle."""

    def __init__(self) -> None:
        self.by_id: dict[SessionId, Kept] = {}

    def __repr__(self) -> str:
        return f"<KeptSessions {len(self.by_id)}>"

    async def rest(self, patience: IdlePatience, now_s: float) -> None:
        """Pause or end the sandboxes that have been idle for long enough, on the clock of `time.monotonic`; then end
        those of sessions that were paused or closed at another replica, or used there. One whose record cannot be read
        stays until it can be, and holds up no other.
        """
        await self._rest_idle(patience, now_s)
        await self._end_left()

    async def _rest_idle(self, patience: IdlePatience, now_s: float) -> None:
        for kept in list(self.by_id.values()):
            sandbox = kept.session.sandbox
            if sandbox is None or kept.run_id is not None:
                continue
            match rest_of(sandbox.idle_s(now_s), is_paused=sandbox.is_paused, patience=patience):
                case Rest.NONE:
                    continue
                case Rest.PAUSE:
                    await sandbox.pause()
                case Rest.END:
                    await kept.end_idle(kept)

    async def _end_left(self) -> None:
        for kept in list(self.by_id.values()):
            epoch = kept.epoch
            if not kept.is_in_slot or kept.run_id is not None:
                continue
            # Whoever came while its record was read has a sandbox that fits it.
            with tried_again("left_session_not_ended", tenant_id=kept.tenant, session_id=kept.session.session_id):
                if await kept.is_left(kept) and kept.epoch == epoch:
                    await kept.end_idle(kept)

    async def keep_resting(self, patience: IdlePatience) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(SWEEP_S)
            with tried_again("idle_sessions_not_rested"):
                await self.rest(patience, time.monotonic())
