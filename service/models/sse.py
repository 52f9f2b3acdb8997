"""Server-sent events, read incrementally (WHATWG HTML §9.2.6), from a server that is not trusted.

Rules: any chunking of the same bytes gives the same events; no input raises; what is kept in memory is at most
`limit_bytes` plus the chunk being read. A line or an event beyond the limit stops the parser for good and sets
`overflowed`. Lines end at LF, CR or CRLF. An event that the stream breaks off inside is dropped, as the
standard says. Of an event its data is told and nothing else: in both protocols that says what it is.
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseParser:
    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._data: list[str] = []
        self._data_bytes = 0
        self.overflowed = False

    def __repr__(self) -> str:
        state = "overflowed" if self.overflowed else f"{len(self._line) + self._data_bytes} bytes pending"
        return f"<SseParser {state}>"

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that this chunk completes."""
        events: list[str] = []
        if self.overflowed:
            return events
        start = 0
        if self._after_cr and chunk:
            # The line ended at a CR that was the last byte of its chunk; an LF that follows belongs to it.
            self._after_cr = False
            start = 1 if chunk[:1] == b"\n" else 0
        for end in _LINE_END.finditer(chunk, start):
            line = chunk[start : end.start()]
            start = end.end()
            self._after_cr = end.group() == b"\r" and start == len(chunk)
            if self._line or len(line) + self._data_bytes > self._limit_bytes:
                if not self._append(line):
                    return events
                line = bytes(self._line)
                self._line.clear()
            self._end_line(line, events)
        self._append(chunk[start:])
        return events

    def _append(self, part: bytes) -> bool:
        """Whether there is room for it."""
        if len(self._line) + len(part) + self._data_bytes > self._limit_bytes:
            self.overflowed = True
            self._line.clear()
            self._data.clear()
            return False
        self._line += part
        return True

    def _end_line(self, line: bytes, events: list[str]) -> None:
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            self._data_bytes += len(value) + 1

    def _dispatch(self, events: list[str]) -> None:
        if self._data:
            events.append("\n".join(self._data))
        self._data.clear()
        self._data_bytes = 0
