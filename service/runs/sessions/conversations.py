"""Conversations: what the root LM and a run's REPL said to each other, as later runs of the session find it."""

from service.errors import NotFound
from service.ids import RunId
from service.journal.redis_journal import Journal
from service.loop.machine import evolve
from service.loop.state import RunState
from service.loop.values import Message


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
