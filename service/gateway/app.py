"""The gateway's application: host calls in, items out."""

import json
from contextlib import AsyncExitStack
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox_image.protocol import (
    MAX_BATCH_ITEMS,
    MAX_HOST_CALL_BODY_BYTES,
    MAX_HOST_CALL_VALUES,
    HostCallRequest,
    count_values,
)
from sandbox_image.protocol import HostCallItem as WireItem
from service.errors import BadRequest, Fault, RlmServiceError
from service.gateway.digests import digest_of
from service.gateway.pieces import is_long, reply_at_once, reply_in_pieces
from service.runs.host_calls.grants import GrantRefused, Grants
from service.runs.host_calls.host_calls import HostCallRefused, HostCalls
from service.runs.host_calls.values import HostCall, HostCallItem

_REQUEST = TypeAdapter(HostCallRequest)

Headers = dict[bytes, str]
"""By lower-case name; of one that is repeated the last."""

ROUTE = ("POST", "/host-calls")
_MAX_ID_CHARS = 200
MAX_INBOUND_BYTES = 2 * MAX_HOST_CALL_BODY_BYTES
"""Of one grant's requests at once."""
INLINE_BYTES = 64 << 10
"""Larger bodies are decoded in a thread: a megabyte of JSON is a few milliseconds in which nobody else is served."""
_LARGE_BODIES = anyio.CapacityLimiter(2)
"""Decoded or measured at once, of all grants; of one grant they come one after the other, so that many delay only
themselves."""
REPLY_S = 30.0
SLOWEST_BYTES_PER_S = 1 << 20
"""How long a long reply may take to be read."""


class BodyTooLarge(BadRequest):
    """More than one request may carry; reading was stopped there."""

    code = "body_too_large"


def gateway_app(grants: Grants) -> ASGIApp:
    """The ASGI application. One route and no framework: routing and documentation would cost more than the answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the listener serves nothing else"
        if (scope["method"], scope["path"]) == ROUTE:
            async with AsyncExitStack() as until_sent:
                response = await _host_call_response(grants, _headers(scope), receive, until_sent)
                await response(scope, receive, send)
        else:
            await Response(status_code=404)(scope, receive, send)

    return app


async def _host_call_response(
    grants: Grants, headers: Headers, receive: Receive, until_sent: AsyncExitStack
) -> ASGIApp:
    try:
        granted = grants.resolve(_bearer(headers))
        granted.check_paying()
        with _Inbound(granted) as inbound:
            call = await _decoded(granted, await _body(headers, receive, inbound))
            if granted.must_look_up(call):
                await until_sent.enter_async_context(granted.one_look_up)
            items = await granted.answer(call)
    except RlmServiceError as exc:
        return _refusal(exc)
    wire = [_wire_item(item) for item in items]
    if not is_long(wire):
        return Response(reply_at_once(wire), media_type="application/json")
    async with granted.one_large_body:
        size_bytes = await anyio.to_thread.run_sync(_size_of, wire, limiter=_LARGE_BODIES)
    return _LongReply(wire, size_bytes)


def _size_of(items: list[WireItem]) -> int:
    return sum(map(len, reply_in_pieces(items)))


class _LongReply:
    """An ASGI application that sends it as it is read, and gives up where that takes too long."""

    def __init__(self, items: list[WireItem], size_bytes: int) -> None:
        self._items = items
        self._size_bytes = size_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(self._size_bytes).encode())]
        with anyio.move_on_after(REPLY_S + self._size_bytes / SLOWEST_BYTES_PER_S):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in reply_in_pieces(self._items):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await anyio.lowlevel.checkpoint()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(scope: Scope) -> Headers:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise GrantRefused("a host call needs `Authorization: Bearer <grant>`")
    return token


class _Inbound:
    """What one request adds to its grant's share of our memory, until it is answered."""

    def __init__(self, granted: HostCalls) -> None:
        self._granted = granted
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._granted.inbound_bytes -= self.size_bytes

    def add(self, size_bytes: int) -> None:
        """Raises `BodyTooLarge` when this request, or all of the grant's together, carry too much."""
        self.size_bytes += size_bytes
        self._granted.inbound_bytes += size_bytes
        if self.size_bytes > MAX_HOST_CALL_BODY_BYTES:
            raise BodyTooLarge(f"a host call may carry at most {MAX_HOST_CALL_BODY_BYTES} bytes: make smaller batches")
        if self._granted.inbound_bytes > MAX_INBOUND_BYTES:
            raise BodyTooLarge(f"the host calls of a run may carry {MAX_INBOUND_BYTES} bytes at once: wait for answers")


async def _body(headers: Headers, receive: Receive, inbound: _Inbound) -> bytes:
    """The body, refused as soon as it is too long, whatever length it announced."""
    if headers.get(b"content-encoding", "identity") != "identity":
        raise BadRequest("a host call's body must not be encoded")
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the sandbox went away in the middle of a host call")
        chunk: bytes = message.get("body", b"")
        inbound.add(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _decoded(granted: HostCalls, body: bytes) -> HostCall:
    try:
        if len(body) <= INLINE_BYTES:
            return _host_call(body)
        async with granted.one_large_body:
            return await anyio.to_thread.run_sync(_host_call, body, limiter=_LARGE_BODIES)
    except BadRequest:
        granted.count_unpaid()
        raise


def _host_call(body: bytes) -> HostCall:
    if count_values(body, MAX_HOST_CALL_VALUES) > MAX_HOST_CALL_VALUES:
        raise BodyTooLarge(f"a host call may have at most {MAX_HOST_CALL_VALUES} values: pass what is large as a text")
    try:
        wire = _REQUEST.validate_json(body, strict=True)
    except ValidationError as exc:
        raise BadRequest(f"not a host call: {exc.error_count()} errors in its fields") from exc
    prompts: Any = wire.arguments.get("prompts", [])
    if isinstance(prompts, list) and len(prompts) > MAX_BATCH_ITEMS:
        raise BadRequest(f"a batch may have at most {MAX_BATCH_ITEMS} items, found {len(prompts)}")
    if len(wire.cell_id) > _MAX_ID_CHARS or not 0 <= wire.ordinal < 1 << 53:
        raise BadRequest("not a host call: its key is malformed")
    return HostCall(
        wire_cell_id=wire.cell_id,
        function=wire.function,
        arguments_sha256=digest_of(wire.arguments, is_large=len(body) > INLINE_BYTES),
        ordinal=wire.ordinal,
        arguments=wire.arguments,
    )


def _wire_item(item: HostCallItem) -> WireItem:
    if item.diverged:
        return WireItem(ok=False, kind="diverged", message=item.message)
    if item.failure is not None:
        return WireItem(ok=False, kind=item.failure.value, message=item.message)
    return WireItem(ok=True, value=item.value)


def _refusal(exc: RlmServiceError) -> Response:
    """What went wrong, as far as the code that asked may know."""
    status = 400
    if isinstance(exc, GrantRefused):
        status = 401
    elif isinstance(exc, HostCallRefused):
        status = 409
    elif isinstance(exc, BodyTooLarge):
        status = 413
    elif exc.fault is Fault.PLATFORM:
        status = 503
    message = str(exc) if status != 503 else "the service cannot answer host calls at the moment"
    # A refusal may leave a body unread: closing keeps its rest from waiting in the connection.
    headers = {"connection": "close"}
    return Response(json.dumps({"code": exc.code, "message": message}), status, headers, "application/json")
