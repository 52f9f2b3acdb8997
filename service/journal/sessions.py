"""Sessions: the small record of each, and the generation counter that fences its sandboxes."""

from collections.abc import Callable, Sequence

from pydantic import TypeAdapter

from service.errors import NotFound
from service.ids import RunId, SessionId, TenantId
from service.journal.values import SessionDetails, SessionRecord, SessionUsed
from service.store.connection import Part, Store
from service.store.errors import StaleEpoch, StoreFailed
from service.store.fences import NO_FENCE, STALE, Fence
from service.store.keys import Keys
from service.store.scripts import load_fenced_script, load_script

_CREATE = load_script("service.journal", "session_create.lua", leaves_keys=True)
_CLAIM = load_fenced_script("service.journal", "session_claim.lua")
_CHANGE = load_fenced_script("service.journal", "session_change.lua")
_DETAIL = load_script("service.journal", "session_details.lua")
_DETAILS = TypeAdapter(SessionDetails)

MOST_TRIES = 100
"""To change details that others change at the same time: each try that fails is one of theirs that did not."""


class Sessions:
    """The sessions of one tenant."""

    def __init__(self, store: Store, tenant: TenantId) -> None:
        self._store = store
        self._keys = Keys(tenant)

    async def create(self, record: SessionRecord) -> None:
        """Keep the record. Idempotent by id: an existing session stays as it is."""
        fields: list[Part] = [
            *("created_at", repr(record.created_at)),
            *("random_seed", record.random_seed),
            *("generation", record.generation),
            *("details", _DETAILS.dump_json(record.details)),
        ]
        keys = [self.key_of(record.session_id), self._keys("sessions")]
        await self._store.run(_CREATE, keys, [record.session_id, *fields], is_idempotent=True)

    async def get(self, session_id: SessionId) -> SessionRecord:
        """Raises `NotFound`."""
        reply = await self._store.read("HGETALL", self.key_of(session_id))
        assert isinstance(reply, list)
        if not reply:
            raise _absent(session_id)
        fields = {name: value for name, value in zip(reply[::2], reply[1::2], strict=True) if isinstance(value, bytes)}
        closed_at = fields.get(b"closed_at")
        return SessionRecord(
            session_id=session_id,
            created_at=float(fields[b"created_at"]),
            closed_at=float(closed_at) if closed_at is not None else None,
            hash_seed=int(fields[b"hash_seed"]) if b"hash_seed" in fields else None,
            random_seed=int(fields[b"random_seed"]),
            generation=int(fields[b"generation"]),
            epoch=int(fields.get(b"epoch", b"0")),
            details=_DETAILS.validate_json(fields[b"details"]) if b"details" in fields else SessionDetails(),
        )

    async def list(self, limit: int = 100, before: SessionId | None = None) -> list[SessionId]:
        """Sessions, newest first, beginning below `before`."""
        start = f"({before}" if before is not None else "+"
        reply = await self._store.read("ZRANGE", self._keys("sessions"), start, "-", "BYLEX", "REV", "LIMIT", 0, limit)
        assert isinstance(reply, list)
        return [SessionId(member.decode()) for member in reply if isinstance(member, bytes)]

    async def set_hash_seed(self, session_id: SessionId, hash_seed: int, within: Fence = NO_FENCE) -> None:
        """Note the PYTHONHASHSEED of its first sandbox; the first time counts. Raises `NotFound`, `StaleEpoch`."""
        await self._change(session_id, "HSETNX", "hash_seed", str(hash_seed), within)

    async def change(self, session_id: SessionId, change: Callable[[SessionDetails], SessionDetails]) -> None:
        """Change the details; `change` is called with those that there are, and again where somebody else was quicker,
        so that of two changes at once neither is lost.

        Raises:
            NotFound
            StoreFailed: others changed them all the time; nothing was changed.
        """
        key = self.key_of(session_id)
        for _ in range(MOST_TRIES):
            found = await self._store.read("HGET", key, "details")
            before = found if isinstance(found, bytes) else b""
            after = change(_DETAILS.validate_json(before) if before else SessionDetails())
            reply = await self._store.run(_DETAIL, [key], [before, _DETAILS.dump_json(after)], is_idempotent=True)
            if reply is None:
                raise _absent(session_id)
            if reply:
                return
        raise StoreFailed(f"session {session_id} is changed by too many at once; try again")

    async def close(self, session_id: SessionId) -> None:
        """Note when it ended, by the store's clock; the first time counts. Whoever counts it has to be told (`left`).

        Raises:
            NotFound
        """
        await self._store.leave(("SADD", self._left, session_id))
        await self._change(session_id, "HSETNX", "closed_at", repr(await self._store.now()))

    async def left(self, limit: int) -> Sequence[SessionId]:
        """Sessions that are closed, or about to be, and of which nobody has said yet that they are counted no more."""
        reply = await self._store.read("SRANDMEMBER", self._left, limit)
        assert isinstance(reply, list)
        return [SessionId(member.decode()) for member in reply if isinstance(member, bytes)]

    async def forget_left(self, session_id: SessionId) -> None:
        """It is counted no more. Idempotent."""
        await self._store.write("SREM", self._left, session_id)

    async def oldest(self, limit: int, after: SessionId | None = None) -> Sequence[SessionId]:
        """Oldest first, beginning behind `after`."""
        start = f"({after}" if after is not None else "-"
        reply = await self._store.read("ZRANGE", self._keys("sessions"), start, "+", "BYLEX", "LIMIT", 0, limit)
        assert isinstance(reply, list)
        return [SessionId(member.decode()) for member in reply if isinstance(member, bytes)]

    async def forget(self, session_id: SessionId) -> None:
        """Delete the record. Idempotent."""
        await self._store.write_many(
            [("UNLINK", self.key_of(session_id)), ("ZREM", self._keys("sessions"), session_id)]
        )

    async def next_generation(self, session_id: SessionId, within: Fence = NO_FENCE) -> int:
        """Count another life of its sandbox, atomically, and return its number. Raises `NotFound`, `StaleEpoch`.

        Not idempotent and never retried: a number that was lost with its reply is skipped, which is harmless.
        """
        return await self._change(session_id, "HINCRBY", "generation", "1", within)

    async def claim(self, session_id: SessionId, run_id: RunId, within: Fence) -> int:
        """Give the session to a run, which alone may write to its cell log until it has finished; the session's epoch.

        The epoch counts claims: one more than at the caller's last claim means that nobody used the session since.

        Raises:
            SessionUsed: another run that has not finished uses it.
            StaleEpoch: the run's fence does not stand.
            NotFound
        """
        arguments: list[Part] = [run_id, self._keys("run", "")]
        reply = await self._store.run(_CLAIM, [self.key_of(session_id)], arguments, is_idempotent=True, fence=within)
        match reply:
            case [b"claimed", int(epoch)]:
                return epoch
            case [b"used", bytes(holder)]:
                raise SessionUsed(
                    f"session {session_id} is used by run {holder.decode()}", data={"run_id": holder.decode()}
                )
            case [b"unknown", *_]:
                raise _absent(session_id)
            case _:
                raise StaleEpoch(f"run {run_id} has been taken over by another replica; stop driving it")

    async def take(self, session_id: SessionId, epoch: int) -> int:
        """Begin a new epoch of a session that no run is in, for whoever changes it between runs: what another replica
        keeps of it is outdated from now on. The new epoch.

        Raises:
            StaleEpoch: somebody has claimed it since it had that epoch.
            NotFound
        """
        fence = self.fence(session_id, epoch) if epoch else NO_FENCE  # one that nobody has used yet may have none
        return await self._change(session_id, "HINCRBY", "epoch", "1", fence)

    async def epoch_of(self, session_id: SessionId) -> int:
        """How often it was claimed or taken. Raises `NotFound`."""
        reply = await self._store.read("HMGET", self.key_of(session_id), "created_at", "epoch")
        assert isinstance(reply, list)
        created_at, epoch = reply
        if created_at is None:
            raise _absent(session_id)
        return int(epoch) if isinstance(epoch, bytes) else 0

    async def user_of(self, session_id: SessionId) -> RunId | None:
        """The run that claimed it last, on whatever replica; it may have finished. None before the first."""
        reply = await self._store.read("HGET", self.key_of(session_id), "run")
        return RunId(reply.decode()) if isinstance(reply, bytes) else None

    def fence(self, session_id: SessionId, epoch: int) -> Fence:
        """What a write is given that is only to happen while this claim of the session stands."""
        return Fence(((self.key_of(session_id), epoch),))

    async def _change(
        self, session_id: SessionId, command: str, field: str, value: str, within: Fence = NO_FENCE
    ) -> int:
        keys, arguments = [self.key_of(session_id)], [command, field, value]
        reply = await self._store.run(_CHANGE, keys, arguments, is_idempotent=False, fence=within)
        if reply == STALE:
            raise StaleEpoch(f"session {session_id} has been taken over by another replica; stop using it")
        if not isinstance(reply, int):
            raise _absent(session_id)
        return reply

    @property
    def _left(self) -> str:
        return self._keys("sessions", "left")

    def key_of(self, session_id: SessionId) -> str:
        """The record, a hash."""
        return self._keys("session", session_id)


def _absent(session_id: SessionId) -> NotFound:
    return NotFound(f"there is no session {session_id}")
