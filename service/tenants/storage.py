"""How much is kept: bytes of blobs, each counted once however often it is referred to, at every level of a caller.

A referrer is whatever keeps a blob: a context, a run's answer, a session's file. It says so when it is made, and no
more when it is deleted. Only what one tenant keeps is put together: that another keeps the same shows nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.errors import NotFound
from service.ids import TenantId
from service.store.connection import Part, Store
from service.store.keys import Keys
from service.store.scripts import load_script
from service.tenants.errors import QuotaExceeded
from service.tenants.values import Level

MOST_BLOBS = 10_000
"""Of one referrer and call: a script must not hold the store up."""

_HOLD = load_script("service.tenants", "storage_hold.lua", leaves_keys=True)
_DROP = load_script("service.tenants", "storage_drop.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLeft:
    """How far a level has come with what it may keep."""

    kind: str
    limit_bytes: int
    used_bytes: int

    @property
    def left_bytes(self) -> int:
        return self.limit_bytes - self.used_bytes

    def require(self, wanted_bytes: int) -> None:
        """Raises `QuotaExceeded` where so many more do not fit."""
        if wanted_bytes > self.left_bytes:
            raise QuotaExceeded(
                f"this {self.kind} may keep {self.limit_bytes} bytes and keeps {self.used_bytes}, and this is "
                f"{wanted_bytes} more: delete contexts that are not needed",
                data={
                    "limit_name": "storage_bytes",
                    "level": self.kind,
                    "limit": self.limit_bytes,
                    "count": self.used_bytes,
                    "wanted": wanted_bytes,
                },
            )


class Storage:
    """What one tenant keeps. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId) -> None:
        self._store = store
        self._keys = Keys(tenant)

    async def hold(
        self, referrer: str, blobs: Mapping[str, int], levels: Sequence[Level], *, while_there: str | None = None
    ) -> None:
        """Count blobs (digest → bytes) as kept by `referrer`, or none. Idempotent; more may follow. With `while_there`,
        the key of the record that keeps them, they are counted only while that stands, and is not closed.

        Called after the payload is kept and before its id is given out.

        Raises:
            QuotaExceeded: a level would keep more than it may; delete what was kept, or nothing refers to it.
            NotFound: what `while_there` names is gone; nothing was counted.
        """
        assert len(blobs) <= MOST_BLOBS, "callers bound what one thing refers to"
        counters = [self._counter(level.kind, level.owner) for level in levels]
        limits: list[Part] = [
            "" if level.limits.storage_bytes is None else level.limits.storage_bytes for level in levels
        ]
        pairs: list[Part] = [part for digest, size in blobs.items() for part in (digest, size)]
        keys = [self._referrer(referrer), *counters, *([] if while_there is None else [while_there])]
        match await self._store.run(_HOLD, keys, [referrer, len(levels), *limits, *pairs], is_idempotent=True):
            case [b"held"]:
                return
            case [b"gone"]:
                raise NotFound("what was to keep this has been deleted or closed meanwhile")
            case [b"refused", int(index), bytes(most), bytes(used), bytes(wanted)]:
                level = levels[index - 1]
                StorageLeft(kind=level.kind, limit_bytes=int(most), used_bytes=int(used)).require(int(wanted))
            case reply:
                raise AssertionError(f"storage_hold.lua replied {reply!r}")

    async def drop(self, referrer: str) -> list[str]:
        """The referrer is gone. The digests that nothing of the tenant refers to any more. Idempotent.

        A reply that is lost and asked for again names none: what collects blobs must not rely on it alone.
        """
        keys = [self._referrer(referrer), self._counter("tenant", self._keys.tenant)]
        reply = await self._store.run(_DROP, keys, [referrer], is_idempotent=True)
        assert isinstance(reply, list)
        return [each.decode() for each in reply if isinstance(each, bytes)]

    async def left(self, levels: Sequence[Level]) -> StorageLeft | None:
        """Of the level that has least left; None when no level has a limit."""
        found = [
            StorageLeft(kind=level.kind, limit_bytes=most, used_bytes=await self.used_bytes(level))
            for level in levels
            if (most := level.limits.storage_bytes) is not None
        ]
        return min(found, key=lambda each: each.left_bytes, default=None)

    async def used_bytes(self, level: Level) -> int:
        reply = await self._store.read("GET", self._counter(level.kind, level.owner))
        return int(reply) if isinstance(reply, bytes) else 0

    def _referrer(self, name: str) -> str:
        return self._keys("storage", "of", name)

    def _counter(self, kind: str, owner: str) -> str:
        return self._keys("storage", kind, owner)
