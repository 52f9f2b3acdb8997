"""What the sandboxes of a run used, measured from outside."""

import time
from dataclasses import dataclass, replace

from service.loop.values import SandboxUse
from service.sandboxes.sandbox import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    sandbox: Sandbox
    since: float
    """Like `until` on the clock of `time.monotonic`."""
    cpu_before_s: float
    """What earlier runs of its session used."""
    until: float | None = None


class SandboxUses:
    """The sandboxes that a session's present run has had, one after the other."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def __repr__(self) -> str:
        return f"<SandboxUses {len(self._held)}>"

    def begin_run(self, sandbox: Sandbox | None) -> None:
        """Count for another run from here on; `sandbox` is what the session has already."""
        self._held.clear()
        if sandbox is not None and sandbox.is_running:
            self._hold(sandbox, cpu_before_s=0.0 if sandbox.seen is None else sandbox.seen.cpu_s)

    def began(self, sandbox: Sandbox) -> None:
        """The run has got a sandbox that nobody used before."""
        self._hold(sandbox, cpu_before_s=0.0)

    def ended(self) -> None:
        """The sandbox that it had last is given up. Idempotent."""
        if self._held and self._held[-1].until is None:
            self._held[-1] = replace(self._held[-1], until=time.monotonic())

    async def measured(self) -> tuple[SandboxUse, ...]:
        """All of them, in order; that which still runs is measured now. Bounded; never raises."""
        now = time.monotonic()  # measuring takes its time, which nobody has used the sandbox for
        if self._held and self._held[-1].until is None and self._held[-1].sandbox.is_running:
            await self._held[-1].sandbox.measure()
        return tuple(_use(held, now) for held in self._held)

    def _hold(self, sandbox: Sandbox, *, cpu_before_s: float) -> None:
        self._held.append(_Held(sandbox=sandbox, since=time.monotonic(), cpu_before_s=cpu_before_s))


def _use(held: _Held, now: float) -> SandboxUse:
    seen = held.sandbox.seen
    return SandboxUse(
        sandbox_id=held.sandbox.sandbox_id,
        cpu_s=None if seen is None else round(max(0.0, seen.cpu_s - held.cpu_before_s), 3),
        memory_peak_bytes=None if seen is None else seen.memory_peak_bytes,
        held_s=round((held.until or now) - held.since, 3),
    )
