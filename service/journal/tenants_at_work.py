"""Which tenants have runs, and which of them are at work: have submitted one lately, or have one that has not ended.

So who looks for abandoned runs every second asks after the tenants at work alone, in one round trip, however many
there are besides. A tenant is noted before its run is opened, and at most every `NOTED_FOR_S`; it is struck out when it
was not noted for `IDLE_AFTER_S`, which is much longer, and has no unfinished run. So no run is ever missed.

Keys, under no tenant's tag: `TENANTS` a set, of all that ever submitted a run; `AT_WORK` by when they were noted last.
"""

from collections.abc import Sequence

from service.ids import TenantId
from service.store.connection import Clock, ScriptCall, Store
from service.store.keys import Keys
from service.store.scripts import load_script

TENANTS = "rlm:tenants_with_runs"
AT_WORK = "rlm:tenants_at_work"
NOTED_FOR_S = 600.0
IDLE_AFTER_S = 3600.0
ASKED_AT_ONCE = 1000

_ABANDONED = load_script("service.journal", "abandoned.lua")
_NOTE = load_script("service.journal", "note_at_work.lua")
_STRIKE_OUT = load_script("service.journal", "strike_out.lua")


def unfinished_key(tenant: TenantId) -> str:
    """A tenant's unfinished root runs, with the time until which each is kept."""
    return Keys(tenant)("runs", "unfinished")


def ask_abandoned(unfinished: str, limit: int) -> ScriptCall:
    """For the unfinished root runs under this key that nobody keeps now, longest abandoned first. Idempotent."""
    return ScriptCall(script=_ABANDONED, keys=[unfinished], arguments=[limit])


async def note_at_work(store: Store, tenant: TenantId, at: float) -> None:
    """A run of it is about to be opened. Idempotent."""
    await store.run(_NOTE, [TENANTS, AT_WORK], [tenant, repr(at)], is_idempotent=True)


async def tenants_with_runs(store: Store) -> list[TenantId]:
    """Every tenant that has ever submitted a run."""
    reply = await store.read("SMEMBERS", TENANTS)
    assert isinstance(reply, list)
    return [TenantId(member.decode()) for member in reply if isinstance(member, bytes)]


async def forget_tenant(store: Store, tenant: TenantId) -> None:
    """Look for runs of a tenant that is erased no more. Idempotent."""
    await store.write("SREM", TENANTS, tenant)
    await store.write("ZREM", AT_WORK, tenant)


class TenantsAtWork:
    """As one replica asks after them, again and again."""

    def __init__(self, store: Store, now: Clock) -> None:
        self._store = store
        self._now = now
        self._has_taken_over = False
        """Whether those are noted that an earlier version of the service knew."""

    async def with_abandoned_runs(self) -> list[TenantId]:
        """Those that have a run which nobody drives."""
        if not self._has_taken_over:
            await self._take_over()
        reply = await self._store.read("ZRANGE", AT_WORK, 0, -1, "WITHSCORES")
        assert isinstance(reply, list)
        parts = [part.decode() for part in reply if isinstance(part, bytes)]
        noted = {TenantId(name): float(at) for name, at in zip(parts[::2], parts[1::2], strict=True)}
        names = list(noted)
        found: list[TenantId] = []
        for start in range(0, len(names), ASKED_AT_ONCE):
            found += await self._ask(names[start : start + ASKED_AT_ONCE])
        before = await self._now() - IDLE_AFTER_S
        await self._strike_out([name for name in names if noted[name] < before and name not in found], before)
        return found

    async def _ask(self, tenants: Sequence[TenantId]) -> list[TenantId]:
        calls = [ask_abandoned(unfinished_key(each), 1) for each in tenants]
        replies = await self._store.run_many(calls)
        return [tenant for tenant, reply in zip(tenants, replies, strict=True) if reply]

    async def _strike_out(self, tenants: Sequence[TenantId], before: float) -> None:
        for start in range(0, len(tenants), ASKED_AT_ONCE):
            some = tenants[start : start + ASKED_AT_ONCE]
            counts = await self._store.read_many([("ZCARD", unfinished_key(each)) for each in some])
            idle = [tenant for tenant, count in zip(some, counts, strict=True) if count == 0]
            if idle:
                await self._store.run(_STRIKE_OUT, [AT_WORK], [repr(before), *idle], is_idempotent=True)

    async def _take_over(self) -> None:
        known = await tenants_with_runs(self._store)
        for start in range(0, len(known), ASKED_AT_ONCE):
            noted = [part for each in known[start : start + ASKED_AT_ONCE] for part in ("0", each)]
            await self._store.write("ZADD", AT_WORK, "NX", *noted)
        self._has_taken_over = True
