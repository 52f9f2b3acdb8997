"""The journal over Redis: one stream per run, whose ids are the events' sequence numbers.

Keys (all under the tenant's tag): `run:{id}` a hash (epoch, keeper, seq, finished, cancel), `run:{id}:events` the
stream, `run:{id}:children`, `runs` (all, by birth) and `runs:unfinished` (root runs, with the time until which each is
kept, by the server's clock). A child run has no lease of its own: it is kept with its root.
Events over `INLINE_BYTES` stand as blobs, and so does the older part of a long journal (`store.segments`): one run
takes some `StreamSizes.open_bytes` of the store's memory at most.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing

import anyio
import structlog

from service.ids import RunId, TenantId
from service.journal.appending import Append, Appending
from service.journal.codec import decode, encode
from service.journal.refusals import absent, already_finished, refusal, taken_over
from service.journal.run_keys import RunKeys
from service.journal.tenants_at_work import NOTED_FOR_S, ask_abandoned, forget_tenant, note_at_work
from service.journal.values import Claimed, Place, Recorded, RunIdTaken, RunKept
from service.loop.events import Event, RunFinished, RunSubmitted
from service.store.blobs import Blobs
from service.store.bodies import Bodies
from service.store.connection import Part, Reply, ScriptCall, Store
from service.store.errors import StoreFailed, TenantErased
from service.store.fences import NO_FENCE, STALE, Fence
from service.store.riders import Rider
from service.store.scripts import load_fenced_script, load_script
from service.store.segments import STREAM_SIZES, SealedStream, StreamSizes, entries_in, sealed_key

PAGE = 500
PAGE_BYTES = 1 << 20
FOLLOWED_AT_ONCE = 64
"""Events that a follower is given at once: there may be thousands of followers, and slow ones."""
RUNS_LET_GO = "rlm:runs_let_go"
"""Topic of hints that a replica gave runs up, of whatever tenant."""
LOOK_AGAIN_AFTER_S = 2.0
"""Hints may be lost, so the truth is looked at this often without one."""
FOLLOWERS_LOOK_AGAIN_AFTER_S = 30.0
"""The same for whoever only watches: there may be thousands, and a lost connection to the hints wakes them all."""

DECODED_AT_ONCE_BYTES = 64 << 10
"""Longer events are decoded in a thread."""

LEAST_SEALED_BYTES = 16_384
"""Of a run that has ended: smaller journals stay where they are."""

log = structlog.get_logger(__name__)

_OPEN = load_fenced_script("service.journal", "open.lua", leaves_keys=True)
_CLAIM = load_script("service.journal", "claim.lua")
_TAKE_OVER = load_fenced_script("service.journal", "take_over.lua")
_LEASE = load_script("service.journal", "lease.lua")
_KEPT = load_script("service.journal", "kept.lua")
_NOTE = load_script("service.journal", "note.lua")


def _nobody_asks(event: Event) -> None:
    """What is done with an event that was kept, when nobody wants to know."""


class Journal:
    """The runs of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        tenant: TenantId,
        on_kept: Callable[[Event], None] = _nobody_asks,
        *,
        sizes: StreamSizes = STREAM_SIZES,
    ) -> None:
        """`on_kept` is told of every event that this replica has added, once it is kept; must not block or raise."""
        self._store = store
        self._sizes = sizes
        self._on_kept = on_kept
        self._blobs = blobs
        self._bodies = Bodies(blobs)
        self._keys = RunKeys.of(tenant)
        self._appending = Appending(store, blobs, self._keys, on_kept, sizes)
        self._noted_until = 0.0
        """Until when everybody knows that the tenant is at work."""

    def __repr__(self) -> str:
        return f"<Journal {self._keys.tenant} appending_to={self._appending.under_way}>"

    @property
    def tenant(self) -> TenantId:
        """Whose runs these are."""
        return self._keys.tenant

    async def open_run(
        self,
        submitted: RunSubmitted,
        inherited: Sequence[Event] = (),
        *,
        keeper: str = "",
        for_s: float = 0.0,
        within: Fence = NO_FENCE,
    ) -> int:
        """Create the run with its first event, and right behind it those that it inherits, all of them or none; return
        its first epoch, 1. Idempotent.

        One that inherits its end has finished. A root run that is given a keeper may be claimed by nobody else for so
        many seconds; without one, by anybody.

        Raises:
            RunIdTaken: the id exists with another first event.
            StaleEpoch: the fence does not stand (a child run's: its root's).
        """
        if (now := time.monotonic()) >= self._noted_until:
            await note_at_work(self._store, self._keys.tenant, await self._store.now())
            self._noted_until = now + NOTED_FOR_S
        run_id = submitted.run_id
        line = encode(submitted)
        parent = submitted.parent_run_id
        index = self._keys.all if parent is None else self._keys.children(parent)
        keys = [self._keys.run(run_id), self._keys.events(run_id), index, self._keys.unfinished]
        digest = hashlib.sha256(line).hexdigest()
        lease = "" if parent is not None else _seconds(for_s)
        packed = [await self._bodies.pack(line), *await self._bodies.pack_many([encode(each) for each in inherited])]
        arguments: list[Part] = [
            *(run_id, packed[0], digest, submitted.session_id),
            *(keeper, lease),
            "finish" if inherited and isinstance(inherited[-1], RunFinished) else "",
            *packed[1:],
        ]
        try:
            opened = await self._store.run(_OPEN, keys, arguments, is_idempotent=True, fence=within)
        except TenantErased:
            await forget_tenant(self._store, self._keys.tenant)
            raise
        match opened:
            case b"taken":
                raise RunIdTaken(f"run {run_id} exists and was submitted differently; use another id")
            case b"stale":
                raise taken_over(run_id)
            case reply:
                if reply == b"opened":
                    self._on_kept(submitted)
                if (open_bytes := sum(len(part) for part in packed)) > self._sizes.open_bytes:
                    await self._appending.seal(run_id, 1, open_bytes, within)
                return 1

    async def claim(self, run_id: RunId, keeper: str, *, for_s: float) -> Claimed:
        """Take an unfinished root run to drive it: a new epoch, and a lease for so many seconds.

        Whoever drove it before can write no more. The same keeper may claim again at any time. Not to be retried by
        the caller: each claim shuts out the one before.

        Raises:
            RunKept: somebody else keeps it still.
            NotFound, RunAlreadyFinished
        """
        reply = await self._store.run(
            _CLAIM,
            [self._keys.run(run_id), self._keys.unfinished],
            [run_id, keeper, _seconds(for_s)],
            is_idempotent=True,
        )
        match reply:
            case [b"claimed", int(epoch), int(again)]:
                return Claimed(epoch=epoch, was_driven=again == 1)
            case [b"kept", *_]:
                raise RunKept(f"run {run_id} is driven by another replica")
            case [word, *_]:
                raise refusal(word, run_id)
        raise AssertionError("claim.lua replies three values")

    async def take_over(self, run_id: RunId, *, within: Fence = NO_FENCE) -> int:
        """Begin a new epoch of an unfinished run and return it: whoever drove the run before can append no more.

        For runs that are the caller's anyway: a child's, within its root's fence; its own, to begin afresh.

        Raises:
            NotFound, RunAlreadyFinished
            StaleEpoch: the fence does not stand.
        """
        epoch = await self._store.run(_TAKE_OVER, [self._keys.run(run_id)], [], is_idempotent=True, fence=within)
        if epoch == STALE:
            raise taken_over(run_id)
        assert isinstance(epoch, int)
        if epoch < 0:
            raise absent(run_id) if epoch == -1 else already_finished(run_id)
        return epoch

    async def keep(self, leases: Sequence[tuple[RunId, int]], *, for_s: float) -> list[tuple[RunId, int]]:
        """Renew the leases of runs under their epochs; those that are not the caller's (any more): one that has claimed
        a run anew has lost it under the epoch before. Idempotent."""
        calls = [self._lease(run_id, epoch, for_s) for run_id, epoch in leases]
        replies = await self._store.run_many(calls) if calls else []
        return [lease for lease, reply in zip(leases, replies, strict=True) if reply != b"kept"]

    async def let_go(self, run_id: RunId, epoch: int) -> None:
        """Give the lease up, so that any replica may claim the run at once. Idempotent; nothing happens to a run that
        is not the caller's or has finished.
        """
        await self._store.run_many([self._lease(run_id, epoch, 0)])
        await self._store.hint(RUNS_LET_GO)

    async def abandoned(self, limit: int = PAGE) -> list[RunId]:
        """The unfinished root runs that nobody keeps now, longest abandoned first: candidates for `claim`."""
        (reply,) = await self._store.run_many([ask_abandoned(self._keys.unfinished, limit)])
        return _run_ids(reply)

    async def is_abandoned(self, run_id: RunId) -> bool:
        """Whether it is an unfinished root run that nobody keeps now."""
        lease = await self._store.read("ZSCORE", self._keys.unfinished, run_id)
        return isinstance(lease, bytes) and float(lease) < await self._store.now()

    async def unfinished(self, limit: int = PAGE) -> list[RunId]:
        """Unfinished root runs, whoever keeps them."""
        return _run_ids(await self._store.read("ZRANGE", self._keys.unfinished, 0, limit - 1))

    async def all_unfinished(self) -> AsyncGenerator[list[RunId], None]:
        """Every root run that is unfinished all the while, page by page; of others some, and one perhaps twice."""
        cursor = b"0"
        while True:
            reply = await self._store.read("ZSCAN", self._keys.unfinished, cursor, "COUNT", PAGE)
            match reply:
                case [bytes(cursor), [*members]]:
                    yield _run_ids(members[::2])
                case _:
                    raise AssertionError("ZSCAN replies a cursor and members with their scores")
            if cursor == b"0":
                return

    async def kept(self) -> int:
        """How many unfinished root runs some replica keeps now."""
        count = await self._store.run(_KEPT, [self._keys.unfinished], [], is_idempotent=True)
        assert isinstance(count, int)
        return count

    async def unfinished_of(self, run_ids: AbstractSet[RunId]) -> AbstractSet[RunId]:
        """Those of them that are unfinished root runs, whoever keeps them."""
        if not run_ids:
            return set()
        named = list(run_ids)
        leases = await self._store.read("ZMSCORE", self._keys.unfinished, *named)
        assert isinstance(leases, list)
        return {run_id for run_id, lease in zip(named, leases, strict=True) if lease is not None}

    def fence(self, run_id: RunId, epoch: int) -> Fence:
        """What a write is given that is only to happen while this epoch of the run stands."""
        return self._keys.fence(run_id, epoch)

    async def append(
        self,
        run_id: RunId,
        epoch: int,
        event: Event,
        rider: Rider | None = None,
        *,
        ahead: Sequence[Event] = (),
        within: Fence = NO_FENCE,
    ) -> int:
        """Append the event and return its sequence number. When it returns, the event has happened.

        Those that go `ahead` stand right before it: all of them happen, or none. A rider is written right behind them,
        in the same round trip; it has landed when this returns. `within` is what
        has to stand besides the run's own epoch: for a child run, its root's.

        Not idempotent: after `StoreFailed` read the journal again under a new epoch. Cancelled before it is sent, it
        is not written; afterwards, it is.

        Raises:
            NotFound, StaleEpoch, RunAlreadyFinished
        """
        return await self._appending.append(run_id, epoch, Append((*ahead, event), rider), within)

    async def read(self, run_id: RunId, after: int = 0, limit: int = PAGE) -> list[Recorded]:
        """Up to `limit` events after the sequence number `after`; fewer where they are large, and none only where there
        are none.

        Raises:
            NotFound
        """
        recorded, _ = await self._page(run_id, after, limit)
        if not recorded and not await self.exists(run_id):
            raise absent(run_id)
        return recorded

    async def event_at(self, place: Place) -> Event:
        """The one event that stands there; no other is read, but for those of its segment.

        Raises:
            NotFound: the run is not there (any more), or has not come as far.
        """
        found = await self.read(place.run_id, after=place.seq - 1, limit=1)
        if not found:
            raise absent(place.run_id)
        return found[0].event

    async def read_all(self, run_id: RunId) -> list[Recorded]:
        """The whole journal so far; nothing for a run that is not there."""
        recorded: list[Recorded] = []
        may_be_more = True
        while may_be_more:
            page, may_be_more = await self._page(run_id, recorded[-1].seq if recorded else 0, PAGE)
            recorded.extend(page)
        return recorded

    async def each(self, run_id: RunId) -> AsyncIterator[Recorded]:
        """The whole journal so far, a page at a time: large events are not all in memory at once."""
        after, may_be_more = 0, True
        while may_be_more:
            page, may_be_more = await self._page(run_id, after, PAGE)
            for recorded in page:
                after = recorded.seq
                yield recorded

    async def wait_until_finished(self, run_id: RunId) -> None:
        """Return when the run has finished, or is not there (any more); until then wait, without bound."""
        with self._store.listen(self._keys.events(run_id)) as hint:
            while await self._is_unfinished(run_id):
                await hint.wait(at_most_s=LOOK_AGAIN_AFTER_S)

    async def follow(self, run_id: RunId, after: int = 0) -> AsyncIterator[Recorded]:
        """Every event after `after`, those to come as they come, ending with `RunFinished`, unless the run is erased
        meanwhile.

        Raises:
            NotFound
        """
        async with aclosing(self.pages(run_id, after, patience_s=FOLLOWERS_LOOK_AGAIN_AFTER_S)) as pages:
            async for page in pages:
                for recorded in page:
                    yield recorded

    async def pages(self, run_id: RunId, after: int = 0, *, patience_s: float) -> AsyncGenerator[list[Recorded], None]:
        """Every event after `after`, as many at once as there are, those to come as they come; the last page ends with
        `RunFinished`, unless the run is erased meanwhile. A page is empty when nothing has come for `patience_s`, and
        now and then for no reason: whoever iterates may leave then.

        Raises:
            NotFound
        """
        with self._store.listen(self._keys.events(run_id)) as hint:
            page, may_be_more = await self._page(run_id, after, FOLLOWED_AT_ONCE)
            looked_at = anyio.current_time()
            if not page and not await self.exists(run_id):
                raise absent(run_id)
            while True:
                is_empty = not page
                is_last = not is_empty and isinstance(page[-1].event, RunFinished)
                after = after if is_empty else page[-1].seq
                yield page
                if is_last:
                    return
                page = []  # who waits for the next one holds nothing of this one
                if not may_be_more:
                    if is_empty and await self._is_over(run_id, after):
                        return
                    has_rung = await hint.wait(at_most_s=min(patience_s, FOLLOWERS_LOOK_AGAIN_AFTER_S))
                    while not has_rung and anyio.current_time() < looked_at + FOLLOWERS_LOOK_AGAIN_AFTER_S:
                        yield []
                        has_rung = await hint.wait(at_most_s=patience_s)
                page, may_be_more = await self._page(run_id, after, FOLLOWED_AT_ONCE)
                looked_at = anyio.current_time()

    async def list_runs(self, limit: int = 100, before: RunId | None = None) -> list[RunId]:
        """Runs, newest first, beginning below `before`."""
        start = f"({before}" if before is not None else "+"
        return _run_ids(await self._store.read("ZRANGE", self._keys.all, start, "-", "BYLEX", "REV", "LIMIT", 0, limit))

    async def oldest_runs(self, limit: int, after: RunId | None = None) -> list[RunId]:
        """Root runs, oldest first, beginning behind `after`."""
        start = f"({after}" if after is not None else "-"
        return _run_ids(await self._store.read("ZRANGE", self._keys.all, start, "+", "BYLEX", "LIMIT", 0, limit))

    async def ends_of(self, run_id: RunId) -> tuple[RunSubmitted, Event] | None:
        """The run's first and its last event so far; None for one that is not there (any more)."""
        events = self._keys.events(run_id)
        first, last = await self._store.read_many(
            [("XRANGE", events, "-", "+", "COUNT", 1), ("XREVRANGE", events, "+", "-", "COUNT", 1)]
        )
        begins, ends = entries_in(first), entries_in(last)
        if not begins or not ends:
            return None
        if begins[0][0] != 1:
            begins = await self._stream(run_id).values(0, 1)
            if not begins:
                return None  # forgotten since its stream was read
        submitted = (await self._recorded(*begins[0])).event
        assert isinstance(submitted, RunSubmitted), "a journal begins with it"
        return submitted, (await self._recorded(*ends[0])).event

    async def has_ended(self, run_id: RunId) -> bool:
        """Whatever of its journal can be read."""
        (finished,) = await self._facts(run_id, "finished")
        return finished is not None

    async def ended_at(self, run_id: RunId) -> float | None:
        """When the run ended, by the store's clock; None for one that has not, or is not there (any more).

        Of one that ended under an earlier version, which did not note it: by the clock of whoever drove it."""
        (finished,) = await self._facts(run_id, "finished")
        if finished != b"1":
            return None if finished is None else float(finished)
        ends = await self.ends_of(run_id)
        return None if ends is None else ends[1].at

    async def seal_ended(self, run_id: RunId) -> bool:
        """Move all but the last event of a run that has ended out of the store's memory; whether that was worth it.
        Idempotent."""
        epoch, finished, open_bytes = await self._facts(run_id, "epoch", "finished", "open_bytes")
        if epoch is None or finished is None or int(open_bytes or b"0") < LEAST_SEALED_BYTES:
            return False
        fence = self.fence(run_id, int(epoch))
        is_sealed = False
        while await self._stream(run_id).seal_oldest(self._keys.run(run_id), fence):
            is_sealed = True
        return is_sealed

    async def forget(self, run_id: RunId) -> None:
        """Delete a run that has finished, but for what it spent. Its child runs are the caller's. Idempotent."""
        events = self._keys.events(run_id)
        keys = [events, sealed_key(events), self._keys.children(run_id), self._keys.run(run_id)]
        await self._store.write("UNLINK", *keys)
        await self._store.write("ZREM", self._keys.all, run_id)

    async def children_of(self, run_id: RunId) -> list[RunId]:
        """The child runs that were opened, oldest first."""
        return _run_ids(await self._store.read("ZRANGE", self._keys.children(run_id), 0, -1))

    async def keep_summary(self, run_id: RunId, summary: bytes) -> None:
        """Keep, beside a finished run, what its events come to, so that nobody need read them all for it again.
        Nothing happens when the run is not there (any more)."""
        await self._note(run_id, "summary", summary)

    async def summaries(self, run_ids: Sequence[RunId]) -> list[bytes | None]:
        """What was kept of each run; None for one of which nothing was."""
        if not run_ids:
            return []
        replies = await self._store.read_many([("HGET", self._keys.run(run_id), "summary") for run_id in run_ids])
        return [reply if isinstance(reply, bytes) else None for reply in replies]

    async def note_listener(self, run_id: RunId, replica: str) -> None:
        """Somebody begins to listen to a run at this replica. Nothing happens when it is gone. Idempotent."""
        await self._note(run_id, "listener", replica)

    async def last_listener(self, run_id: RunId) -> str | None:
        """At which replica somebody began to listen last."""
        kept = await self._store.read("HGET", self._keys.run(run_id), "listener")
        return kept.decode() if isinstance(kept, bytes) else None

    async def note_left(self, run_id: RunId) -> None:
        """Whoever waited for the run has gone without its answer. Nothing happens when it is gone. Idempotent."""
        await self._note(run_id, "left", "1")

    async def take_left(self, run_id: RunId) -> bool:
        """Whether the run was left and nobody has taken it since. The caller has now, and nobody else is told so."""
        return await self._store.write("HDEL", self._keys.run(run_id), "left") == 1

    async def keep_asked(self, run_id: RunId, asked: bytes) -> None:
        """Keep, beside a run that exists, how it was asked for; it goes when the run goes. Idempotent."""
        await self._note(run_id, "asked", await self._bodies.pack(asked))

    async def asked(self, run_id: RunId) -> bytes | None:
        """How a run was asked for, where that was kept."""
        kept = await self._store.read("HGET", self._keys.run(run_id), "asked")
        return await self._bodies.unpack(kept) if isinstance(kept, bytes) else None

    async def forget_asked(self, run_id: RunId) -> None:
        """Idempotent."""
        await self._store.write("HDEL", self._keys.run(run_id), "asked")

    async def exists(self, run_id: RunId) -> bool:
        return await self._store.read("EXISTS", self._keys.run(run_id)) == 1

    async def request_cancel(self, run_id: RunId) -> None:
        """Leave word that the run is to be cancelled, for whoever drives it. Idempotent; without effect once it ended.

        Raises:
            NotFound
        """
        if not await self._note(run_id, "cancel", "1"):
            raise absent(run_id)
        await self._store.hint(self._keys.run(run_id))

    async def cancel_requested(self, run_id: RunId) -> bool:
        return await self._store.read("HGET", self._keys.run(run_id), "cancel") is not None

    async def wait_for_cancel(self, run_id: RunId) -> None:
        """Return when the run's cancellation has been requested; until then wait, without bound."""
        with self._store.listen(self._keys.run(run_id)) as hint:
            while not await self.cancel_requested(run_id):
                await hint.wait(at_most_s=LOOK_AGAIN_AFTER_S)

    async def _note(self, run_id: RunId, field: str, value: Part) -> bool:
        """Whether the run is there to note it beside."""
        return await self._store.run(_NOTE, [self._keys.run(run_id)], [field, value], is_idempotent=True) == 1

    async def _page(self, run_id: RunId, after: int, limit: int) -> tuple[list[Recorded], bool]:
        """Some events, up to `PAGE_BYTES` of them and one more, and whether there may be others behind them."""
        found: list[tuple[int, bytes]] = []
        events = self._keys.events(run_id)
        while len(found) < limit:
            at = found[-1][0] if found else after
            start, count = f"{at + 1}-0", limit - len(found)
            entries = entries_in(await self._store.read("XRANGE", events, start, "+", "COUNT", count))
            if not entries or entries[0][0] == at + 1:
                found += entries
                break
            sealed = await self._stream(run_id).values(at, count)
            if not sealed and not await self.exists(run_id):
                break  # it was forgotten meanwhile
            if not sealed or sealed[0][0] != at + 1:
                raise StoreFailed(f"the journal of run {run_id} has a gap behind {at}; restore the store")
            found += sealed
        recorded: list[Recorded] = []
        size_bytes = 0
        for seq, value in found:
            line = await self._bodies.unpack(value)
            recorded.append(Recorded(seq=seq, event=await _decoded(line)))
            size_bytes += len(line)
            if size_bytes > PAGE_BYTES:
                return recorded, True
        return recorded, len(found) >= limit

    async def _recorded(self, seq: int, value: bytes) -> Recorded:
        return Recorded(seq=seq, event=await _decoded(await self._bodies.unpack(value)))

    def _stream(self, run_id: RunId) -> SealedStream:
        return SealedStream(self._store, self._blobs, self._keys.events(run_id), self._sizes)

    async def last_seq(self, run_id: RunId) -> tuple[int, bool]:
        """Where the journal stands, and whether the run has finished; one cheap read.

        Raises:
            NotFound
        """
        reply = await self._store.read("HMGET", self._keys.run(run_id), "seq", "finished")
        assert isinstance(reply, list)
        seq, finished = reply
        if not isinstance(seq, bytes):
            raise absent(run_id)
        return int(seq), finished is not None

    async def wait_for_end(self, run_id: RunId, *, at_most_s: float, unless: Callable[[], bool]) -> bool:
        """Whether the run has finished, waiting for it that long, or until `unless` (asked whenever woken) says no.

        Raises:
            NotFound
        """
        with self._store.listen(self._keys.events(run_id)) as hint, anyio.move_on_after(at_most_s):
            while not (await self.last_seq(run_id))[1] and not unless():
                await hint.wait(at_most_s=LOOK_AGAIN_AFTER_S)
        return (await self.last_seq(run_id))[1]

    async def _is_unfinished(self, run_id: RunId) -> bool:
        epoch, finished = await self._facts(run_id, "epoch", "finished")
        return epoch is not None and finished is None

    async def _facts(self, run_id: RunId, *names: str) -> list[bytes | None]:
        """Fields of the run's hash; None for each that is not there."""
        reply = await self._store.read("HMGET", self._keys.run(run_id), *names)
        assert isinstance(reply, list)
        return [each if isinstance(each, bytes) else None for each in reply]

    async def _is_over(self, run_id: RunId, after: int) -> bool:
        """Whether a reader who stands at `after` has nothing to wait for: `RunFinished` is behind it already, or the
        run was erased."""
        reply = await self._store.read("HMGET", self._keys.run(run_id), "finished", "seq")
        assert isinstance(reply, list)
        finished, seq = reply
        return seq is None or (finished is not None and isinstance(seq, bytes) and int(seq) <= after)

    def _lease(self, run_id: RunId, epoch: int, for_s: float) -> ScriptCall:
        keys = [self._keys.run(run_id), self._keys.unfinished]
        return ScriptCall(script=_LEASE, keys=keys, arguments=[epoch, run_id, _seconds(for_s)])


async def _decoded(line: bytes) -> Event:
    if len(line) <= DECODED_AT_ONCE_BYTES:
        return decode(line)
    return await anyio.to_thread.run_sync(decode, line)


def _run_ids(reply: Reply) -> list[RunId]:
    assert isinstance(reply, list)
    return [RunId(member.decode()) for member in reply if isinstance(member, bytes)]


def _seconds(for_s: float) -> str:
    return f"{for_s:.3f}" if for_s > 0 else "0"
