"""How many at once: runs, sandboxes, model calls, sessions and contexts, at every level of a caller, across replicas.

What is counted is the set of those who count, each under its own id and with the time at which it lapses (the theory is
in quota_acquire.lua). Whoever holds a lease for work of its own renews it while it lives; a context or a session is
counted until it is deleted.
"""

from collections.abc import Sequence
from enum import StrEnum

from service.ids import TenantId
from service.store.connection import Clock, Part, Store
from service.store.fences import NO_FENCE, Fence
from service.store.keys import Keys
from service.store.scripts import load_fenced_script, load_script
from service.tenants.errors import ConcurrencyLimited, QuotaExceeded
from service.tenants.values import Level, limit

LEASE_S = 60.0
"""How long a lease for work lasts without being renewed: renew it three times as often."""
RENEWED_AT_ONCE = 1000

_ACQUIRE = load_script("service.tenants", "quota_acquire.lua", leaves_keys=True)
_RELEASE = load_fenced_script("service.tenants", "quota_release.lua")
_RENEW = load_script("service.tenants", "quota_renew.lua")


class Counted(StrEnum):
    """What there can be too many of; each is named as its limit."""

    PARALLEL_RUNS = "parallel_runs"
    QUEUED_RUNS = "queued_runs"
    SANDBOXES = "sandboxes"
    MODEL_CALLS = "model_calls"
    OPEN_SESSIONS = "open_sessions"
    OPEN_CONTEXTS = "open_contexts"


_STAYING = frozenset({Counted.OPEN_SESSIONS, Counted.OPEN_CONTEXTS})
"""What stays until somebody deletes it: waiting does not help."""


class Quotas:
    """What one tenant has at once. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId, now: Clock) -> None:
        """`now` is the store's clock: one that goes wrong on a replica lets nobody else's lease lapse."""
        self._store = store
        self._keys = Keys(tenant)
        self._now = now

    async def acquire(self, counted: Counted, lease_id: str, levels: Sequence[Level], *, for_s: float | None) -> None:
        """Count one more, at all levels or at none. Idempotent by the id; a lease that is held already is renewed.

        Args:
            counted: what.
            lease_id: whose place it is: the run's, call's, session's or context's own id.
            levels: those of the caller; the tenant's first.
            for_s: for work, `LEASE_S`; None for what stays.

        Raises:
            ConcurrencyLimited: too many at once, of what ends by itself.
            QuotaExceeded: too many, of what stays until it is deleted.
        """
        sets = [self._set(counted, level.kind, level.owner) for level in levels]
        found = [limit(level.limits, counted) for level in levels]
        limits: list[Part] = ["" if most is None else most for most in found]
        now = await self._now()
        arguments: list[Part] = [lease_id, repr(now), "+inf" if for_s is None else repr(now + for_s), *limits]
        keys = [self._leases(counted), *sets]
        match await self._store.run(_ACQUIRE, keys, arguments, is_idempotent=True):
            case [b"held"]:
                return
            case [b"refused", int(index), bytes(most), int(count)]:
                raise _refused(counted, levels[index - 1], int(most), count)
            case reply:
                raise AssertionError(f"quota_acquire.lua replied {reply!r}")

    async def renew(self, counted: Counted, lease_ids: Sequence[str], *, for_s: float) -> list[str]:
        """Let leases lapse later; those that have lapsed already, which must be acquired anew. Idempotent."""
        lost: list[str] = []
        now = await self._now()
        for start in range(0, len(lease_ids), RENEWED_AT_ONCE):
            arguments = [repr(now), repr(now + for_s), *lease_ids[start : start + RENEWED_AT_ONCE]]
            reply = await self._store.run(_RENEW, self._own_keys(counted), arguments, is_idempotent=True)
            assert isinstance(reply, list)
            lost += [each.decode() for each in reply if isinstance(each, bytes)]
        return lost

    async def release(self, counted: Counted, *lease_ids: str, within: Fence = NO_FENCE) -> None:
        """Give leases back, whoever took them. Idempotent. Where the fence does not stand nothing happens: they are
        somebody else's by now, under the same ids."""
        if lease_ids:
            await self._store.run(_RELEASE, self._own_keys(counted), lease_ids, is_idempotent=True, fence=within)

    async def count(self, counted: Counted, level: Level) -> int:
        """How many there are now."""
        now = repr(await self._now())
        reply = await self._store.read("ZCOUNT", self._set(counted, level.kind, level.owner), f"({now}", "+inf")
        assert isinstance(reply, int)
        return reply

    def _own_keys(self, counted: Counted) -> list[str]:
        return [self._leases(counted), self._set(counted, "tenant", self._keys.tenant)]

    def _leases(self, counted: Counted) -> str:
        return self._keys("quota", counted)

    def _set(self, counted: Counted, kind: str, owner: str) -> str:
        return self._keys("quota", counted, kind, owner)


def _refused(counted: Counted, level: Level, most: int, count: int) -> ConcurrencyLimited | QuotaExceeded:
    what = counted.replace("_", " ")
    data = {"limit_name": counted.value, "level": level.kind, "limit": most, "count": count}
    if counted in _STAYING:
        return QuotaExceeded(f"this {level.kind} may have {most} {what} and has {count}: delete some", data=data)
    return ConcurrencyLimited(
        f"this {level.kind} may have {most} {what} and has {count}: try again when one of them has ended", data=data
    )
