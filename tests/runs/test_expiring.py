"""What a tenant keeps is counted for exactly as long as it is there, whoever is killed in between."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.contexts.open_contexts import OPEN_FOR_S
from service.contexts.redis_contexts import ContextOpen
from service.contexts.values import Context, Life, Part
from service.errors import NotFound
from service.ids import ContextId
from service.loop.values import ContextBinding, Limits
from service.models.port import ModelReply, ModelRequest
from service.money import NanoUSD
from service.runs.estimates.estimating import estimate
from service.runs.holdings.expiring import LOOK_EVERY_S, expire, keep_expiring
from service.runs.holdings.holdings import Holdings
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import BudgetTooSmall
from service.runs.values import RunRequest
from service.store.errors import StoreFailed
from service.store.exchanges import PutsBefore, nothing_before
from service.tenants.quotas import Counted
from service.tenants.values import CallerLimits, Level
from tests.exchange_doubles import Allowance, Dying
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, SUB, Stage, repl, stage

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0
LIMITS = CallerLimits(open_contexts=100, open_sessions=100, storage_bytes=1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A tenant's holdings, and what is counted of them."""

    on: Stage
    rooms: RunsRooms
    level: Level
    holdings: Holdings

    async def counts(self) -> tuple[int, int, int]:
        """Contexts, sessions, bytes."""
        return (
            await self.rooms.quotas.count(Counted.OPEN_CONTEXTS, self.level),
            await self.rooms.quotas.count(Counted.OPEN_SESSIONS, self.level),
            await self.rooms.storage.used_bytes(self.level),
        )

    async def brought(self, text: str, name: str = "message") -> Context:
        """A context that came along with a conversation, counted."""
        context = await self.rooms.contexts.put_text(name, _once(text), life=Life.TRANSIENT)
        return await self.holdings.keep_context(context, since=time.time())

    async def stored(self, text: str, name: str = "message") -> Context:
        """One that somebody stored."""
        context = await self.rooms.contexts.put_text(name, _once(text))
        return await self.holdings.keep_context(context, since=time.time())

    async def is_there(self, context_id: ContextId) -> bool:
        try:
            await self.rooms.contexts.get(context_id)
        except NotFound:
            return False
        return True


async def _once(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def _opened(kept: Kept) -> ContextId:
    """An open context with one part, counted."""
    context_id = (await kept.rooms.open_contexts.open("parts")).context_id
    await kept.holdings.count_context(context_id)
    keep = partial(kept.holdings.keep_parts, context_id)
    await kept.rooms.open_contexts.put_part(context_id, "a", _once("first"), keep)
    return context_id


def kept_of(on: Stage) -> Kept:
    rooms = on.service.runs.rooms
    level = Level(kind="tenant", owner=rooms.journal.tenant, limits=LIMITS)
    return Kept(on=on, rooms=rooms, level=level, holdings=Holdings(rooms, (level,)))


@asynccontextmanager
async def keeping(directory: Path, exchanges_over: PutsBefore = nothing_before) -> AsyncIterator[Kept]:
    async with stage(directory, repl("FINAL(len(context))"), exchanges_over=exchanges_over) as on:
        yield kept_of(on)


async def test_what_came_along_goes_when_no_conversation_brings_it(tmp_path: Path) -> None:
    """A day after the last one that did, and not before; its counts go with it, and those of all others stay."""
    async with keeping(tmp_path) as kept:
        old, again = await kept.brought("old"), await kept.brought("brought again")
        lasting = await kept.stored("stored")
        now = time.time()
        assert await expire(kept.rooms, now=now, kept_s=DAY_S) == 0
        assert await kept.counts() == (3, 0, len("old" + "brought again" + "stored"))
        await kept.rooms.contexts.lives.use_again(again.context_id, now + DAY_S)
        assert await expire(kept.rooms, now=now + 1.5 * DAY_S, kept_s=DAY_S) == 1
        assert [await kept.is_there(each.context_id) for each in (old, again, lasting)] == [False, True, True]
        assert await kept.counts() == (2, 0, len("brought again" + "stored"))
        assert await expire(kept.rooms, now=now + 9 * DAY_S, kept_s=None) == 0


async def test_a_replica_whose_clock_is_behind_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came along just now by the store's clock is kept, however wrong the clock of the replica that took it."""
    async with keeping(tmp_path) as kept:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 2 * DAY_S)
        young = await kept.brought("young")
        now = await kept.on.service.store.now()
        assert await expire(kept.rooms, now=now, kept_s=DAY_S) == 0
        assert await kept.is_there(young.context_id)
        assert await expire(kept.rooms, now=now + 1.5 * DAY_S, kept_s=DAY_S) == 1


async def test_what_somebody_stores_or_names_himself_stays(tmp_path: Path) -> None:
    """Stored before or after a conversation brought the same, or named by a run of its own: it is there until it is
    deleted."""
    async with keeping(tmp_path) as kept:
        before = await kept.stored("before")
        assert (await kept.brought("before")).context_id == before.context_id
        after = await kept.brought("after")
        assert (await kept.stored("after")).context_id == after.context_id
        named = await kept.brought("named")
        bindings = (ContextBinding(context_id=named.context_id),)
        await kept.on.play(RunRequest(question="?", contexts=bindings, root_model=ROOT, sub_model=SUB))
        assert await expire(kept.rooms, now=time.time() + 9 * DAY_S, kept_s=DAY_S) == 0
        for context in (before, after, named):
            assert await kept.is_there(context.context_id)


async def test_what_is_asked_without_a_run_coming_of_it_keeps_nothing(tmp_path: Path) -> None:
    """An estimate, and a submission that is refused for its budget, name what came along and let it go all the same."""
    async with keeping(tmp_path) as kept:
        named = await kept.brought("named")
        bindings = (ContextBinding(context_id=named.context_id),)
        request = RunRequest(question="?", contexts=bindings, root_model=ROOT, sub_model=SUB)
        await estimate(kept.rooms, request)
        with pytest.raises(BudgetTooSmall):
            await kept.on.service.runs.submit(replace(request, limits=Limits(cost=NanoUSD(1))))
        assert await expire(kept.rooms, now=time.time() + 9 * DAY_S, kept_s=DAY_S) == 1
        assert not await kept.is_there(named.context_id)


async def test_what_a_run_under_way_is_about_stays_until_it_has_ended(tmp_path: Path) -> None:
    """However long ago it was brought."""
    may_end = anyio.Event()

    async def wait(request: ModelRequest) -> ModelReply:
        await may_end.wait()
        return await echo(request)

    async with stage(tmp_path, repl("FINAL(llm_query('?'))"), sub=wait) as on:
        kept = kept_of(on)
        used, unused = await kept.brought("used"), await kept.brought("unused")
        request = RunRequest(
            question="?",
            contexts=(ContextBinding(context_id=used.context_id),),
            root_model=ROOT,
            sub_model=SUB,
            keeps_contexts=False,
        )
        run_id = await on.service.runs.submit(request)
        on.service.runs.start(run_id)
        now = time.time() + 2 * DAY_S
        assert await expire(kept.rooms, now=now, kept_s=DAY_S) == 1
        assert [await kept.is_there(each.context_id) for each in (used, unused)] == [True, False]
        may_end.set()
        await kept.rooms.journal.wait_until_finished(run_id)
        assert await expire(kept.rooms, now=now + 2 * DAY_S, kept_s=DAY_S) == 1
        assert not await kept.is_there(used.context_id)


async def test_a_conversation_that_comes_at_the_same_moment_keeps_what_it_brings(tmp_path: Path) -> None:
    """What was found unused and brought again before it is deleted stays, and stays counted."""
    async with keeping(tmp_path) as kept:
        context = await kept.brought("again")
        before = context.created_at
        assert (await kept.brought("again")).context_id == context.context_id
        assert not await kept.rooms.contexts.expire(context.context_id, unused_since=before)
        assert await kept.is_there(context.context_id)
        assert await kept.counts() == (1, 0, len("again"))


async def test_an_open_context_that_nobody_adds_to_is_counted_no_more(tmp_path: Path) -> None:
    """When its time is over, with the bytes of its parts; a part puts that off, and a sealed one is none."""
    async with keeping(tmp_path) as kept:
        rooms, holdings = kept.rooms, kept.holdings

        async def opened(text: str) -> ContextId:
            context_id = (await rooms.open_contexts.open("parts")).context_id
            await holdings.count_context(context_id)

            async def keep(parts: object) -> None:
                await holdings.keep_parts(context_id, parts)  # type: ignore[arg-type]

            await rooms.open_contexts.put_part(context_id, "a", _once(text), keep)
            return context_id

        left, sealed = await opened("left"), await opened("sealed")

        async def keep_all(parts: object) -> None:
            await holdings.keep_parts(sealed, parts)  # type: ignore[arg-type]

        await rooms.open_contexts.seal(sealed, keep_all)
        now = time.time()
        assert await expire(rooms, now=now + OPEN_FOR_S / 2, kept_s=None) == 0
        assert await kept.counts() == (2, 0, len("leftsealed"))
        assert await expire(rooms, now=now + OPEN_FOR_S + 60, kept_s=None) == 1
        assert await kept.counts() == (1, 0, len("sealed"))
        with pytest.raises(NotFound):
            await rooms.open_contexts.get(left)


async def test_a_count_is_given_back_though_its_context_was_deleted_by_somebody_who_died(tmp_path: Path) -> None:
    """Between the deletion and the count, of a context, an open one or a session: the next look does the rest; so does
    another one after that which was broken off itself."""
    async with keeping(tmp_path) as kept:
        rooms, holdings = kept.rooms, kept.holdings
        await rooms.contexts.delete((await kept.stored("deleted")).context_id)
        context_id = (await rooms.open_contexts.open("parts")).context_id
        await holdings.count_context(context_id)
        await rooms.open_contexts.delete(context_id)
        session_id = await kept.on.service.runs.open_session()
        await holdings.count_session(session_id)
        await rooms.session.records.close(session_id)
        still_open = await kept.on.service.runs.open_session()
        await holdings.count_session(still_open)
        assert await kept.counts() == (2, 2, len("deleted"))
        await rooms.quotas.release(Counted.OPEN_CONTEXTS, context_id)  # as far as a look that was broken off got
        assert await expire(rooms, now=time.time(), kept_s=None) == 3
        assert await kept.counts() == (0, 1, 0)
        assert await expire(rooms, now=time.time(), kept_s=None) == 0


async def test_what_is_deleted_while_it_is_sealed_is_gone(tmp_path: Path) -> None:
    """Whoever deletes comes before the sealing, which then finds nothing, or behind it; nothing stays uncounted."""
    async with keeping(tmp_path) as kept:
        opened, rooms = await _opened(kept), kept.rooms.open_contexts

        async def deleted_meanwhile(parts: Sequence[Part]) -> None:
            await kept.holdings.keep_parts(opened, parts)
            await rooms.delete(opened)
            await kept.holdings.drop_context(opened)

        with pytest.raises(NotFound):
            await rooms.seal(opened, deleted_meanwhile)
        assert not await kept.is_there(opened)
        assert await kept.counts() == (0, 0, 0)
        sealed = await _opened(kept)
        await rooms.seal(sealed, partial(kept.holdings.keep_parts, sealed))
        with pytest.raises(NotFound):  # by whoever saw it open
            await rooms.delete(sealed)
        assert await expire(kept.rooms, now=time.time(), kept_s=None) == 0
        assert await kept.counts() == (1, 0, len("first"))


async def test_a_part_that_was_put_is_in_what_is_sealed(tmp_path: Path) -> None:
    """Though it came while it was sealed; where parts never cease to come, it stays open."""
    async with keeping(tmp_path) as kept:
        opened, rooms, came = await _opened(kept), kept.rooms.open_contexts, 0
        keep = partial(kept.holdings.keep_parts, opened)

        async def put_meanwhile(most: int, parts: Sequence[Part]) -> None:
            nonlocal came
            await keep(parts)
            if came < most:
                came += 1
                await rooms.put_part(opened, f"late {came}", _once(f"late {came}"), keep)

        with pytest.raises(ContextOpen, match="still put"):
            await rooms.seal(opened, partial(put_meanwhile, 1000))
        sealed = await rooms.seal(opened, partial(put_meanwhile, came + 1))
        assert [part.name for part in sealed.parts] == ["a", *(f"late {each + 1}" for each in range(came))]


async def test_nothing_is_counted_for_what_is_gone(tmp_path: Path) -> None:
    """A part of an open context that is deleted while it comes, a context that is deleted before it is counted, a file
    of a session that is closed meanwhile."""
    async with keeping(tmp_path) as kept:
        opened, rooms = await _opened(kept), kept.rooms

        async def broken_off() -> AsyncIterator[bytes]:
            yield b"held"
            await rooms.open_contexts.delete(opened)
            await kept.holdings.drop_context(opened)

        with pytest.raises(NotFound):
            await rooms.open_contexts.put_part(opened, "b", broken_off(), partial(kept.holdings.keep_parts, opened))
        context = await rooms.contexts.put_text("message", _once("deleted"))
        await rooms.contexts.delete(context.context_id)
        await kept.holdings.drop_context(context.context_id)
        await kept.holdings.keep_context(context, since=time.time())
        session_id = await kept.on.service.runs.open_session()
        await kept.holdings.count_session(session_id)
        await kept.holdings.keep_in_session(session_id, await rooms.blobs.put(b"in time"))
        assert await kept.counts() == (0, 1, len("in time"))
        await rooms.session.records.close(session_id)
        await kept.holdings.drop_session(session_id)
        blob = await rooms.blobs.put(b"too late")
        for keep in (kept.holdings.keep_in_session, kept.holdings.keep_read_out):
            with pytest.raises(NotFound):
                await keep(session_id, blob)
        assert await kept.counts() == (0, 0, 0)


async def test_an_answer_counts_until_its_run_is_forgotten(tmp_path: Path) -> None:
    """Beyond any limit: it is there."""
    async with keeping(tmp_path) as kept:
        context = await kept.stored("four")
        request = RunRequest(
            question="?",
            contexts=(ContextBinding(context_id=context.context_id),),
            root_model=ROOT,
            sub_model=SUB,
        )
        played = await kept.on.play(request)
        assert played.finished.answer is not None
        assert (await kept.counts())[2] == len("four") + played.finished.answer.size_bytes
        await kept.rooms.uncount(played.run_id)
        assert (await kept.counts())[2] == len("four")


async def test_what_cannot_be_read_of_one_tenant_holds_up_nobody(tmp_path: Path) -> None:
    """The look goes on with the next one, and comes again."""
    async with keeping(tmp_path) as kept, anyio.create_task_group() as tasks:
        await kept.brought("old")

        class Damaged:
            """Nothing but its name can be read of it."""

            journal = kept.rooms.journal

        async def tenants() -> list[RunsRooms]:
            return [Damaged(), kept.rooms]  # type: ignore[list-item]

        async def later() -> float:
            return time.time() + 2 * DAY_S

        async def look() -> None:
            await keep_expiring(tenants, kept_s=DAY_S, now=later, every_s=LOOK_EVERY_S)

        tasks.start_soon(look)
        with anyio.fail_after(60):
            while True:
                if await kept.counts() == (0, 0, 0):
                    break
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()


async def test_killed_at_any_request_every_count_is_right_after_the_next_look(tmp_path: Path) -> None:
    """Whichever request to the store was the last of who deleted a context, closed a session, or looked: what is gone
    is counted no more, and what is there still is."""
    allowance = Allowance(task_id=anyio.get_current_task().id)  # not what the service does besides
    async with keeping(tmp_path, partial(Dying, allowance)) as kept:
        rooms, requests, is_killed = kept.rooms, 0, True
        while is_killed:
            deleted, stays = await kept.stored("deleted"), await kept.stored("stays")
            brought = await kept.brought("brought")
            session_id = await kept.on.service.runs.open_session()
            await kept.holdings.count_session(session_id)
            allowance.requests_left, is_killed = requests, False
            try:
                await rooms.contexts.delete(deleted.context_id)
                await kept.holdings.drop_context(deleted.context_id)
                await rooms.session.records.close(session_id)
                await kept.holdings.drop_session(session_id)
                await expire(rooms, now=time.time() + 2 * DAY_S, kept_s=DAY_S)
            except StoreFailed:
                is_killed = True
            allowance.requests_left = 1 << 30
            await expire(rooms, now=time.time() + 2 * DAY_S, kept_s=DAY_S)
            is_there = [await kept.is_there(each.context_id) for each in (deleted, stays, brought)]
            is_closed = (await rooms.session.records.get(session_id)).closed_at is not None
            size_bytes = len("stays") + is_there[0] * len("deleted")
            assert is_there[1:] == [True, False]
            assert await kept.counts() == (sum(is_there), 0 if is_closed else 1, size_bytes), requests
            await rooms.quotas.release(Counted.OPEN_SESSIONS, session_id)
            requests += 1
        assert requests > 10
