"""What leaves the LiteLLM process: one HTTP request a call, through one door, and a true record of it.

What LiteLLM says of a failure is no ground for booking: it names a reset after hours of work like a refused connection,
sends again on its own, follows redirects with the key, and invents statuses for replies that it cannot convert. So
every `httpx` transport of this process, whoever made it (LiteLLM, or an SDK that it uses), is changed: a request
belongs to a call, a call sends one, redirects end it, and `Call` notes what was handed over and what came back.
A connection that anything else opens is refused by an audit hook, since nothing could be said of what it sends.
"""

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx

CREDENTIALS_ARE_FETCHED = frozenset({"bedrock", "sagemaker", "sagemaker_chat"})
"""Providers whose SDK may ask the cloud for credentials on connections of its own. The prompt goes through `httpx`, but
which other connection was which cannot be told: a call that opened one counts as sent. Not so one to an address of this
link, where a cloud offers credentials and no model is: who finds none there has asked nobody."""
_ABOUT_THE_MODEL = "/api/show"
"""Ollama's, which LiteLLM asks before each completion and can do without."""


class NotAllowed(Exception):
    """The request or connection that LiteLLM wanted is not made. No class that it would try again after."""


class Call:
    """What one call has sent and received so far. Written by the transports, read when the call is over."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self._address: str | None = None
        """Of its one request."""
        self.is_sent = False
        """From just before the first byte of a request goes to a connected socket."""
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        """Of the reply, those that say when to try again."""
        self.refusal: str | None = None
        """What was not allowed: `redirect`, `second_request` (of another address) or `connection`."""
        self.is_over = False

    def __repr__(self) -> str:
        return f"<Call {self.provider} {self.stage} {self.status or 'no status'}>"

    @property
    def stage(self) -> str:
        """How far it got: `unasked`, `connecting` or `sent`."""
        return "sent" if self.is_sent else "connecting" if self._address is not None else "unasked"

    def begin(self, address: str) -> None:
        """Claim the one request of this call.

        Raises:
            NotAllowed: it has been claimed; or the call is over, and only a thread of it is left; or it only asks about
                the model, which is known without.
        """
        if address.endswith(_ABOUT_THE_MODEL):
            raise NotAllowed("what is to be known of the model is known")
        if self._address is not None or self.is_over:
            if self._address != address:
                self.refusal = "second_request"
            raise NotAllowed("a call sends one request")
        self._address = address

    def note_reply(self, response: httpx.Response) -> None:
        """Take the head of the reply down.

        Raises:
            NotAllowed: it redirects.
        """
        self.is_sent = True
        self.status = response.status_code
        self.headers = {name: value for name, value in response.headers.items() if "retry" in name}
        response.headers.pop("set-cookie", None)  # clients are shared by keys, and would share their cookies
        if response.headers.pop("location", None) is not None or 300 <= response.status_code < 400:
            self.refusal = "redirect"
            raise NotAllowed(f"the server redirects (HTTP {response.status_code})")

    def note_progress(self, event: str) -> None:
        """Take down an event of the connection's (`httpcore`'s trace)."""
        if event.endswith(".send_request_headers.started"):
            self.is_sent = True


_current: ContextVar[Call | None] = ContextVar("current", default=None)
_in_transport: ContextVar[bool] = ContextVar("in_transport", default=False)


@contextmanager
def recorded(provider: str) -> Iterator[Call]:
    """Inside, requests of this task and of the threads it starts belong to the call."""
    call = Call(provider)
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)
        call.is_over = True


def own_transports() -> None:
    """Change every transport of `httpx`, LiteLLM's client, and refuse connections from elsewhere. Cannot be undone, so
    it is called in LiteLLM's own process only; nothing else of this room may touch `httpx` (import-linter)."""
    send = httpx.HTTPTransport.handle_request
    send_async = httpx.AsyncHTTPTransport.handle_async_request

    def handle_request(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        with _passing(request) as call:

            def trace(event: str, _info: object) -> None:
                call.note_progress(event)

            request.extensions["trace"] = trace
            response = send(self, request)
            try:
                call.note_reply(response)
            except NotAllowed:
                response.close()
                raise
            return response

    async def handle_async_request(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        with _passing(request) as call:

            async def trace(event: str, _info: object) -> None:
                call.note_progress(event)

            request.extensions["trace"] = trace
            response = await send_async(self, request)
            try:
                call.note_reply(response)
            except NotAllowed:
                await response.aclose()
                raise
            return response

    httpx.HTTPTransport.handle_request = handle_request  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = handle_async_request  # type: ignore[method-assign]
    sys.addaudithook(_refuse_other_connections)


@contextmanager
def _passing(request: httpx.Request) -> Iterator[Call]:
    call = _current.get()
    if call is None:
        raise NotAllowed(f"no call asks for this {request.method} request")
    call.begin(str(request.url))
    token = _in_transport.set(True)
    try:
        yield call
    finally:
        _in_transport.reset(token)


def is_link_local(address: object) -> bool:
    """Whether a socket's address is one of the machine's own link, as a cloud's metadata service has."""
    host = address[0] if isinstance(address, tuple) and address else None
    try:
        return isinstance(host, str) and ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _refuse_other_connections(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or _in_transport.get():
        return
    call = _current.get()
    if call is not None and call.provider in CREDENTIALS_ARE_FETCHED:
        if not is_link_local(args[1]):
            call.is_sent = True
        return
    if call is not None:
        call.refusal = "connection"
    raise NotAllowed("a connection that does not belong to a call's request")
