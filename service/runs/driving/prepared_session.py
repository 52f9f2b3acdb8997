"""A prepared session: waited for, opened and bound beside the root LM's first call."""

from collections.abc import Awaitable, Callable

import anyio

from service.errors import NotFound, RlmServiceError
from service.loop.events import NamespaceRebuilt
from service.loop.values import SandboxUse
from service.runs.sessions.open_session import OpenSession
from service.runs.sessions.replaying import Rebuilt
from service.sandboxes.port import NoSandboxSlot, SandboxGone, SandboxRefused, SandboxStartFailed
from service.sandboxes.values import BindRefused

NO_SANDBOX = (SandboxRefused, SandboxStartFailed, SandboxGone, NoSandboxSlot, BindRefused, NotFound)
"""Why a run may have no (working) sandbox: facts about this run, where other errors are failures of the service."""


class PreparedSession:
    """A session that is waited for, opened and bound, while the root LM may already think.

    `take_seat` waits for the run's sandbox slots and its turn in the session; `open_session` brings up the sandbox.
    """

    def __init__(
        self,
        take_seat: Callable[[], Awaitable[OpenSession]],
        open_session: Callable[[OpenSession], Awaitable[None]],
    ) -> None:
        self._take_seat = take_seat
        self._open_session = open_session
        self._is_seated = anyio.Event()
        self._is_over = anyio.Event()
        self._session: OpenSession | None = None
        self._failure: RlmServiceError | None = None

    async def prepare(self) -> None:
        """Do it. That there is no sandbox to be had is kept for whoever needs it; anything else is a failure."""
        try:
            self._session = await self._take_seat()
            self._is_seated.set()
            await self._open_session(self._session)
        except NO_SANDBOX as exc:
            self._failure = exc
        finally:
            self._is_seated.set()
            self._is_over.set()

    async def seated(self) -> None:
        """Return once the run may begin: its slots are its own."""
        await self._is_seated.wait()

    async def ready(self) -> OpenSession:
        """The session with its sandbox; raises why there is none."""
        await self._is_over.wait()
        if self._failure is not None:
            raise self._failure
        assert self._session is not None, "preparing ends with a session or a failure"
        return self._session

    async def used(self) -> tuple[SandboxUse, ...]:
        """What the sandboxes that it has had so far used. Bounded; never raises."""
        return () if self._session is None else await self._session.uses.measured()


def rebuilt_event(rebuilt: Rebuilt, *, at: float) -> NamespaceRebuilt:
    """What the run's journal says of a rebuild."""
    return NamespaceRebuilt(
        at=at,
        cells=rebuilt.cells,
        missing=rebuilt.missing,
        diverged=rebuilt.diverged,
        missing_files=rebuilt.missing_files,
    )
