"""Conversations: what the root LM and a run's REPL said to each other, as later runs of the session find it."""

from collections.abc import AsyncIterator

from service.errors import NotFound
from service.ids import RunId, SessionId
from service.journal.cell_log import CellLog
from service.journal.redis_journal import Journal
from service.journal.values import Place
from service.loop.events import Event
from service.loop.machine import evolve
from service.loop.state import RunState
from service.loop.values import Message


async def session_events(
    cell_log: CellLog, journal: Journal, session_id: SessionId, *further: RunId
) -> AsyncIterator[tuple[Place, Event]]:
    """The events of all runs that the session's log knows, and of the further ones, each run once, and where each event
    stands: their host calls answer a rebuild."""
    records = await cell_log.read(session_id)
    logged = [record.run_id for record in records if record.run_id is not None]
    for run_id in dict.fromkeys([*logged, *further]):
        async for entry in journal.each(run_id):
            yield Place(run_id=run_id, seq=entry.seq), entry.event


async def conversation_of(journal: Journal, run_id: RunId) -> tuple[Message, ...]:
    """The run's whole conversation but for the system message, the parts that compaction moved away in their places.
    Empty for a run whose journal is gone.

    Folded page by page: a journal holds the answers of all host calls, which are not wanted here.
    """
    state: RunState | None = None
    after = 0
    try:
        while page := await journal.read(run_id, after=after):
            for recorded in page:
                state = evolve(state, recorded.event)
            after = page[-1].seq
    except NotFound:
        return ()
    if state is None:
        return ()
    question = state.messages[1:2]
    return (*question, *state.offloaded, *state.messages[state.turns_from :])
