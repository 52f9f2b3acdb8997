"""The sandboxes whose containers are known: whose each is, who holds it, and when the first of them must go."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio

from service.sandboxes.launcher.owners import is_same_owner
from service.sandboxes.launcher.usage import Usage


class Refused(Exception):
    """The request cannot be granted; the message says why and what to do."""


@dataclass(slots=True, eq=False)
class Held:
    """A sandbox whose container is known."""

    sandbox_id: str
    container_id: str
    pid: int
    uid: int | None
    deadline_s: int
    owner: str
    """`owners.owner_of` its key."""
    is_ours: bool
    """Leased from this launcher. Another one may serve the same directory, and what it leased is only known here."""
    exit_status: int | None = None
    leases: int = 0
    """Connections that hold it."""
    usage: Usage | None = None
    """As the engine said last, where it has to be asked."""
    usage_at: float = 0.0
    ended: anyio.Event = field(default_factory=anyio.Event)


class HeldSandboxes:
    """All of them, by sandbox id."""

    def __init__(self, *, now: Callable[[], float], on_end: Callable[[Held], None]) -> None:
        """`on_end` is told of each that has ended, once."""
        self._now = now
        self._on_end = on_end
        self._held: dict[str, Held] = {}
        self._deadlines_changed = anyio.Event()

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._held

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._held)

    def add(self, held: Held) -> None:
        self._held[held.sandbox_id] = held
        self._deadlines_changed.set()
        self._deadlines_changed = anyio.Event()

    def get(self, sandbox_id: str) -> Held | None:
        """Whoever's it is."""
        return self._held.get(sandbox_id)

    def of(self, sandbox_id: str, owner: str) -> Held:
        """The owner's. Raises `Refused`, with the same words for another's as for none."""
        held = self._held.get(sandbox_id)
        if held is None or not is_same_owner(held.owner, owner):
            raise Refused(f"no sandbox {sandbox_id} runs")
        return held

    def forget(self, held: Held, *, exit_status: int) -> None:
        """It has ended. Idempotent."""
        if self._held.get(held.sandbox_id) is held:
            del self._held[held.sandbox_id]
        if not held.ended.is_set():
            held.exit_status = exit_status
            held.ended.set()
            self._on_end(held)

    async def wait_for_deadline(self) -> None:
        """Until the first deadline there is, also one that comes while this waits."""
        while True:
            changed = self._deadlines_changed
            deadlines = [held.deadline_s for held in self._held.values()]
            with anyio.move_on_after(min(deadlines) - self._now() if deadlines else None) as until_first:
                await changed.wait()
            if until_first.cancelled_caught:
                return

    def __repr__(self) -> str:
        return f"<HeldSandboxes: {len(self._held)}>"
