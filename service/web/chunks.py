"""The parser of what clients send, which refuses bodies that are nearly nothing but framing.

Each chunk of a body costs a turn of the parser, however little is in it, and chunks come before any key is looked at.
"""

import h11

FREE_CHUNKS = 256
"""Of one body, however small they are."""
LEAST_MEAN_BYTES = 8
"""Of the chunks of one body, once there are more than that."""

_TOO_SMALL = (
    f"the body comes in chunks of less than {LEAST_MEAN_BYTES} bytes: send larger ones, or its length (content-length)"
)


class ChunkBoundedParser(h11.Connection):
    """h11's parser of a server's side."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._chunks = 0
        self._chunked_bytes = 0
        self.complaint: str | None = None
        """What to tell a client whose chunks are too small."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's. Raises `h11.RemoteProtocolError` for chunks that are too small, too."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._chunked_bytes += len(event.data)
            # The last one may be coming still.
            whole_chunks = self._chunks - (not event.chunk_end)
            if self._chunks > FREE_CHUNKS and self._chunked_bytes < LEAST_MEAN_BYTES * whole_chunks:
                self.complaint = _TOO_SMALL
                raise h11.RemoteProtocolError(_TOO_SMALL)
        elif isinstance(event, h11.Request):
            self._chunks = self._chunked_bytes = 0
        return event
