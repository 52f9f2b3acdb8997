"""What surrounds every request: its id, what becomes of its failure, and one line of the log when it failed.

A plain ASGI application around the whole, so that streams pass through it piece by piece.
"""

import string
import uuid
from contextlib import ExitStack

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RlmServiceError, sole_failure
from service.web.dialects.anthropic.refusals import in_dialect, is_anthropic
from service.web.problems import problem, problem_of, status_of
from service.web.urls import refuse_other_encodings

LONGEST_REQUEST_ID = 128
_UNLESS_SAID = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
)
"""What is answered is some tenant's own, and written by models: no cache keeps it, no browser runs it."""
_ID_CHARS = frozenset(string.ascii_letters + string.digits + "._-")

log = structlog.get_logger(__name__)


class Boundary:
    """Around all routes: whatever leaves it is a response or a broken connection.

    `request.state.held` is an exit stack for what a request holds until its response has been sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"expected an HTTP request, found {scope['type']}")
        request_id = _request_id(scope)
        with ExitStack() as held:
            scope.setdefault("state", {}).update(request_id=request_id, held=held)
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id: str = scope["state"]["request_id"]
        exchange = _Exchange(scope, receive, send, _id_headers(scope["path"], request_id))
        try:
            refuse_other_encodings(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as exc:
            failure = sole_failure(exc)
            if not isinstance(failure, RlmServiceError) or status_of(failure) == 500:
                log.exception("request_failed", request_id=request_id, path=scope["path"], exc_info=failure)
            if exchange.has_started:
                raise ConnectionAbortedError("the response broke off") from exc
            if isinstance(failure, RlmServiceError):
                response = problem_of(failure, request_id)
            else:
                response = problem(
                    "internal", 500, "the service failed; its log has more under this request id", request_id
                )
            await in_dialect(scope["path"], response)(scope, receive, exchange.send)


class _Exchange:
    """One request and its response as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, id_headers: list[tuple[bytes, bytes]]) -> None:
        self._state = scope["state"]
        self._receive = receive
        self._send = send
        self._id_headers = id_headers
        self._has_read_all = False
        self.has_started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._has_read_all = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = [*message.get("headers", []), *self._id_headers, *self._state.get("rate_headers", ())]
            present = {name for name, _ in headers}
            headers += [(name, value) for name, value in _UNLESS_SAID if name not in present]
            if message["status"] >= 400 and not self._has_read_all:
                # What is left of its body is not waited for.
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _id_headers(path: str, request_id: str) -> list[tuple[bytes, bytes]]:
    """Anthropic's clients look for another name."""
    names = (b"x-request-id", b"request-id") if is_anthropic(path) else (b"x-request-id",)
    return [(name, request_id.encode()) for name in names]


def _request_id(scope: Scope) -> str:
    """The client's own, if it is one that can be logged and sent back."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if 0 < len(text) <= LONGEST_REQUEST_ID and _ID_CHARS.issuperset(text):
                return text
            break
    return f"req_{uuid.uuid4().hex}"
