"""Appending to runs: what is asked for concurrently travels in one script call, in the order it was asked for.

An append may be retried by the connection, because its batch carries a token that the script recognises. A journal that
has become long has its oldest events moved out of the store's memory.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice

import structlog

from service.errors import RlmServiceError
from service.ids import RunId
from service.journal.codec import encode
from service.journal.ended import ENDED_TOPIC, MOST_ENDED, ended_key, watched_key
from service.journal.refusals import already_finished, refusal, taken_over
from service.journal.run_keys import RunKeys
from service.loop.events import Event, RunFinished
from service.store.batching import Batch
from service.store.blobs import Blobs
from service.store.bodies import Bodies
from service.store.connection import ScriptCall, Store
from service.store.errors import StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.store.hints import CHANNEL
from service.store.riders import AppendMark, Rider, boarding
from service.store.scripts import load_fenced_script
from service.store.segments import SealedStream, StreamSizes

log = structlog.get_logger(__name__)

_APPEND = load_fenced_script("service.journal", "append.lua")


@dataclass(frozen=True, slots=True)
class Append:
    """Events that are to be appended, all or none, and what is to be written right behind them."""

    events: tuple[Event, ...]
    rider: Rider | None


class Appending:
    """The appends to one tenant's runs by this replica."""

    def __init__(
        self, store: Store, blobs: Blobs, keys: RunKeys, on_kept: Callable[[Event], None], sizes: StreamSizes
    ) -> None:
        self._store = store
        self._sizes = sizes
        self._blobs = blobs
        self._bodies = Bodies(blobs)
        self._keys = keys
        self._on_kept = on_kept
        self._lanes: dict[tuple[RunId, int, Fence], _Lane] = {}

    def __repr__(self) -> str:
        return f"<Appending {self._keys.tenant} to={self.under_way}>"

    @property
    def under_way(self) -> int:
        """To how many runs (and epochs) something is being appended now."""
        return len(self._lanes)

    async def append(self, run_id: RunId, epoch: int, append: Append, within: Fence) -> int:
        """Append the events, with whatever else is asked for meanwhile; the last one's sequence number."""
        with self._lane(run_id, epoch, within) as lane:
            return await lane.batch.put(append)

    @contextmanager
    def _lane(self, run_id: RunId, epoch: int, within: Fence) -> Iterator["_Lane"]:
        lane = self._lanes.setdefault((run_id, epoch, within), _Lane(self, run_id, epoch, within))
        lane.users += 1
        try:
            yield lane
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[run_id, epoch, within]

    async def flush(
        self, run_id: RunId, epoch: int, appends: "Sequence[Append]", within: Fence = NO_FENCE
    ) -> list[int | RlmServiceError]:
        """Append a batch. What follows `RunFinished` in it is refused, as it would be in a later batch."""
        ends = next((at for at, each in enumerate(appends, 1) if isinstance(each.events[-1], RunFinished)), None)
        written = appends[:ends]
        events = [event for each in written for event in each.events]
        values = await self._bodies.pack_many([encode(event) for event in events])
        token = os.urandom(12).hex()
        riders = [each.rider for each in written if each.rider is not None]
        append = ScriptCall(
            script=_APPEND,
            keys=[
                *(self._keys.run(run_id), self._keys.events(run_id), self._keys.unfinished),
                *(watched_key(self._keys.tenant), ended_key(self._keys.tenant)),
            ],
            arguments=[
                *(epoch, token, run_id, CHANNEL, self._keys.events(run_id), "finish" if ends else ""),
                *(MOST_ENDED, ENDED_TOPIC),
                *values,
            ],
            fence=within,
        )
        # append.lua leaves its token behind when it has appended: that is what the riders' scripts look for.
        boarded = boarding(riders, AppendMark(key=self._keys.run(run_id), field="token", value=token))
        reply, *landings = await self._store.run_many([append, *(each.script_call for each in boarded)])
        match reply:
            case b"stale":
                raise taken_over(run_id)
            case [b"appended", int(first), int(open_bytes)]:
                for each, landing in zip(boarded, landings, strict=True):
                    each.land(landing)
                for event in events:
                    self._on_kept(event)
                if open_bytes > self._sizes.open_bytes:
                    await self.seal(run_id, epoch, open_bytes, within)
                ends_at = accumulate((len(each.events) for each in written), initial=first - 1)
                refused = [already_finished(run_id) for _ in appends[len(written) :]]
                return [*islice(ends_at, 1, None), *refused]
            case [word, _, _]:
                raise refusal(word, run_id)
        raise AssertionError("append.lua replies three values")

    async def seal(self, run_id: RunId, epoch: int, open_bytes: int, within: Fence) -> None:
        """Move the oldest events out of the store's memory. A journal that cannot be sealed now is sealed at the next
        append, unless it is much too long already."""
        fence = Fence((*within.epochs, *self._keys.fence(run_id, epoch).epochs))
        stream = SealedStream(self._store, self._blobs, self._keys.events(run_id), self._sizes)
        run = self._keys.run(run_id)
        left = open_bytes
        try:
            while left > self._sizes.open_bytes and (moved := await stream.seal_oldest(run, fence)):
                left -= moved
        except StoreFailed as exc:
            if left > self._sizes.most_open_bytes:
                raise
            log.warning("journal_not_sealed", run_id=run_id, error=str(exc))


class _Lane:
    """The appends to one run under one epoch that are under way."""

    def __init__(self, appending: Appending, run_id: RunId, epoch: int, within: Fence) -> None:
        self.users = 0
        self.batch: Batch[Append, int] = Batch(lambda appends: appending.flush(run_id, epoch, appends, within))
