"""Open contexts: parts come one by one, each as large as it likes, until the whole is sealed into a context.

Key (under the tenant's tag): `open_context:{id}`, a hash: `name`, `created_at`, `count`, `version` (how often a part
was put) and `part:{name}` with the part's place and facts; `open_contexts` the ids by when they end. Nothing can be
asked about an open context, and one that nobody adds to is forgotten.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from service.contexts.intake import check_name
from service.contexts.redis_contexts import MOST_PARTS, ContextOpen, Contexts
from service.contexts.values import Context, Part
from service.errors import BadRequest, Fault, NotFound, RlmServiceError
from service.ids import ContextId, TenantId, new_id
from service.store.connection import Store
from service.store.keys import Keys
from service.store.scripts import load_script

OPEN_FOR_S = 24 * 3600
"""Since the last part came."""

KeepParts = Callable[[Sequence[Part]], Awaitable[None]]
"""Counts parts as kept while the context is open; called before the context refers to them, and whatever it raises
refuses them: `NotFound` when it is open no more."""
MOST_TRIES = 10
"""To seal what parts are put into at the same time."""

_PUT_PART = load_script("service.contexts", "put_part.lua")
_DELETE = load_script("service.contexts", "delete_open.lua", leaves_keys=True)
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
    version: int = 0
    """Goes up with every part that is put."""


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
        context_id, now = ContextId(new_id("ctx")), await self._store.now()
        await self._store.leave(
            ("HSET", self.key_of(context_id), "name", name, "created_at", repr(now), "count", "0"),
            ("EXPIRE", self.key_of(context_id), OPEN_FOR_S),
            ("ZADD", self._ends, repr(now + OPEN_FOR_S), context_id),
        )
        return OpenContext(context_id=context_id, name=name, created_at=now, parts=())

    async def get(self, context_id: ContextId) -> OpenContext:
        """Raises `NotFound` when there is none (any more), also when it is sealed."""
        reply = await self._store.read("HGETALL", self.key_of(context_id))
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
            version=int(fields.get("version", b"0")),
        )

    async def put_part(self, context_id: ContextId, name: str, source: AsyncIterator[bytes], keep: KeepParts) -> Part:
        """Add a part, or replace the one of its name. The part is there when this returns, whole, or not at all.
        `keep` counts it first.

        Raises:
            NotFound: there is no such context.
            ContextSealed: it takes no parts any more.
            BadRequest: the part is not UTF-8 text, its name cannot be one, or there are `MOST_PARTS` already.
        """
        if await self._store.read("EXISTS", self.key_of(context_id)) != 1:
            raise await self._not_open(context_id)
        part, preview = await self._contexts.take_part(name, source)
        try:
            await keep([part])
        except NotFound:
            raise await self._not_open(context_id) from None
        kept = _TAKEN.dump_json(TakenPart(part=part, preview=preview))
        arguments: list[str | bytes | int] = [
            *(name, kept, MOST_PARTS, OPEN_FOR_S * 1000),
            *(context_id, repr(await self._store.now() + OPEN_FOR_S)),
        ]
        match await self._store.run(_PUT_PART, [self.key_of(context_id), self._ends], arguments, is_idempotent=True):
            case b"kept":
                return part
            case b"full":
                raise BadRequest(f"a context has at most {MOST_PARTS} parts: put several texts into one")
            case _:
                raise await self._not_open(context_id)

    async def seal(self, context_id: ContextId, keep: KeepParts) -> Context:
        """Make a context of it: a dict from part name to text. `keep` counts all of it first. Idempotent. Every
        part whose putting has returned is in it.

        Raises:
            NotFound: there is no such context.
            BadRequest: it has no parts, or all are empty.
            ContextOpen: parts were put all the time; nothing was changed.
        """
        for _ in range(MOST_TRIES):
            try:
                context = await self._seal(context_id, keep)
            except NotFound:
                return await self._contexts.get(context_id)  # sealed before, or meanwhile
            if context is not None:
                return context
        raise ContextOpen(f"parts are still put into context {context_id}: seal it when all are there")

    async def _seal(self, context_id: ContextId, keep: KeepParts) -> Context | None:
        """None when a part came meanwhile."""
        opened = await self.get(context_id)
        if not opened.parts:
            raise BadRequest(f"context {context_id} has no parts: put at least one")
        await keep([taken.part for taken in opened.parts])
        parts = [(taken.part, taken.preview) for taken in opened.parts]
        return await self._contexts.seal(context_id, opened.name, parts, version=opened.version)

    async def delete(self, context_id: ContextId) -> None:
        """Forget it; its blobs stay until nothing refers to them. Raises `NotFound`, also when it is sealed."""
        keys = [self.key_of(context_id), self._ends, self._contexts.lives.left_key]
        if await self._store.run(_DELETE, keys, [context_id], is_idempotent=True) != b"gone":
            raise _absent(context_id)

    async def end_lapsed(self, now: float, limit: int) -> int:
        """Note of those whose time is over that they may still be counted (`ContextLives.left`); how many.

        Idempotent.
        """
        reply = await self._store.read("ZRANGE", self._ends, "-inf", repr(now), "BYSCORE", "LIMIT", 0, limit)
        assert isinstance(reply, list)
        lapsed = 0
        for context_id in (ContextId(each.decode()) for each in reply if isinstance(each, bytes)):
            sealed, left = self._keys("context", context_id), self._contexts.lives.left_key
            keys = [self.key_of(context_id), self._ends, sealed, left]
            lapsed += await self._store.run(_END_LAPSED, keys, [context_id, repr(now)], is_idempotent=True) == b"ended"
        return lapsed

    async def _not_open(self, context_id: ContextId) -> NotFound | ContextSealed:
        try:
            await self._contexts.get(context_id)
        except NotFound:
            return _absent(context_id)
        return ContextSealed(f"context {context_id} is sealed and takes no parts any more: open another one")

    def key_of(self, context_id: ContextId) -> str:
        """What is there for as long as it is open."""
        return self._keys("open_context", context_id)

    @property
    def _ends(self) -> str:
        return self._keys("open_contexts")


def _absent(context_id: ContextId) -> NotFound:
    return NotFound(f"there is no open context {context_id}")
