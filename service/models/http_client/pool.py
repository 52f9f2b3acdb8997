"""The connections to one URL. How many there may be at once is decided by who calls."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from urllib.parse import SplitResult, quote, unquote, urlsplit

import anyio
import anyio.to_thread

from service.models.http_client.connection import HttpConnection
from service.models.http_client.errors import CannotConnect, NotTrusted, RequestMalformed
from service.models.http_client.response import Response

CONNECT_WITHIN_S = 30.0
NEXT_ADDRESS_AFTER_S = 0.25
"""Where a host has several addresses, each gets this start before the next one is tried beside it (RFC 8305)."""
_UNQUOTED = "/:@!$&'()*+,;=%~-._"


class HttpPool:
    """Posts to one URL. What is the same in every request is put together once."""

    def __init__(self, url: str, headers: Mapping[str, str], *, keep_alive_s: float) -> None:
        """Nothing is opened yet, and a URL that is none is only told of by `post`."""
        self._url = url
        self._headers = headers
        self._keep_alive_s = keep_alive_s
        self._target: _Target | None = None
        self._idle: list[HttpConnection] = []
        self._all: set[HttpConnection] = set()
        self._are_all_lost = asyncio.Event()

    def __repr__(self) -> str:
        return f"<HttpPool {len(self._all)} connections, {len(self._idle)} idle>"

    @asynccontextmanager
    async def post(self, body: bytes) -> AsyncIterator[Response]:
        """The response to a request with this body, from its head on; its connection is free again behind the block,
        and is kept if the body was read to its end.

        Raises:
            RequestMalformed, CannotConnect: nothing was sent.
            ConnectionBroke, NotHttp: no response came.
        """
        if self._target is None:
            self._target = _target(self._url, self._headers)
        connection = self._idle.pop() if self._idle else await self._connect(self._target)
        try:
            response = connection.send(b"%scontent-length: %d\r\n\r\n" % (self._target.head, len(body)), body)
            await response.until_headed()
            yield response
        finally:
            if connection.end_exchange(keep_s=self._keep_alive_s):
                self._idle.append(connection)

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        for connection in list(self._all):
            connection.abort()
        while self._all:
            await self._are_all_lost.wait()

    async def _connect(self, target: "_Target") -> HttpConnection:
        loop = asyncio.get_running_loop()
        try:
            context = await anyio.to_thread.run_sync(tls) if target.is_tls else None
            with anyio.fail_after(CONNECT_WITHIN_S):
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(self._lost),
                    target.host,
                    target.port,
                    ssl=context,
                    happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S,
                )
        except ssl.SSLCertVerificationError as error:
            raise NotTrusted(error.verify_message) from error
        except (OSError, ssl.SSLError, UnicodeError) as error:  # a time-out is an OSError too
            raise CannotConnect(f"no connection: {type(error).__name__}") from error
        self._all.add(connection)
        self._are_all_lost.clear()
        return connection

    def _lost(self, connection: HttpConnection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._all:
            self._are_all_lost.set()


class _Target:
    """Where requests go, and how each begins."""

    def __init__(self, parts: SplitResult, headers: Mapping[str, str]) -> None:
        """Raises `ValueError`: that cannot be sent."""
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http or https, and a host")
        self.is_tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_tls else 80)
        user_info, _, address = parts.netloc.rpartition("@")
        sent = {"Host": address.encode("idna").decode()} | dict(headers)
        if user_info and "authorization" not in {name.lower() for name in sent}:
            sent["Authorization"] = f"Basic {base64.b64encode(unquote(user_info).encode()).decode()}"
        path = quote(parts.path or "/", safe=_UNQUOTED) + (
            f"?{quote(parts.query, safe=_UNQUOTED + '?')}" * bool(parts.query)
        )
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        if any(not line.isprintable() for line in lines):
            raise ValueError("expected no control characters")
        self.head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _target(url: str, headers: Mapping[str, str]) -> _Target:
    """Raises `RequestMalformed`."""
    try:
        return _Target(urlsplit(url), headers)
    except ValueError as error:  # UnicodeError is one
        raise RequestMalformed(f"this cannot be sent: {type(error).__name__}") from error


@cache
def tls() -> ssl.SSLContext:
    """The machine's own certificates; read once, in some ten milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
