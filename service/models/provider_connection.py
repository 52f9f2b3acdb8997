"""One provider over HTTP: the connection pool, the deadline, every bound. What is sent and read is the adapters' part.

aiohttp, because it costs a tenth of the CPU of the official clients, and because every bound is ours: total deadline,
idle bound between bytes, byte caps, identity encoding, no redirects, no cookies, no proxies from the environment.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

import aiohttp
import anyio
import structlog

from service.loop.values import CallOutcome
from service.models.failures import classify, classify_streamed
from service.models.json_values import Malformed, parse_json
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.models.sse import SseParser

RESPONSE_LIMIT_BYTES = 64 << 20
RESPONSE_FLOOR_BYTES = 1 << 20
RESPONSE_BYTES_PER_TOKEN = 2048
"""A streamed token is a chunk of some 300 to 600 bytes. A reply may take so much for every token that was asked for,
and the floor for what surrounds them, up to the limit."""

EVENT_LIMIT_BYTES = 4 << 20
ERROR_BODY_LIMIT_BYTES = 64 << 10
DRAIN_S = 0.25
IDLE_S = 120.0
"""Between bytes of a body that has begun. Before its first byte a model may think as long as the deadline lets it."""

KEEP_ALIVE_S = 15.0
"""Short: a connection that the server closed while idle costs a call whose fate is unknown."""

CONNECT_WITHIN_S = 30.0

_FOR_OPERATOR = "whoever runs the service finds the address in its log, and can check"

log = structlog.get_logger(__name__)

_COMMON_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "rlm-service",
}


class ReplyReader(Protocol):
    """Puts one reply together. Each protocol has its own; one is made for each call."""

    @property
    def is_done(self) -> bool:
        """Whether the stream has said that nothing more follows."""
        ...

    def add(self, chunk: object) -> None:
        """Take in the JSON of one event of a stream.

        Raises:
            Malformed: it is not what the protocol says.
        """
        ...

    def add_whole(self, document: object) -> None:
        """Take in a reply that came in one piece, from a server that does not stream.

        Raises:
            Malformed: it is not what the protocol says.
        """
        ...

    def new_text(self) -> str:
        """What of the reply's text came since this was asked last."""
        ...

    def reply(self) -> ModelReply:
        """What it came to.

        Raises:
            ModelCallFailed: the reply broke off, or is a refusal.
        """
        ...


class ProviderConnection:
    """One base URL, one key, one connection pool. Opened by its adapter's first call, closed by `aclose`."""

    def __init__(
        self,
        *,
        provider: str,
        url: str,
        headers: Mapping[str, str],
        api_key: str | None,
        concurrency: int,
        idle_s: float = IDLE_S,
        response_limit_bytes: int = RESPONSE_LIMIT_BYTES,
    ) -> None:
        """`headers` hold the key in the form that the provider wants; `api_key` is what must never be quoted.

        Whoever asks a question is told of its failures by the name of the `provider`. Where it is, the operator's log
        says alone.
        """
        self._provider = provider
        self._url = url
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = _COMMON_HEADERS | dict(headers)
        self._api_key = api_key
        self._idle_s = idle_s
        self._response_limit_bytes = response_limit_bytes
        self._concurrency = concurrency
        self._slots = anyio.Semaphore(concurrency, fast_acquire=True)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __repr__(self) -> str:
        busy = f"{self._concurrency - self._slots.value}/{self._concurrency} calls"
        return f"<ProviderConnection {self.host} {busy}{' closed' if self._closed else ''}>"

    async def call(self, request: ModelRequest, body: bytes, reader: ReplyReader) -> ModelReply:
        """One attempt: post `body`, feed what comes back to `reader`, return its reply.

        Waiting for one of the provider's slots is not part of the request's deadline.

        Raises:
            ModelCallFailed: anything else than a complete reply.
        """
        self._require_open()
        async with self._slots:
            # It may have been closed meanwhile, and nobody would close what is opened now.
            self._require_open()
            with anyio.move_on_after(request.timeout_s):
                return await self._attempt(request, body, reader)
            problem = f"no complete reply within {request.timeout_s:g} s"
            raise ModelCallFailed(CallOutcome.TIMED_OUT, problem)

    async def aclose(self) -> None:
        """Close the pool. A call after it fails at once."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _require_open(self) -> None:
        if self._closed:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the connection pool is closed", may_be_billed=False)

    async def _attempt(self, request: ModelRequest, body: bytes, reader: ReplyReader) -> ModelReply:
        """aiohttp's exceptions end here."""
        session = self._open_session()
        try:
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                return await self._reply(response, request, reader)
        except aiohttp.ClientConnectorCertificateError as exc:
            reason = getattr(exc.certificate_error, "verify_message", "") or type(exc.certificate_error).__name__
            self._log("provider_not_trusted", reason)
            problem = f"the certificate of the provider {self._provider} is not trusted: {_FOR_OPERATOR} SSL_CERT_FILE"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=False) from exc
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            self._log("provider_not_reached", type(exc).__name__)
            problem = f"the provider {self._provider} cannot be reached: {_FOR_OPERATOR} its base URL, and that it runs"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=False) from exc
        except aiohttp.InvalidURL as exc:
            raise ModelCallFailed(CallOutcome.REFUSED, "the base URL is not a URL", may_be_billed=False) from exc
        except aiohttp.ClientPayloadError as exc:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the reply broke off") from exc
        except aiohttp.ClientResponseError as exc:
            raise ModelCallFailed(CallOutcome.INVALID_REPLY, "the server's answer is not HTTP") from exc
        except (aiohttp.ClientError, OSError) as exc:
            self._log("provider_connection_broke", type(exc).__name__)
            problem = f"the connection to the provider {self._provider} broke ({type(exc).__name__})"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem) from exc

    def _open_session(self) -> aiohttp.ClientSession:
        """Opened at the first call, because only then is there surely a running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEP_ALIVE_S),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN_S),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _reply(self, response: aiohttp.ClientResponse, request: ModelRequest, reader: ReplyReader) -> ModelReply:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            _invalid("the server compressed its reply though identity was asked for")
        if response.status != 200:
            await self._raise_for(response)
        allowed_bytes = RESPONSE_FLOOR_BYTES + request.max_output_tokens * RESPONSE_BYTES_PER_TOKEN
        limit_bytes = min(self._response_limit_bytes, allowed_bytes)
        content = _Body(response, idle_s=self._idle_s, limit_bytes=limit_bytes)
        try:
            if response.content_type == "text/event-stream":
                await self._read_stream(content, reader, request.on_text)
            else:
                document = parse_json(await content.read_all())
                self._raise_if_error(document)
                reader.add_whole(document)
        except Malformed as exc:
            _invalid(str(exc))
        return reader.reply()

    async def _read_stream(self, body: "_Body", reader: ReplyReader, on_text: Callable[[str], None] | None) -> None:
        parser = SseParser(limit_bytes=EVENT_LIMIT_BYTES)
        while chunk := await body.read():
            is_done = False
            for data in parser.feed(chunk):
                if data == "[DONE]":
                    is_done = True
                    break
                document = parse_json(data)
                self._raise_if_error(document)
                reader.add(document)
                is_done = reader.is_done
            if on_text is not None:
                on_text(reader.new_text())
            if parser.overflowed:
                _invalid(f"an event of the reply is longer than {EVENT_LIMIT_BYTES} bytes")
            if is_done:
                await body.drain()
                return

    def _raise_if_error(self, document: object) -> None:
        """A server that had begun with 200 can only say in the body what went wrong."""
        if isinstance(document, dict) and document.get("error"):
            raise classify_streamed(document, now=datetime.now(UTC), secrets=self._secrets())

    async def _raise_for(self, response: aiohttp.ClientResponse) -> NoReturn:
        body = _Body(response, idle_s=self._idle_s, limit_bytes=ERROR_BODY_LIMIT_BYTES)
        try:
            document = parse_json(await body.read_all())
        except (Malformed, ModelCallFailed, aiohttp.ClientError):
            document = None  # the status alone decides
        if response.status in (401, 403) and self._api_key is None:
            self._log("provider_wants_key", f"HTTP {response.status}")
            problem = f"the provider {self._provider} wants a key (HTTP {response.status}) and none is set"
            raise ModelCallFailed(CallOutcome.REFUSED, problem, may_be_billed=False)
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise classify(response.status, headers, document, now=datetime.now(UTC), secrets=self._secrets())

    def _log(self, event: str, reason: str) -> None:
        log.warning(event, provider=self._provider, address=self._origin, reason=reason)

    def _secrets(self) -> tuple[str, ...]:
        return (self._api_key,) if self._api_key else ()


class _Body:
    """Reads a response's body under the idle bound (after its first byte) and the byte cap."""

    def __init__(self, response: aiohttp.ClientResponse, *, idle_s: float, limit_bytes: int) -> None:
        self._content = response.content
        self._idle_s = idle_s
        self._limit_bytes = limit_bytes
        self._size_bytes = 0

    async def read(self) -> bytes:
        """The next piece; empty at the end. What has come already is not waited for."""
        chunk = self._content.read_nowait()
        if not chunk and not self._content.at_eof():
            chunk = await (self._read_in_time() if self._size_bytes else self._content.readany())
        self._size_bytes += len(chunk)
        if self._size_bytes > self._limit_bytes:
            _invalid(f"the reply is longer than {self._limit_bytes} bytes")
        return chunk

    async def _read_in_time(self) -> bytes:
        with anyio.move_on_after(self._idle_s):
            return await self._content.readany()
        raise ModelCallFailed(CallOutcome.TIMED_OUT, f"the reply stood still for {self._idle_s:g} s")

    async def read_all(self) -> bytes:
        body = bytearray()
        while chunk := await self.read():
            body += chunk
        return bytes(body)

    async def drain(self) -> None:
        """Read what follows the end of a stream, briefly: only a body read to its end keeps its connection."""
        if self._content.at_eof():
            return
        with anyio.move_on_after(DRAIN_S):
            while await self.read():
                pass


def _invalid(problem: str) -> NoReturn:
    raise ModelCallFailed(CallOutcome.INVALID_REPLY, problem)
