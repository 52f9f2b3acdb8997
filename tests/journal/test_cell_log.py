"""Cell logs and sessions: what a namespace is rebuilt from."""

from dataclasses import replace

import anyio
import pytest

from service.errors import NotFound
from service.ids import CellId, RunId, SessionId, cell_id, new_id
from service.journal.cell_log import CellLog
from service.journal.sessions import Sessions
from service.journal.values import CellRecord, SessionRecord
from service.loop.values import CellStatus
from service.store.errors import StaleEpoch
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

RUN = RunId("run_1")


@pytest.fixture
async def log(stored: Stored) -> CellLog:
    return CellLog(stored.store, stored.blobs, stored.tenant)


@pytest.fixture
async def sessions(stored: Stored) -> Sessions:
    return Sessions(stored.store, stored.tenant)


def cell(turn: int, code: str = "x = 1") -> CellRecord:
    return CellRecord(
        cell_id=cell_id(RUN, turn, 0),
        run_id=RUN,
        kind="cell",
        code=code,
        status=CellStatus.RAISED,
        stdout_sha256="ab",
        answer_sha256="cd",
        variables=("x", "y"),
    )


async def test_records_are_read_in_order(log: CellLog) -> None:
    """All of a session's records come back in order, a megabyte of code included, and only its own."""
    session = SessionId(new_id("ses"))
    records = [
        CellRecord(cell_id=CellId("b"), run_id=RUN, kind="bind", code="[]"),
        cell(1),
        cell(2, "x = '''" + "ö\r\n" * (1 << 19) + "'''"),
        *(cell(turn) for turn in range(3, 600)),
    ]
    places = [await log.append(session, record) for record in records]
    assert places == list(range(1, 601))
    assert await log.read(session) == records
    assert await log.read(SessionId(new_id("ses"))) == []


async def test_a_record_that_is_appended_again_stays_where_it_was(log: CellLog) -> None:
    """A reply that was lost with the connection leaves one record all the same, whatever came behind it."""
    session = SessionId(new_id("ses"))
    assert await log.append(session, cell(1)) == 1
    assert await log.append(session, cell(2)) == 2
    assert await log.append(session, cell(1)) == 1
    assert await log.read(session) == [cell(1), cell(2)]


async def test_the_last_try_of_a_cell_is_what_counts(log: CellLog) -> None:
    """The record of a cell that was run again stands in place of the first, behind what came between, also in a log
    that is read in pages; and there is no other."""
    session = SessionId(new_id("ses"))
    cells = [cell(turn) for turn in range(1, 1_101)]
    for record in cells:
        await log.append(session, record)
    again = [cell(turn, "again") for turn in (1, 499, 500, 501, 1_000, 1_100)]
    assert [await log.append(session, record) for record in again] == list(range(1_101, 1_107))
    assert await log.append(session, again[-1]) == 1_106
    assert await log.append(session, cell(2_000)) == 1_107
    kept = [record for record in cells if record.cell_id not in {each.cell_id for each in again}]
    assert await log.read(session) == [*kept, *again, cell(2_000)]


async def test_a_session_is_kept(sessions: Sessions) -> None:
    """What was written about a session is read again, changed only by the verbs that change it."""
    session = SessionId(new_id("ses"))
    record = SessionRecord(session_id=session, created_at=1.25, random_seed=2**63 - 1)
    await sessions.create(record)
    await sessions.create(SessionRecord(session_id=session, created_at=9.0, random_seed=0))
    assert await sessions.get(session) == record
    await sessions.set_hash_seed(session, 2**32 - 1)
    await sessions.set_hash_seed(session, 7)
    await sessions.close(session)
    closed_at = (await sessions.get(session)).closed_at
    assert closed_at is not None
    await sessions.close(session)
    read = await sessions.get(session)
    assert (read.hash_seed, read.closed_at, read.created_at) == (2**32 - 1, closed_at, 1.25)
    assert await sessions.list() == [session]


async def test_generations_are_never_given_twice(sessions: Sessions) -> None:
    """However many ask at once, each gets a generation of its own, counting from 1."""
    session = SessionId(new_id("ses"))
    await sessions.create(SessionRecord(session_id=session, created_at=1.0, random_seed=1))
    given_out: list[int] = []

    async def ask() -> None:
        given_out.append(await sessions.next_generation(session))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert sorted(given_out) == list(range(1, 51))
    assert (await sessions.get(session)).generation == 50


async def test_changes_of_several_at_once_are_all_kept(sessions: Sessions) -> None:
    """Each change is made to what the others have left, not to what was there when it began."""
    session = SessionId(new_id("ses"))
    await sessions.create(SessionRecord(session_id=session, created_at=1.0, random_seed=1))

    async def add(key: str) -> None:
        await sessions.change(session, lambda found: replace(found, metadata={**found.metadata, key: "x"}))

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(add, f"k{number}")
    assert set((await sessions.get(session)).details.metadata) == {f"k{number}" for number in range(30)}


async def test_a_session_is_changed_between_runs_only_where_nobody_came_for_it(sessions: Sessions) -> None:
    """Whoever takes it begins a new epoch; who knew an older one only can neither take it nor count a sandbox of it."""
    session = SessionId(new_id("ses"))
    await sessions.create(SessionRecord(session_id=session, created_at=1.0, random_seed=1))
    assert await sessions.epoch_of(session) == 0
    assert await sessions.take(session, 0) == 1
    assert await sessions.take(session, 1) == 2
    outdated = sessions.fence(session, 1)
    for attempt in (
        sessions.take(session, 1),
        sessions.next_generation(session, outdated),
        sessions.set_hash_seed(session, 7, outdated),
    ):
        with pytest.raises(StaleEpoch):
            await attempt
    read = await sessions.get(session)
    assert (read.generation, read.hash_seed, await sessions.epoch_of(session)) == (0, None, 2)
    assert await sessions.next_generation(session, sessions.fence(session, 2)) == 1


async def test_an_unknown_session_is_not_found(sessions: Sessions) -> None:
    """Nothing is read from, and nothing written to, a session that does not exist."""
    unknown = SessionId(new_id("ses"))
    for attempt in (
        sessions.get(unknown),
        sessions.next_generation(unknown),
        sessions.close(unknown),
        sessions.change(unknown, lambda found: found),
        sessions.epoch_of(unknown),
        sessions.set_hash_seed(unknown, 1),
    ):
        with pytest.raises(NotFound, match=unknown):
            await attempt
    assert await sessions.list() == []
