"""Collecting blobs: what is referred to stays, the rest goes, whatever happens in between."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import TenantId
from service.loop.values import BlobRef
from service.runs.replay.replaying import replay
from service.runs.retention.collecting import (
    MOST_SUSPECTS,
    UNTOUCHED_FOR_S,
    BlobCollector,
    Look,
    StoreForgot,
    keep_collecting,
)
from service.runs.retention.forgetting import forget_runs
from service.store.blobs import Blobs
from service.store.bodies import INLINE_BYTES, Bodies
from service.store.connection import open_store
from service.store.embedded import embedded_server
from service.store.file_clock import file_system_now
from service.store.keys import Keys
from service.store.pairing import Pairing, Standing
from service.store.sole_lease import SoleLease
from service.wiring.retention import open_collector
from tests.exchange_doubles import Ahead
from tests.runs.playing import repl, stage
from tests.store_fixture import Stored, open_stored

pytestmark = pytest.mark.anyio


def payloads_of(blobs: Blobs) -> dict[str, Path]:
    """Every payload on disk, by its digest."""
    root = blobs.path("0" * 64).parent.parent
    return {path.name: path for path in root.glob("*/*")}


def let_time_pass(blobs: Blobs) -> None:
    """Everything was touched two looks' worth of time earlier than it was."""
    for path in payloads_of(blobs).values():
        at = path.stat().st_mtime - 2 * UNTOUCHED_FOR_S
        os.utime(path, (at, at))


@dataclass(eq=False)
class Yard:
    """One tenant's blobs, with whoever collects them."""

    stored: Stored
    directory: Path

    @property
    def blobs(self) -> Blobs:
        return self.stored.blobs

    def collector(self, blobs: Blobs | None = None, most_suspects: int = MOST_SUSPECTS) -> BlobCollector:
        async def tenants() -> Mapping[TenantId, Blobs]:
            return {self.stored.tenant: blobs or self.stored.blobs}

        now = partial(file_system_now, self.directory)
        return BlobCollector(self.stored.store, self.pairing, tenants, now, most_suspects=most_suspects)

    @property
    def pairing(self) -> Pairing:
        return Pairing(self.stored.store, self.directory)

    def key(self, name: str) -> str:
        return Keys(self.stored.tenant)("test", name)

    async def refer(self, ref: BlobRef, name: str = "reference") -> None:
        await self.stored.store.write("SET", self.key(name), ref.sha256)


@pytest.fixture
async def yard(stored: Stored, tmp_path: Path) -> Yard:
    yard = Yard(stored=stored, directory=tmp_path)
    await yard.pairing.pair_anew()
    return yard


async def test_what_two_looks_find_unreferenced_goes(yard: Yard) -> None:
    """One look removes nothing; the second what is unreferenced still. What was put lately is not looked at."""
    kept, stray, saved = [await yard.blobs.put(name) for name in (b"kept", b"stray", b"saved")]
    let_time_pass(yard.blobs)
    young = await yard.blobs.put(b"young")
    await yard.refer(kept)
    collector = yard.collector()
    assert await collector.look() == Look(suspects=3, young=1, referenced=1, waiting=2, removed=0, freed_bytes=0)
    await yard.refer(saved, "late")
    assert await collector.look() == Look(suspects=3, young=1, referenced=2, waiting=0, removed=1, freed_bytes=5)
    assert payloads_of(yard.blobs).keys() == {kept.sha256, saved.sha256, young.sha256}
    assert not await yard.blobs.has(stray.sha256)


async def test_what_is_touched_between_two_looks_stays(yard: Yard) -> None:
    """Whoever has just put it again may be about to refer to it."""
    ref = await yard.blobs.put(b"wanted again")
    let_time_pass(yard.blobs)
    collector = yard.collector()
    assert (await collector.look()).waiting == 1
    assert await yard.blobs.put(b"wanted again") == ref
    assert (await collector.look()).removed == 0
    assert await yard.blobs.has(ref.sha256)


async def test_a_store_whose_clock_is_ahead_makes_no_blob_older(tmp_path: Path) -> None:
    """Over a store that is hours ahead, what was put just now is not looked at, and stays: its age goes by the clock
    of the file system that it stands in."""
    async with stage(tmp_path, exchanges_over=partial(Ahead, 3 * UNTOUCHED_FOR_S)) as on:
        store, blobs = on.service.store, on.service.blobs
        await on.service.registry.tenants.ensure_default()
        collector = open_collector(on.service.settings, store, on.service.registry, lambda _: blobs)
        ref = await blobs.put(b"young")
        for _ in range(2):
            look = await collector.look(force=True)
            assert (look.suspects, look.young) == (0, 1)
        assert await blobs.has(ref.sha256)


async def test_more_suspects_than_one_look_takes_have_their_turn(yard: Yard) -> None:
    """With a bound of a few, look after look comes to all of them."""
    kept = await yard.blobs.put(b"kept")
    await yard.refer(kept)
    for number in range(12):
        await yard.blobs.put(b"stray %d" % number)
    let_time_pass(yard.blobs)
    collector = yard.collector(most_suspects=3)
    looks = [await collector.look() for _ in range(26)]
    assert sum(look.removed for look in looks) == 12
    assert max(look.suspects for look in looks) <= 3 + 12
    assert payloads_of(yard.blobs).keys() == {kept.sha256}


async def test_a_store_that_lost_its_data_empties_no_directory(tmp_path: Path) -> None:
    """After the store was emptied, looks are refused and remove nothing, until the operator says that he means it."""
    async with embedded_server(tmp_path / "store"), open_store(data_directory=tmp_path, redis_url=None) as store:
        yard = Yard(Stored(store=store, blobs=Blobs(tmp_path / "b"), tenant=TenantId("default")), tmp_path)
        ref = await yard.blobs.put(b"kept")
        await yard.refer(ref)
        let_time_pass(yard.blobs)
        collector = yard.collector()
        await collector.look()
        await store.write("FLUSHALL")
        for _ in range(3):
            with pytest.raises(StoreForgot, match="restore it"):
                await collector.look()
        with pytest.raises(StoreForgot, match="restore it"):
            await yard.collector().look()
        assert await yard.blobs.has(ref.sha256)
        assert (await collector.look(force=True)).waiting == 1
        assert (await collector.look()).removed == 1


@asynccontextmanager
async def yards_over_one_store(directory: Path, *names: str) -> AsyncIterator[list[Yard]]:
    """Directories of blobs, none of them paired yet, with a store that is new."""
    async with open_store(data_directory=directory, redis_url=None) as store:
        yield [
            Yard(Stored(store=store, blobs=Blobs(directory / name / "b"), tenant=TenantId("default")), directory / name)
            for name in names
        ]


async def test_a_store_that_refers_to_nothing_is_not_believed_at_first(tmp_path: Path) -> None:
    """Before blobs and store were ever paired, one that knows none of the blobs may have lost its data; one that knows
    some is paired."""
    async with yards_over_one_store(tmp_path, "a") as [yard]:
        assert (await yard.collector().look()).suspects == 0
        assert await yard.pairing.standing() is Standing.NEW
        await yard.blobs.put(b"stray")
        let_time_pass(yard.blobs)
        with pytest.raises(StoreForgot, match="refers to none of 1 blobs"):
            await yard.collector().look()
        await yard.refer(await yard.blobs.put(b"kept"))
        let_time_pass(yard.blobs)
        collector = yard.collector()
        assert (await collector.look()).waiting == 1
        assert await yard.pairing.standing() is Standing.PAIRED
        assert (await collector.look()).removed == 1


async def test_a_store_goes_with_one_directory_whatever_is_forced(tmp_path: Path) -> None:
    """A directory without a word does not take that of a store which another has, though the store refers to its blobs.
    Forced it is paired, and the other is so no more; also where the two had the same word."""
    async with yards_over_one_store(tmp_path, "a", "b") as [ours, other]:
        await ours.refer(await ours.blobs.put(b"kept"))
        let_time_pass(ours.blobs)
        await other.blobs.put(b"young")
        await other.pairing.pair()
        assert await other.pairing.standing() is Standing.PAIRED
        with pytest.raises(StoreForgot, match="another store"):
            await ours.collector().look()
        for _ in range(2):
            assert (await ours.collector().look(force=True)).referenced == 1
            assert (await ours.pairing.standing(), await other.pairing.standing()) == (Standing.PAIRED, Standing.PARTED)
            await ours.pairing.require()
            with pytest.raises(BadRequest, match="another directory"):
                await other.pairing.require()
            shutil.copy(ours.directory / "paired-store", other.directory / "paired-store")


async def text_of(size: int) -> AsyncIterator[bytes]:
    yield ("ä" * size).encode()


async def stored_context(yard: Yard) -> Context:
    context = await Contexts(yard.stored.store, yard.blobs, yard.stored.tenant).put_text("big", text_of(600_000))
    assert context.parts[0].image is not None
    return context


async def test_a_deleted_contexts_text_and_image_go_and_come_back(yard: Yard) -> None:
    """While a context stands, its text and image stay; then both go, and storing the text again makes both anew."""
    context = await stored_context(yard)
    let_time_pass(yard.blobs)
    collector = yard.collector()
    for _ in range(2):
        assert (await collector.look()).referenced == 2
    await Contexts(yard.stored.store, yard.blobs, yard.stored.tenant).delete(context.context_id)
    await collector.look()
    assert (await collector.look()).removed == 2
    assert payloads_of(yard.blobs) == {}
    assert await yard.stored.store.read("EXISTS", Keys(yard.stored.tenant)("contexts", "images")) == 0
    again = await stored_context(yard)
    assert again.parts == context.parts
    assert len(payloads_of(yard.blobs)) == 2


async def test_one_replica_at_a_time_looks(yard: Yard) -> None:
    """Who does not have the lease does not look; once it is free it does, again and again, also after a look that was
    refused."""
    key = yard.key("lease")
    other, ours = SoleLease(yard.stored.store, key, "other"), SoleLease(yard.stored.store, key, "ours")
    assert await other.hold(for_s=600)
    assert await other.hold(for_s=600)
    assert not await ours.hold(for_s=600)
    is_free = False
    began_free: list[bool] = []
    looked, looked_twice = anyio.Event(), anyio.Event()

    def told(look: Look, seconds: float) -> None:
        began_free.append(is_free)
        (looked_twice if looked.is_set() else looked).set()

    word = (yard.directory / "paired-store").read_bytes()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(keep_collecting, yard.collector(), ours, every_s=0.01, told=told, lease_s=30.0))
        for _ in range(20):
            await yard.stored.store.read("PING")
        is_free = True
        await yard.stored.store.write("DEL", key)
        with anyio.fail_after(60):
            await looked.wait()
            (yard.directory / "paired-store").write_bytes(b"another")
            with pytest.raises(StoreForgot):
                await yard.collector().look()
            (yard.directory / "paired-store").write_bytes(word)
            await looked_twice.wait()
        assert all(began_free)
        assert not await other.hold(for_s=600)
        group.cancel_scope.cancel()


CONTENTS = [f"content {number}".encode() for number in range(5)]
SHAPES = ("value", "field", "body")


class YardMachine(RuleBasedStateMachine):
    """Anything that puts, refers, drops, dies and collects, in any order."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        self.yard = Yard(stored=stored, directory=self.directory)
        self.references: dict[str, bytes] = {}
        """What each key refers to."""
        self.pending: set[bytes] = set()
        """What was put lately, and may be referred to yet."""

    @initialize()
    def open(self) -> None:
        self.portal.call(self.yard.pairing.pair_anew)
        self.collector = self.yard.collector()

    def teardown(self) -> None:
        try:
            self.let_time_pass()
            for _ in range(2):
                self.portal.call(self.collector.look)
            assert set(self.there()) == set(self.references.values()), "in the end what is unreferenced is gone"
        finally:
            self.stack.close()

    def there(self) -> list[bytes]:
        bodies = INLINE_BYTES
        return [path.read_bytes() for path in payloads_of(self.yard.blobs).values() if path.stat().st_size < bodies]

    @rule(content=st.sampled_from(CONTENTS))
    def put(self, content: bytes) -> None:
        self.portal.call(self.yard.blobs.put, content)
        self.pending.add(content)

    @rule(data=st.data(), name=st.sampled_from("abc"), shape=st.sampled_from(SHAPES))
    @precondition(lambda self: self.pending)
    def refer(self, data: st.DataObject, name: str, shape: str) -> None:
        content = data.draw(st.sampled_from(sorted(self.pending)))
        self.portal.call(self._refer, content, name, shape)
        self.references[name] = content

    async def _refer(self, content: bytes, name: str, shape: str) -> None:
        ref = await self.yard.blobs.put(content)
        store, key = self.yard.stored.store, self.yard.key(name)
        await store.write("DEL", key)
        match shape:
            case "value":
                await store.write("SET", key, ref.sha256)
            case "field":
                await store.write("HSET", key, "f", ref.sha256)
            case _:
                body = ref.sha256.encode() + b" " * INLINE_BYTES + name.encode()
                await store.write("XADD", key, "*", "e", await Bodies(self.yard.blobs).pack(body))

    @rule(source=st.sampled_from("abc"), onto=st.sampled_from("abc"))
    def rename(self, source: str, onto: str) -> None:
        if source in self.references and source != onto:
            self.portal.call(self.yard.stored.store.write, "RENAME", self.yard.key(source), self.yard.key(onto))
            self.references[onto] = self.references.pop(source)

    @rule(name=st.sampled_from("abc"))
    def drop(self, name: str) -> None:
        self.portal.call(self.yard.stored.store.write, "DEL", self.yard.key(name))
        self.references.pop(name, None)

    @rule()
    def let_time_pass(self) -> None:
        let_time_pass(self.yard.blobs)
        self.pending.clear()

    @rule()
    def die(self) -> None:
        self.collector = self.yard.collector()

    @rule(data=st.data())
    def die_while_removing(self, data: st.DataObject) -> None:
        """Something was moved away and not looked at again; then another replica starts."""
        payloads = payloads_of(self.yard.blobs)
        if payloads:
            digest = data.draw(st.sampled_from(sorted(payloads)))
            root = payloads[digest].parent.parent.parent
            payloads[digest].rename(root / "unfinished" / f"collected-{digest}-1-ab")
            self.collector = self.yard.collector(Blobs(root))

    @rule()
    def look(self) -> None:
        self.portal.call(self.collector.look)

    @rule(content=st.sampled_from(CONTENTS))
    def look_while_putting(self, content: bytes) -> None:
        async def both() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(self.collector.look)
                group.start_soon(self.yard.blobs.put, content)

        self.portal.call(both)
        self.pending.add(content)

    @invariant()
    def whatever_is_needed_is_there(self) -> None:
        there = set(self.there())
        assert set(self.references.values()) <= there, "a referenced payload is gone"
        assert self.pending <= there, "what was just put is gone"


def play(directory: Path, *, examples: int) -> None:
    class Machine(YardMachine):
        pass

    Machine.directory = directory
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_nothing_that_is_needed_is_collected(store_directory: Path) -> None:
    """In any history of putting, referring, dropping, dying and looking, what is referred to or was just put is there,
    and in the end nothing else is."""
    play(store_directory, examples=6)


@pytest.mark.takes_long
def test_nothing_that_is_needed_is_collected_for_long(store_directory: Path) -> None:
    """The same, in many more histories."""
    play(store_directory, examples=30)


async def test_what_a_run_needs_stays_and_goes_with_it(tmp_path: Path) -> None:
    """Two looks leave a run with a child run and large contexts, outputs and answers as it was: it is replayed. Once it
    is forgotten and its context deleted, two looks leave no payload at all."""
    parent = repl("found = rlm_query('inner question', context='stuff ' * 20_000)\nprint('o' * 200_000)")
    child = repl("print(len(context))\nFINAL('inner ' * 10_000)")
    async with stage(tmp_path, parent, child, repl("FINAL(found * 10)")) as on:
        runs, blobs = on.service.runs, on.service.blobs
        await on.service.registry.tenants.ensure_default()
        collector = open_collector(on.service.settings, on.service.store, on.service.registry, lambda _: blobs)
        played = await on.play(await on.request("ä" * 600_000))
        (context,) = await runs.rooms.contexts.list()
        for _ in range(2):
            let_time_pass(blobs)
            assert (await collector.look()).referenced >= 4
        assert (await replay(runs, played.run_id, patience_s=120)).difference is None
        assert b"".join([chunk async for chunk in runs.answer_chunks(played.run_id)]) == b"inner " * 100_000
        await runs.rooms.contexts.delete(context.context_id)
        assert (await forget_runs(runs.rooms, before=9e12)).forgotten == 1
        for _ in range(2):
            let_time_pass(blobs)
            await collector.look()
        assert payloads_of(blobs) == {}
