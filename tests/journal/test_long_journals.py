"""Journals that are longer than the store's memory should hold: their older part is sealed while the run goes on."""

import shutil
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.errors import NotFound
from service.ids import RunId, TenantId, new_id
from service.journal.redis_journal import DECODED_AT_ONCE_BYTES, Journal
from service.journal.values import Place, Recorded
from service.loop.events import Event, RootUnavailable, RunFinished
from service.loop.values import BlobRef, CallOutcome, Purpose
from service.runs.retention.collecting import UNTOUCHED_FOR_S
from service.store.blob_references import References, Suspects
from service.store.blobs import Blobs, Media
from service.store.bodies import INLINE_BYTES
from service.store.connection import Store, open_store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.segments import SealedStream, StreamSizes
from tests.exchange_doubles import Acting
from tests.journal.runs import finished, submitted
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

OPEN_BYTES = 60_000
SIZES = StreamSizes(
    open_bytes=OPEN_BYTES, most_open_bytes=4 * OPEN_BYTES, segment_bytes=OPEN_BYTES // 2, entries_at_once=7
)
"""Journals are long sooner here."""
EVENTS = 150
EVENT_CHARS = 4_000


@pytest.fixture
def journal(stored: Stored) -> Journal:
    return Journal(stored.store, stored.blobs, stored.tenant, sizes=SIZES)


def note(number: int, chars: int = EVENT_CHARS) -> Event:
    message = f"{number} " + "x" * chars
    return RootUnavailable(at=float(number), purpose=Purpose.TURN, outcome=CallOutcome.UNAVAILABLE, message=message)


async def grown(journal: Journal, events: int = EVENTS) -> RunId:
    """A run with so many events, the first included."""
    first = submitted()
    await journal.open_run(first)
    for number in range(2, events + 1):
        assert await journal.append(first.run_id, 1, note(number)) == number
    return first.run_id


async def bytes_in_memory(stored: Stored) -> int:
    """What the tenant's keys take in the store."""
    names = await stored.store.read("KEYS", Keys(stored.tenant)("*"))
    assert isinstance(names, list)
    asked = [("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names if isinstance(name, bytes)]
    return sum(size for size in await stored.store.read_many(asked) if isinstance(size, int))


def numbers(recorded: list[Recorded]) -> list[int]:
    assert all(each.event == note(each.seq) for each in recorded if isinstance(each.event, RootUnavailable))
    return [each.seq for each in recorded]


async def test_one_event_is_read_by_its_place(journal: Journal) -> None:
    """Sealed or not, small or large; where there is none, nothing is found."""
    run_id = await grown(journal)
    large = note(EVENTS + 1, chars=DECODED_AT_ONCE_BYTES)
    await journal.append(run_id, 1, large)
    for seq in (2, 70, EVENTS):
        assert await journal.event_at(Place(run_id=run_id, seq=seq)) == note(seq)
    assert await journal.event_at(Place(run_id=run_id, seq=EVENTS + 1)) == large
    for nowhere in (Place(run_id=run_id, seq=EVENTS + 2), Place(run_id=RunId(new_id("run")), seq=1)):
        with pytest.raises(NotFound):
            await journal.event_at(nowhere)


async def test_a_long_journal_takes_little_of_the_stores_memory(journal: Journal, stored: Stored) -> None:
    """However long it grows, what stands in memory does not grow along, and every event is read as it was."""
    run_id = await grown(journal)
    first = await bytes_in_memory(stored)
    assert first < 3 * OPEN_BYTES < EVENTS * EVENT_CHARS
    for number in range(EVENTS + 1, 2 * EVENTS):
        await journal.append(run_id, 1, note(number))
    assert await bytes_in_memory(stored) < 3 * OPEN_BYTES
    assert numbers(await journal.read_all(run_id)) == [*range(1, 2 * EVENTS)]


async def test_any_part_of_it_is_read(journal: Journal) -> None:
    """From any place, sealed or not, as many events as are asked for and are there."""
    run_id = await grown(journal)
    for after in (0, 1, 6, 7, 8, 70, EVENTS - 3, EVENTS - 1, EVENTS, EVENTS + 5):
        for limit in (1, 8, 60, 500):
            expected = [*range(after + 1, EVENTS + 1)][:limit]
            assert numbers(await journal.read(run_id, after, limit)) == expected, (after, limit)
    ends = await journal.ends_of(run_id)
    assert ends is not None
    assert (ends[0].run_id, ends[1]) == (run_id, note(EVENTS))


async def test_a_run_that_is_forgotten_while_it_is_read_has_no_ends(
    journal: Journal, stored: Stored, store_directory: Path
) -> None:
    """Between a look at its stream and one at its sealed part it may go: then it is not there any more."""
    run_id = await grown(journal)
    over = partial(Acting, "LRANGE", "before", partial(journal.forget, run_id))
    async with open_store(data_directory=store_directory, redis_url=None, over=over) as store:
        assert await Journal(store, stored.blobs, stored.tenant, sizes=SIZES).ends_of(run_id) is None


async def test_who_follows_while_it_is_sealed_misses_nothing(journal: Journal) -> None:
    """Followers from the beginning, and one that comes late, are given each event once, in order, to the end."""
    first = submitted()
    run_id = first.run_id
    await journal.open_run(first)
    seen: list[list[int]] = [[], [], []]

    async def follow(which: int, after: int) -> None:
        async for recorded in journal.follow(run_id, after):
            seen[which].append(recorded.seq)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(follow, 0, 0)
            group.start_soon(follow, 1, 0)
            for number in range(2, EVENTS):
                await journal.append(run_id, 1, note(number))
            await journal.append(run_id, 1, finished())
            group.start_soon(follow, 2, 20)
    assert seen == [[*range(1, EVENTS + 1)], [*range(1, EVENTS + 1)], [*range(21, EVENTS + 1)]]


async def test_a_new_driver_goes_on_and_an_old_one_seals_nothing(journal: Journal, stored: Stored) -> None:
    """Under a new epoch the journal goes on where it stands; under the old one nothing is moved."""
    run_id = await grown(journal)
    assert await journal.take_over(run_id) == 2
    stream = SealedStream(stored.store, stored.blobs, Keys(stored.tenant)("run", run_id, "events"), SIZES)
    counter = Keys(stored.tenant)("run", run_id)
    assert await stream.seal_oldest(counter, journal.fence(run_id, 1)) == 0
    assert await stream.seal_oldest(counter, journal.fence(run_id, 2)) > 0
    assert await journal.append(run_id, 2, note(EVENTS + 1)) == EVENTS + 1
    assert numbers(await journal.read_all(run_id)) == [*range(1, EVENTS + 2)]


async def test_a_run_that_inherits_much_is_sealed_at_once(journal: Journal, stored: Stored) -> None:
    """A long fork or import takes no more memory than a run that grew."""
    first = submitted()
    inherited = [note(number) for number in range(2, EVENTS)]
    await journal.open_run(first, [*inherited, finished()])
    assert await bytes_in_memory(stored) < 3 * OPEN_BYTES
    recorded = await journal.read_all(first.run_id)
    assert numbers(recorded) == [*range(1, EVENTS + 1)]
    assert isinstance(recorded[-1].event, RunFinished)


async def test_a_forgotten_journal_leaves_nothing(journal: Journal, stored: Stored) -> None:
    """Its segments are named no more, and it is not found."""
    run_id = await grown(journal)
    await journal.forget(run_id)
    with pytest.raises(NotFound):
        await journal.read(run_id, 3)
    assert await stored.store.read("KEYS", Keys(stored.tenant)("run", "*")) == []


async def test_a_pause_before_sealing_loses_nothing(
    journal: Journal, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put a segment and was held up, until it was collected as what nothing refers to, drops no entry for it;
    the next one seals them."""
    run_id = await grown(journal, events=10)
    now, put = Store.now, Blobs.put

    async def long_ago(self: Store) -> float:
        return await now(self) - UNTOUCHED_FOR_S

    async def collected(self: Blobs, data: bytes, media: Media = "text") -> BlobRef:
        ref = await put(self, data, media)
        self.path(ref.sha256).unlink()
        return ref

    with monkeypatch.context() as held_up:
        held_up.setattr(Store, "now", long_ago)
        held_up.setattr(Blobs, "put", collected)
        await journal.append(run_id, 1, finished())
        assert not await journal.seal_ended(run_id)
    assert numbers(await journal.read_all(run_id)) == list(range(1, 12))
    assert await journal.seal_ended(run_id)
    assert numbers(await journal.read_all(run_id)) == list(range(1, 12))


async def test_segments_keep_what_they_name(journal: Journal, stored: Stored) -> None:
    """A segment is referenced, and so are the large bodies that it names, and the payloads that these name."""
    payload = await stored.blobs.put(b"a payload")
    named = await stored.blobs.put(b"another payload")
    stray = await stored.blobs.put(b"stray")
    first = submitted(question=f"{payload.sha256} " + "q" * INLINE_BYTES)
    await journal.open_run(first)
    large = RootUnavailable(at=2.0, purpose=Purpose.TURN, outcome=CallOutcome.UNAVAILABLE, message=named.sha256)
    await journal.append(first.run_id, 1, large)
    for number in range(3, EVENTS):
        await journal.append(first.run_id, 1, note(number))
    payloads = {path.name for path in stored.blobs.path("0" * 64).parent.parent.glob("*/*")}
    assert len(payloads) > 5
    suspects = Suspects(blobs=stored.blobs, digests={bytes.fromhex(each) for each in payloads})
    await References(stored.store, lambda _: False).strike_out({stored.tenant: suspects})
    assert {each.hex() for each in suspects.digests} == {stray.sha256}


async def test_a_journal_that_cannot_be_sealed_ends_growing(stored: Stored, tmp_path: Path) -> None:
    """With a disk that takes nothing it goes on for a while, and then refuses; nothing that was kept is lost."""
    blobs = Blobs(tmp_path / "blobs")
    journal = Journal(stored.store, blobs, TenantId(new_id("ten")), sizes=SIZES)
    first = submitted()
    await journal.open_run(first)
    shutil.rmtree(tmp_path / "blobs")
    kept = 1

    async def append_for_ever() -> None:
        nonlocal kept
        while True:
            await journal.append(first.run_id, 1, note(kept + 1))
            kept += 1

    with pytest.raises(StoreFailed, match="blob store"):
        await append_for_ever()
    assert OPEN_BYTES < kept * EVENT_CHARS < 6 * OPEN_BYTES
    Blobs(tmp_path / "blobs")
    await journal.append(first.run_id, 1, note(kept + 2))
    assert numbers(await journal.read_all(first.run_id)) == [*range(1, kept + 3)]
