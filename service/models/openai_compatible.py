"""The adapter for every server that speaks OpenAI's chat completions: OpenAI, vLLM, SGLang, Ollama, OpenRouter, Groq …

aiohttp, because it costs a tenth of the CPU of the official client, and because every bound is ours: total deadline,
idle bound between bytes, byte caps, identity encoding, no redirects, no cookies, no proxies from the environment.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn
from urllib.parse import urlsplit

import aiohttp
import anyio

from service.loop.values import CallOutcome
from service.models.chat_completions import Malformed, StreamedReply, dialect_of, parse_json, request_body, whole_reply
from service.models.failures import classify, classify_streamed
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


class OpenAICompatibleAdapter:
    """One provider: one base URL, one key, one connection pool."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        concurrency: int,
        idle_s: float = IDLE_S,
        response_limit_bytes: int = RESPONSE_LIMIT_BYTES,
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._host = urlsplit(base_url).hostname or ""
        self._api_key = api_key
        self._dialect = dialect_of(self._host)
        self._idle_s = idle_s
        self._response_limit_bytes = response_limit_bytes
        self._concurrency = concurrency
        self._slots = anyio.CapacityLimiter(concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __repr__(self) -> str:
        busy = f"{self._slots.borrowed_tokens}/{self._concurrency} calls"
        return f"<OpenAICompatibleAdapter {self._host} {busy}{' closed' if self._closed else ''}>"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`. Waiting for one of the provider's slots is not part of the deadline."""
        if self._closed:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the connection pool is closed", may_be_billed=False)
        async with self._slots:
            with anyio.move_on_after(request.timeout_s):
                return await self._attempt(request)
            problem = f"no complete reply within {request.timeout_s:g} s"
            raise ModelCallFailed(CallOutcome.TIMED_OUT, problem)

    async def aclose(self) -> None:
        """See `ModelAdapter.aclose`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _attempt(self, request: ModelRequest) -> ModelReply:
        async with self._post(request_body(request, self._dialect)) as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                _invalid("the server compressed its reply though identity was asked for")
            if response.status != 200:
                await self._raise_for(response)
            allowed_bytes = RESPONSE_FLOOR_BYTES + request.max_output_tokens * RESPONSE_BYTES_PER_TOKEN
            limit_bytes = min(self._response_limit_bytes, allowed_bytes)
            body = _Body(response, idle_s=self._idle_s, limit_bytes=limit_bytes)
            if response.content_type == "text/event-stream":
                return await self._read_stream(body)
            return await self._read_whole(body)

    @asynccontextmanager
    async def _post(self, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to one request; aiohttp's exceptions end here."""
        session = self._open_session()
        try:
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            problem = f"{self._host} cannot be reached"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=False) from exc
        except aiohttp.InvalidURL as exc:
            raise ModelCallFailed(CallOutcome.REFUSED, "the base URL is not a URL", may_be_billed=False) from exc
        except aiohttp.ClientPayloadError as exc:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the reply broke off") from exc
        except aiohttp.ClientResponseError as exc:
            raise ModelCallFailed(CallOutcome.INVALID_REPLY, "the server's answer is not HTTP") from exc
        except (aiohttp.ClientError, OSError) as exc:
            problem = f"the connection to {self._host} broke ({type(exc).__name__})"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem) from exc

    def _open_session(self) -> aiohttp.ClientSession:
        """Opened at the first call, because only then is there surely a running event loop."""
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
            headers |= {"Accept-Encoding": "identity", "User-Agent": "rlm-service"}
            if self._api_key is not None:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEP_ALIVE_S),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _read_stream(self, body: "_Body") -> ModelReply:
        parser = SseParser(limit_bytes=EVENT_LIMIT_BYTES)
        streamed = StreamedReply()
        while chunk := await body.read():
            events = parser.feed(chunk)
            is_done = False
            for event in events:
                if event.data == "[DONE]":
                    is_done = True
                    break
                self._take(event.data, streamed)
            if parser.overflowed:
                _invalid(f"an event of the reply is longer than {EVENT_LIMIT_BYTES} bytes")
            if is_done:
                await body.drain()
                break
        if not streamed.is_finished:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the reply broke off before the model finished")
        return _accepted(streamed.reply(), refused=streamed.refused)

    def _take(self, data: str, streamed: StreamedReply) -> None:
        try:
            chunk = parse_json(data)
            if isinstance(chunk, dict) and chunk.get("error"):
                raise classify_streamed(chunk, now=datetime.now(UTC), secrets=self._secrets())
            streamed.add(chunk)
        except Malformed as exc:
            _invalid(str(exc))

    async def _read_whole(self, body: "_Body") -> ModelReply:
        """The reply of a server that does not stream: one JSON document."""
        try:
            document = parse_json(await body.read_all())
            if isinstance(document, dict) and document.get("error"):
                raise classify_streamed(document, now=datetime.now(UTC), secrets=self._secrets())
            reply, refused = whole_reply(document)
        except Malformed as exc:
            _invalid(str(exc))
        return _accepted(reply, refused=refused)

    async def _raise_for(self, response: aiohttp.ClientResponse) -> NoReturn:
        body = _Body(response, idle_s=self._idle_s, limit_bytes=ERROR_BODY_LIMIT_BYTES)
        try:
            document = parse_json(await body.read_all())
        except (Malformed, ModelCallFailed, aiohttp.ClientError):
            document = None  # the status alone decides
        if response.status in (401, 403) and self._api_key is None:
            problem = f"{self._host} wants a key (HTTP {response.status}) and none is set"
            raise ModelCallFailed(CallOutcome.REFUSED, problem, may_be_billed=False)
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise classify(response.status, headers, document, now=datetime.now(UTC), secrets=self._secrets())

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
        """The next piece; empty at the end."""
        with anyio.move_on_after(self._idle_s if self._size_bytes else None) as idle:
            chunk = await self._content.readany()
        if idle.cancelled_caught:
            raise ModelCallFailed(CallOutcome.TIMED_OUT, f"the reply stood still for {self._idle_s:g} s")
        self._size_bytes += len(chunk)
        if self._size_bytes > self._limit_bytes:
            _invalid(f"the reply is longer than {self._limit_bytes} bytes")
        return chunk

    async def read_all(self) -> bytes:
        body = bytearray()
        while chunk := await self.read():
            body += chunk
        return bytes(body)

    async def drain(self) -> None:
        """Read what follows the end of a stream, briefly: only a body read to its end keeps its connection."""
        with anyio.move_on_after(DRAIN_S):
            while await self.read():
                pass


def _accepted(reply: ModelReply, *, refused: bool) -> ModelReply:
    if reply.finish_reason == "content_filter":
        raise ModelCallFailed(CallOutcome.REFUSED, "the provider's content filter cut the reply")
    if refused:
        raise ModelCallFailed(CallOutcome.REFUSED, "the model refused to answer")
    return reply


def _invalid(problem: str) -> NoReturn:
    raise ModelCallFailed(CallOutcome.INVALID_REPLY, problem)
