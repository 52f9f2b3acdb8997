"""Server-sent events that follow a journal.

A stream costs next to nothing while nothing happens: it waits for the hints that its replica hears once for everybody,
and asks the store itself only now and then. It begins with a comment, so that the first byte is there at once, and ends
with the run's last event, or when this replica is about to leave: the client then comes back, to another one perhaps,
with `Last-Event-ID`.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.ids import RunId
from service.journal.codec import encode
from service.journal.redis_journal import Journal
from service.journal.values import Recorded
from service.web.rooms import Drain

PING_S = 10.0
"""A comment at least this often, so that nobody between takes the stream for dead."""
RECONNECT_AFTER_MS = 1000
PIECE_BYTES = 64 << 10
"""Small events are sent together up to this size."""


async def follow(journal: Journal, run_id: RunId, after: int, drain: Drain) -> AsyncGenerator[bytes, None]:
    """The run's events behind `after` as a stream. The run is known to exist."""
    yield format_sse_event(comment=f"events of {run_id}", retry=RECONNECT_AFTER_MS)
    async with aclosing(journal.pages(run_id, after, patience_s=PING_S)) as pages:
        async for page in pages:
            if not page:
                yield KEEPALIVE_COMMENT
            for piece in _pieces(page):
                yield piece
            # An idle stream holds nothing of what it has told, and with this piece neither does who sends it.
            page.clear()
            piece = b""
            yield piece
            if drain.has_begun:
                return


def event_json(recorded: Recorded) -> bytes:
    """An event as one line of JSON, with its number."""
    return b'{"seq":%d,%s' % (recorded.seq, encode(recorded.event)[1:])


def _pieces(page: list[Recorded]) -> Iterator[bytes]:
    """The events of a page, small ones together; made one by one, because all of them may be large."""
    piece: list[bytes] = []
    size_bytes = 0
    for recorded in page:
        event = format_sse_event(
            data_str=event_json(recorded).decode(), event=type(recorded.event).__name__, id=str(recorded.seq)
        )
        piece.append(event)
        size_bytes += len(event)
        if size_bytes >= PIECE_BYTES:
            yield b"".join(piece)
            piece, size_bytes = [], 0
    if piece:
        yield b"".join(piece)
