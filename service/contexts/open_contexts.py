"""Open contexts: parts come one by one, each as large as it likes, until the whole is sealed into a context.

Key (under the tenant's tag): `open_context:{id}`, a hash: `name`, `created_at`, `count`, and `part:{name}` with the
part's place and facts; `open_contexts` the ids by when they end. Nothing can be asked about an open context, and one
that nobody adds to is forgotten.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from service.contexts.intake import check_name
from service.contexts.redis_contexts import MOST_PARTS, Contexts
from service.contexts.values import Context, Part
from service.errors import BadRequest, Fault, NotFound, RlmServiceError
from service.ids import ContextId, TenantId, new_id
from service.store.connection import Store
from service.store.keys import Keys
from service.store.scripts import load_script

OPEN_FOR_S = 24 * 3600
"""Since the last part came."""

KeepParts = Callable[[Sequence[Part]], Awaitable[None]]
"""Counts parts as kept; called before the context refers to them, and whatever it raises refuses them."""

_PUT_PART = load_script("service.contexts", "put_part.lua")
_END_LAPSED = load_script("service.contexts", "end_lapsed.lua", leaves_keys=True)


class ContextSealed(RlmServiceError):
    """The context is sealed, so nothing of it changes any more."""

    code = "context_sealed"
    fault = Fault.CALLER


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenPart:
    """A part of an open context."""

    part: Part
    preview: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenContext:
    """A context whose parts are still coming, in the order in which they came first."""

    context_id: ContextId
    name: str
    created_at: float
    parts: tuple[TakenPart, ...]


_TAKEN = TypeAdapter(TakenPart)


class OpenContexts:
    """The open contexts of one tenant."""

    def __init__(self, store: Store, tenant: TenantId, contexts: Contexts) -> None:
        self._store = store
        self._keys = Keys(tenant)
        self._contexts = contexts

    async def open(self, name: str) -> OpenContext:
        """A context without parts.

        Raises:
            BadRequest: the name cannot be one.
        """
        check_name(name)
        context_id, now = ContextId(new_id("ctx")), time.time()
        await self._store.leave(
            ("HSET", self._key(context_id), "name", name, "created_at", repr(now), "count", "0"),
            ("EXPIRE", self._key(context_id), OPEN_FOR_S),
            ("ZADD", self._ends, repr(now + OPEN_FOR_S), context_id),
        )
        return OpenContext(context_id=context_id, name=name, created_at=now, parts=())

    async def get(self, context_id: ContextId) -> OpenContext:
        """Raises `NotFound` when there is none (any more), also when it is sealed."""
        reply = await self._store.read("HGETALL", self._key(context_id))
        assert isinstance(reply, list)
        if not reply:
            raise _absent(context_id)
        fields = {
            name.decode(): value
            for name, value in zip(reply[::2], reply[1::2], strict=True)
            if isinstance(name, bytes) and isinstance(value, bytes)
        }
        placed = [
            (int(place), _TAKEN.validate_json(kept))
            for name, value in fields.items()
            if name.startswith("part:")
            for place, _, kept in [value.partition(b" ")]
        ]
        return OpenContext(
            context_id=context_id,
            name=fields["name"].decode(),
            created_at=float(fields["created_at"]),
            parts=tuple(taken for _, taken in sorted(placed, key=lambda pair: pair[0])),
        )

    async def put_part(self, context_id: ContextId, name: str, source: AsyncIterator[bytes], keep: KeepParts) -> Part:
        """Add a part, or replace the one of its name. The part is there when this returns, whole, or not at all.
        `keep` counts it first.

        Raises:
            NotFound: there is no such context.
            ContextSealed: it takes no parts any more.
            BadRequest: the part is not UTF-8 text, its name cannot be one, or there are `MOST_PARTS` already.
        """
        if await self._store.read("EXISTS", self._key(context_id)) != 1:
            raise await self._not_open(context_id)
        part, preview = await self._contexts.take_part(name, source)
        await keep([part])
        kept = _TAKEN.dump_json(TakenPart(part=part, preview=preview))
        arguments: list[str | bytes | int] = [
            *(name, kept, MOST_PARTS, OPEN_FOR_S * 1000),
            *(context_id, repr(time.time() + OPEN_FOR_S)),
        ]
        match await self._store.run(_PUT_PART, [self._key(context_id), self._ends], arguments, is_idempotent=True):
            case b"kept":
                return part
            case b"full":
                raise BadRequest(f"a context has at most {MOST_PARTS} parts: put several texts into one")
            case _:
                raise await self._not_open(context_id)

    async def seal(self, context_id: ContextId, keep: KeepParts) -> Context:
        """Make a context of it: a dict from part name to text. `keep` counts all of it first. Idempotent.

        Raises:
            NotFound: there is no such context.
            BadRequest: it has no parts, or all are empty.
        """
        try:
            opened = await self.get(context_id)
        except NotFound:
            return await self._contexts.get(context_id)
        if not opened.parts:
            raise BadRequest(f"context {context_id} has no parts: put at least one")
        await keep([taken.part for taken in opened.parts])
        context = await self._contexts.keep_parts(
            context_id, opened.name, [(taken.part, taken.preview) for taken in opened.parts]
        )
        await self._store.write_many([("DEL", self._key(context_id)), ("ZREM", self._ends, context_id)])
        return context

    async def delete(self, context_id: ContextId) -> None:
        """Forget it; its blobs stay until nothing refers to them. Raises `NotFound`."""
        was_there, *_ = await self._store.leave(
            ("DEL", self._key(context_id)),
            ("ZREM", self._ends, context_id),
            ("SADD", self._contexts.lives.left_key, context_id),
        )
        if was_there != 1:
            raise _absent(context_id)

    async def end_lapsed(self, now: float, limit: int) -> int:
        """Note of those whose time is over that they may still be counted (`Contexts.left`); how many. Idempotent."""
        reply = await self._store.read("ZRANGE", self._ends, "-inf", repr(now), "BYSCORE", "LIMIT", 0, limit)
        assert isinstance(reply, list)
        lapsed = 0
        for context_id in (ContextId(each.decode()) for each in reply if isinstance(each, bytes)):
            keys = [
                self._key(context_id),
                self._ends,
                self._keys("context", context_id),
                self._keys("contexts", "left"),
            ]
            lapsed += await self._store.run(_END_LAPSED, keys, [context_id, repr(now)], is_idempotent=True) == b"ended"
        return lapsed

    async def _not_open(self, context_id: ContextId) -> NotFound | ContextSealed:
        try:
            await self._contexts.get(context_id)
        except NotFound:
            return _absent(context_id)
        return ContextSealed(f"context {context_id} is sealed and takes no parts any more: open another one")

    @property
    def _ends(self) -> str:
        return self._keys("open_contexts")

    def _key(self, context_id: ContextId) -> str:
        return self._keys("open_context", context_id)


def _absent(context_id: ContextId) -> NotFound:
    return NotFound(f"there is no open context {context_id}")
