"""The levels of work that goes on after its request: the limits of a tenant and its keys as they are now."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import TypeAdapter

from service.ids import KeyId, TenantId
from service.store.connection import Command, Store
from service.tenants.key_plans import StoredKey
from service.tenants.recent import Recent
from service.tenants.records import api_key_key, tenant_key
from service.tenants.tenants import parse_tenant
from service.tenants.values import NO_LIMITS, CallerLimits, Level

REMEMBERED_S = 1.0
"""What a changed limit takes to be in force for runs under way."""
REMEMBERED_LINES = 10_000

_STORED = TypeAdapter(StoredKey)


class CurrentLevels:
    """Cheap enough for every model call: who asks is looked up once in `REMEMBERED_S`."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._recent: Recent[tuple[TenantId, tuple[KeyId, ...]], tuple[Level, ...]] = Recent(
            REMEMBERED_LINES, REMEMBERED_S, now
        )

    def __repr__(self) -> str:
        return f"<CurrentLevels {self._recent!r}>"

    async def of(self, tenant: TenantId, key_line: Sequence[KeyId]) -> tuple[Level, ...]:
        """The tenant first, then the keys in this order. One whose record is gone limits nothing any more.

        Raises:
            StoreFailed: nobody can tell.
        """
        line = (tenant, tuple(key_line))
        levels = self._recent.get(line)
        if levels is None:
            levels = await self._look_up(*line)
            self._recent.put(line, levels)
        return levels

    async def _look_up(self, tenant: TenantId, key_line: tuple[KeyId, ...]) -> tuple[Level, ...]:
        asked: list[Command] = [("HGET", key, "record") for key in (tenant_key(tenant), *map(api_key_key, key_line))]
        record, *keys = await self._store.read_many(asked)
        return (
            _level("tenant", tenant, parse_tenant(record).limits if isinstance(record, bytes) else NO_LIMITS),
            *(
                _level("key", key_id, _STORED.validate_json(kept).key.limits if isinstance(kept, bytes) else NO_LIMITS)
                for key_id, kept in zip(key_line, keys, strict=True)
            ),
        )


def _level(kind: Literal["tenant", "key"], owner: str, limits: CallerLimits) -> Level:
    return Level(kind=kind, owner=owner, limits=limits)
