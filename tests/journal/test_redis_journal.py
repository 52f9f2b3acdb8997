"""The journal: a run is the list of its events, written by one driver at a time."""

from collections.abc import Awaitable
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from service.errors import NotFound
from service.ids import RunId, TenantId, new_id
from service.journal.redis_journal import PAGE, Journal
from service.journal.tenants_at_work import AT_WORK
from service.journal.values import Recorded, RunAlreadyFinished, RunIdTaken, RunKept
from service.loop.events import DeadlineNeared, Event, SandboxLost
from service.runs.exports.reading import MOST_EVENTS
from service.runs.forks.inheritance import MAX_INHERITED_EVENTS
from service.store.connection import open_store
from service.store.embedded import SOCKET
from service.store.errors import StaleEpoch
from service.store.keys import Keys
from tests.cutting_proxy import cutting_proxy
from tests.journal.runs import finished, submitted
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio


@pytest.fixture
async def journal(stored: Stored) -> Journal:
    return Journal(stored.store, stored.blobs, stored.tenant)


def tick(number: int) -> Event:
    return DeadlineNeared(at=float(number))


async def opened(journal: Journal) -> RunId:
    first = submitted()
    assert await journal.open_run(first) == 1
    return first.run_id


async def test_events_are_read_as_they_were_written(journal: Journal) -> None:
    """Sequence numbers count from 1 without gaps, and pages begin after what the reader has."""
    first = submitted()
    await journal.open_run(first)
    assert await journal.append(first.run_id, 1, tick(2)) == 2
    assert await journal.append(first.run_id, 1, tick(3)) == 3
    assert await journal.read(first.run_id) == [
        Recorded(seq=1, event=first),
        Recorded(seq=2, event=tick(2)),
        Recorded(seq=3, event=tick(3)),
    ]
    assert await journal.read(first.run_id, after=1, limit=1) == [Recorded(seq=2, event=tick(2))]
    assert await journal.read(first.run_id, after=3) == []


async def test_opening_a_run_twice_is_opening_it_once(journal: Journal) -> None:
    """The same submission again changes nothing; another one under the same id is refused."""
    first = submitted()
    assert [await journal.open_run(first), await journal.open_run(first)] == [1, 1]
    assert len(await journal.read(first.run_id)) == 1
    assert await journal.list_runs() == [first.run_id]
    with pytest.raises(RunIdTaken, match=first.run_id):
        await journal.open_run(submitted(first.run_id, question="something else"))


async def test_a_run_inherits_as_many_events_as_a_fork_or_an_import_may_bring(journal: Journal) -> None:
    """All of them stand behind its first one, although they go to the store in one step."""
    first = submitted()
    assert MOST_EVENTS == MAX_INHERITED_EVENTS
    assert await journal.open_run(first, [tick(number) for number in range(MOST_EVENTS)]) == 1
    assert await journal.last_seq(first.run_id) == (MOST_EVENTS + 1, False)
    (last,) = await journal.read(first.run_id, after=MOST_EVENTS)
    assert last.event == tick(MOST_EVENTS - 1)


async def test_large_events_stand_as_blobs(journal: Journal, stored: Stored) -> None:
    """An event of a megabyte reads like any other, and the stream itself stays small."""
    run_id = await opened(journal)
    large = SandboxLost(at=2.0, message="ö" * (1 << 20))
    await journal.append(run_id, 1, large)
    assert (await journal.read(run_id, after=1))[0].event == large
    size = await stored.store.read("MEMORY", "USAGE", f"rlm:{{{stored.tenant}}}:run:{run_id}:events")
    assert isinstance(size, int)
    assert size < 10_000


async def test_concurrent_appends_keep_their_order(journal: Journal) -> None:
    """Appends asked for at once, small and large mixed, stand in the order in which they were asked for."""
    run_id = await opened(journal)
    seqs: dict[int, int] = {}

    async def append(number: int) -> None:
        event = SandboxLost(at=float(number), message="x" * 5000) if number % 7 == 0 else tick(number)
        seqs[number] = await journal.append(run_id, 1, event)

    async with anyio.create_task_group() as group:
        for number in range(700):
            group.start_soon(append, number)
    assert seqs == {number: number + 2 for number in range(700)}
    recorded = await journal.read(run_id, after=1, limit=1000)
    assert [each.event.at for each in recorded] == [float(number) for number in range(700)]
    assert repr(journal).endswith("appending_to=0>")


async def test_a_run_that_was_taken_over_shuts_out_its_old_driver(journal: Journal) -> None:
    """After a take-over an append of the old epoch is refused and leaves no trace; the new one goes on."""
    run_id = await opened(journal)
    await journal.append(run_id, 1, tick(2))
    assert await journal.take_over(run_id) == 2
    with pytest.raises(StaleEpoch):
        await journal.append(run_id, 1, tick(3))
    assert await journal.keep([(run_id, 1), (run_id, 2)], for_s=60) == [(run_id, 1)]
    assert await journal.append(run_id, 2, tick(4)) == 3
    assert [each.event.at for each in await journal.read(run_id)] == [1.0, 2.0, 4.0]


async def test_racing_drivers_interleave_no_event_after_the_take_over(journal: Journal) -> None:
    """Under concurrent appends of two epochs, nothing of the old one stands behind anything of the new one."""
    run_id = await opened(journal)

    async def drive(epoch: int) -> None:
        for _ in range(100):
            try:
                await journal.append(run_id, epoch, tick(epoch))
            except StaleEpoch:
                return

    async with anyio.create_task_group() as group:
        group.start_soon(drive, 1)
        for _ in range(20):
            await checkpoint()
        group.start_soon(drive, await journal.take_over(run_id))
    epochs = [each.event.at for each in await journal.read(run_id, after=1)]
    assert epochs == sorted(epochs)
    assert epochs.count(2.0) == 100


async def test_nothing_follows_the_end(journal: Journal) -> None:
    """After `RunFinished` appends and take-overs are refused, also those that travelled in the same batch."""
    run_id = await opened(journal)
    outcomes: list[str] = []

    async def append(event: Event) -> None:
        try:
            await journal.append(run_id, 1, event)
            outcomes.append(type(event).__name__)
        except RunAlreadyFinished:
            outcomes.append("refused")

    async with anyio.create_task_group() as group:
        for event in (tick(2), tick(3), finished(), tick(4), tick(5)):
            group.start_soon(append, event)
    assert outcomes == ["DeadlineNeared", "DeadlineNeared", "RunFinished", "refused", "refused"]
    with pytest.raises(RunAlreadyFinished):
        await journal.append(run_id, 1, tick(6))
    with pytest.raises(RunAlreadyFinished):
        await journal.take_over(run_id)
    assert (await journal.read(run_id))[-1].event == finished()


async def test_following_sees_every_event_once_and_ends_with_the_run(journal: Journal) -> None:
    """Followers who start at any point get what is there, then what comes, and stop after `RunFinished`."""
    run_id = await opened(journal)
    seen: dict[int, list[int]] = {}

    async def follow(after: int) -> None:
        seen[after] = [each.seq async for each in journal.follow(run_id, after)]

    count = PAGE + 50
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for after in (0, 1, 30):
                group.start_soon(follow, after)
            for number in range(count):
                await journal.append(run_id, 1, tick(number))
            await journal.append(run_id, 1, finished())
    for after, seqs in seen.items():
        assert seqs == list(range(after + 1, count + 3))


async def test_following_a_finished_run_from_its_end_ends_at_once(journal: Journal) -> None:
    """A reader who already has everything is not kept waiting."""
    run_id = await opened(journal)
    last = await journal.append(run_id, 1, finished())
    with anyio.fail_after(30):
        assert [each async for each in journal.follow(run_id, last)] == []


async def test_who_follows_a_run_that_is_erased_is_let_go(journal: Journal, stored: Stored) -> None:
    """A follower of a run that had not ended when it was erased is not left waiting for an end that never comes."""
    run_id = await opened(journal)
    seen = anyio.Event()

    async def follow() -> None:
        async for _ in journal.follow(run_id):
            seen.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await seen.wait()
            await journal.forget(run_id)
            stored.store.wake_topic(Keys(stored.tenant)("run", run_id, "events"))


async def test_a_follower_that_goes_away_leaves_nothing_behind(journal: Journal, stored: Stored) -> None:
    """A cancelled follower is no longer listened for."""
    run_id = await opened(journal)

    async def follow() -> None:
        async for _ in journal.follow(run_id):
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        while "topics=1" not in repr(stored.store):
            await checkpoint()
        group.cancel_scope.cancel()
    assert "topics=0" in repr(stored.store)


async def test_runs_are_listed_newest_first(journal: Journal) -> None:
    """Pages of runs go from the newest to the oldest and join without gap or overlap."""
    ids = [RunId(f"run_{number:032x}") for number in range(5)]
    for run_id in ids:
        await journal.open_run(submitted(run_id))
    first = await journal.list_runs(limit=3)
    assert first == ids[:1:-1]
    assert await journal.list_runs(limit=3, before=first[-1]) == ids[1::-1]


async def test_a_parent_knows_its_children(journal: Journal) -> None:
    """Child runs are found from their parent, in the order of their birth."""
    parent = await opened(journal)
    children = [RunId(f"run_{number:032x}") for number in range(3)]
    for child in children:
        await journal.open_run(submitted(child, parent=parent))
    assert await journal.children_of(parent) == children
    assert await journal.children_of(children[0]) == []


async def test_runs_that_nobody_drives_are_found(journal: Journal) -> None:
    """A run is abandoned while nobody keeps it, and never once it is finished; a child run never is."""
    run_id = await opened(journal)
    await journal.open_run(submitted(RunId("run_" + "c" * 32), parent=run_id))
    assert await journal.abandoned() == [run_id]
    assert await journal.keep([(run_id, 1)], for_s=600) == []
    assert await journal.abandoned() == []
    await journal.let_go(run_id, 1)
    assert await journal.abandoned() == [run_id]
    await journal.append(run_id, 1, finished())
    assert await journal.abandoned() == []
    assert await journal.keep([(run_id, 1)], for_s=600) == [(run_id, 1)]
    await journal.let_go(run_id, 1)
    assert await journal.abandoned() == []


async def test_one_replica_drives_a_run_at_a_time(journal: Journal) -> None:
    """What another keeps cannot be claimed until its word has run out or it lets go; then the old epoch is void."""
    first = submitted()
    run_id = first.run_id
    await journal.open_run(first, keeper="a", for_s=600)
    with pytest.raises(RunKept, match=run_id):
        await journal.claim(run_id, "b", for_s=600)
    mine = await journal.claim(run_id, "a", for_s=600)
    assert (mine.epoch, mine.was_driven) == (2, False)
    with pytest.raises(RunKept):
        await journal.claim(run_id, "b", for_s=600)
    await journal.let_go(run_id, 1)
    with pytest.raises(RunKept):  # letting go takes the epoch that holds it
        await journal.claim(run_id, "b", for_s=600)
    await journal.let_go(run_id, mine.epoch)
    theirs = await journal.claim(run_id, "b", for_s=600)
    assert (theirs.epoch, theirs.was_driven) == (3, True)
    with pytest.raises(StaleEpoch):
        await journal.append(run_id, mine.epoch, tick(2))
    await journal.append(run_id, theirs.epoch, finished())
    with pytest.raises(RunAlreadyFinished):
        await journal.claim(run_id, "b", for_s=600)


async def test_of_many_claims_at_once_one_succeeds(journal: Journal) -> None:
    """However many replicas see an abandoned run at the same time, exactly one drives it."""
    run_id = await opened(journal)
    claimed: list[str] = []

    async def claim(replica: str) -> None:
        try:
            await journal.claim(run_id, replica, for_s=600)
            claimed.append(replica)
        except RunKept:
            pass

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(claim, f"r{number}")
    assert len(claimed) == 1


async def test_a_child_is_fenced_by_its_root(journal: Journal) -> None:
    """Once the root run has been taken over, its old driver writes nothing for a child, and opens and takes over none,
    although the child's own epoch has not changed."""
    run_id = await opened(journal)
    child, further = RunId("run_" + "d" * 32), RunId("run_" + "e" * 32)
    stands = journal.fence(run_id, 1)
    await journal.open_run(submitted(child, parent=run_id), within=stands)
    assert await journal.append(child, 1, tick(2), within=stands) == 2
    mine = await journal.claim(run_id, "b", for_s=600)
    for attempt in (
        journal.append(child, 1, tick(3), within=stands),
        journal.take_over(child, within=stands),
        journal.open_run(submitted(further, parent=run_id), within=stands),
    ):
        with pytest.raises(StaleEpoch):
            await attempt
    assert await journal.append(child, 1, tick(4), within=journal.fence(run_id, mine.epoch)) == 3
    assert not await journal.exists(further)


async def goes_on_waiting(waiting: Awaitable[object]) -> bool:
    """Whether it does for a moment. On a slow machine one that does not may pass for one that does, not vice versa."""
    with anyio.move_on_after(0.2) as moment:
        await waiting
    return moment.cancelled_caught


async def test_waiting_for_a_run_ends_with_it(journal: Journal) -> None:
    """Whoever waits for a run of another replica goes on once it has finished; for one that is not there, at once."""
    run_id = await opened(journal)
    assert await goes_on_waiting(journal.wait_until_finished(run_id))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(journal.wait_until_finished, run_id)
            await journal.append(run_id, 1, finished())
        await journal.wait_until_finished(RunId(new_id("run")))


async def test_a_cancel_reaches_whoever_waits_for_it(journal: Journal) -> None:
    """Asking to cancel wakes the driver, however often it is asked, and is remembered for a later one."""
    run_id = await opened(journal)
    assert not await journal.cancel_requested(run_id)
    assert await goes_on_waiting(journal.wait_for_cancel(run_id))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(journal.wait_for_cancel, run_id)
            await journal.request_cancel(run_id)
            await journal.request_cancel(run_id)
        await journal.wait_for_cancel(run_id)
    assert await journal.cancel_requested(run_id)


async def test_an_unknown_run_is_not_found(journal: Journal) -> None:
    """Every verb says so, and another tenant's run is as unknown as any."""
    unknown = RunId(new_id("run"))
    assert not await journal.exists(unknown)
    for attempt in (
        journal.read(unknown),
        journal.append(unknown, 1, tick(1)),
        journal.take_over(unknown),
        journal.claim(unknown, "a", for_s=600),
        journal.request_cancel(unknown),
        anext(journal.follow(unknown)),
    ):
        with pytest.raises(NotFound, match=unknown):
            await attempt


async def test_tenants_do_not_see_each_other(stored: Stored) -> None:
    """The same store under another tenant knows nothing of a run."""
    first = submitted()
    await Journal(stored.store, stored.blobs, stored.tenant).open_run(first)

    other = Journal(stored.store, stored.blobs, TenantId(new_id("ten")))
    assert not await other.exists(first.run_id)
    assert await other.list_runs() == []


async def test_a_write_whose_reply_was_lost_fails_nothing_and_stands_once(
    stored: Stored, store_directory: Path, tmp_path: Path
) -> None:
    """When the server notes a tenant, opens a run or appends to it, and the reply is lost, it is acknowledged and
    stands once."""
    async with (
        cutting_proxy(store_directory / "store" / SOCKET, tmp_path / "proxy") as proxy,
        open_store(data_directory=tmp_path, redis_url=f"unix://{tmp_path / 'proxy'}") as store,
    ):
        journal = Journal(store, stored.blobs, stored.tenant)
        first = submitted()
        proxy.lose_replies(1, to=AT_WORK.encode())
        await journal.open_run(first)
        proxy.lose_replies(1)
        run_id = first.run_id
        await journal.open_run(first)
        for number in range(2, 6):
            proxy.lose_replies(1)
            assert await journal.append(run_id, 1, tick(number)) == number
        proxy.lose_replies(1)
        await journal.append(run_id, 1, finished())
        assert proxy.lost == 7
        recorded = await journal.read(run_id, after=1)
    assert [each.event for each in recorded] == [*(tick(number) for number in range(2, 6)), finished()]


async def test_what_goes_ahead_of_an_event_stands_right_before_it(journal: Journal) -> None:
    """Whatever else is appended meanwhile, nothing comes between them, and each append learns where its own stands."""
    run_id = await opened(journal)
    seqs: dict[int, int] = {}

    async def append(number: int) -> None:
        ahead = [tick(1000 * number + place) for place in range(number % 3)]
        seqs[number] = await journal.append(run_id, 1, tick(1000 * number + 999), ahead=ahead)

    async with anyio.create_task_group() as group:
        for number in range(1, 300):
            group.start_soon(append, number)
    recorded = {each.seq: int(each.event.at) for each in await journal.read(run_id, after=1, limit=1000)}
    assert list(recorded) == list(range(2, 2 + 299 + sum(number % 3 for number in range(1, 300))))
    for number, seq in seqs.items():
        ahead = number % 3
        expected = [*(1000 * number + place for place in range(ahead)), 1000 * number + 999]
        assert [recorded[place] for place in range(seq - ahead, seq + 1)] == expected


async def test_an_end_takes_what_goes_ahead_of_it_along_and_shuts_out_the_rest(journal: Journal) -> None:
    """A last fact and the end of the run are one append; another one beside them is refused whole."""
    run_id = await opened(journal)
    refused: list[int] = []

    async def append(number: int, event: Event) -> None:
        try:
            await journal.append(run_id, 1, event, ahead=[tick(number)])
        except RunAlreadyFinished:
            refused.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(append, 2, finished())
        group.start_soon(append, 3, tick(4))
    assert refused == [3]
    assert [each.event for each in await journal.read(run_id, after=1)] == [tick(2), finished()]
