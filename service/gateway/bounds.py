"""What a connection to the gateway may take of our memory besides the bodies that the application counts."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
_FRAMING_PER_BODY_BYTE = 16
"""A chunk of one byte has six bytes around it."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over the parser in C, which takes in heads, chunks' extensions and trailers for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unaccounted_bytes = 0
        """Of the request that is coming in: what is no body, and not what a body needs around it."""

    def data_received(self, data: bytes) -> None:
        self._unaccounted_bytes += len(data)
        super().data_received(data)
        if self._unaccounted_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_body(self, body: bytes) -> None:
        self._unaccounted_bytes = max(0, self._unaccounted_bytes - (1 + _FRAMING_PER_BODY_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unaccounted_bytes = 0
        super().on_message_complete()
