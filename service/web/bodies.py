"""Request bodies: bounded in size and in time, and decoded where they hold up nobody else."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from sandbox_image.protocol import count_values
from service.contexts.json_counts import MOST_VALUES
from service.errors import BadRequest, Fault, RlmServiceError
from service.web.callers import caller_of
from service.web.inbound import InboundShare

AnyShape = TypeVar("AnyShape", bound=BaseModel)

NATIVE_BODY_BYTES = 8 << 20
"""Of a JSON body of the native API. What is larger is a context, and streams."""
LARGEST_UPLOAD_BYTES = 64 << 30
"""Of one stream. How much a tenant may keep in all is the tenant's limit."""
PATIENCE_S = 30.0
"""For the next `PATIENCE_S * LEAST_BYTES_PER_S` of a body, or for all the rest of it."""
LEAST_BYTES_PER_S = 1024
INLINE_BYTES = 64 << 10
"""Larger bodies are decoded in a thread, and checked there where the route does that itself."""

UPLOADS = "POST /v1/uploads"
"""Where to take what is too large, and can go on when the connection breaks."""
STREAMED = f"POST /v1/contexts?kind=json_lines with content-type: application/jsonl, or {UPLOADS}"
"""How JSON comes that no body of JSON holds."""


class RequestTooLarge(RlmServiceError):
    """The body is larger than the route takes; reading it was stopped there."""

    code = "request_too_large"
    fault = Fault.CALLER


class TooManyValues(RlmServiceError):
    """A JSON body has more values than are decoded at once; `data["limit"]` says how many those are."""

    code = "too_many_values"
    fault = Fault.CALLER


class RequestTimeout(RlmServiceError):
    """The body did not come, or not fast enough."""

    code = "request_timeout"
    fault = Fault.CALLER
    may_be_retried = True


class UnsupportedMediaType(RlmServiceError):
    """The route does not take a body of this type or encoding."""

    code = "unsupported_media_type"
    fault = Fault.CALLER


class Pace:
    """How fast a body comes, by the time that is spent waiting for it: what came fast before buys no later rest."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.patience_s = PATIENCE_S
        """How long the next piece is waited for."""
        self._owed_bytes = PATIENCE_S * LEAST_BYTES_PER_S

    def take(self, size_bytes: int, waited_s: float) -> None:
        """A piece of this size came after so long a wait."""
        self.patience_s -= waited_s
        self._owed_bytes -= size_bytes
        if self._owed_bytes <= 0:
            self._begin()


class ReadRequest(Request):
    """A request whose JSON body has been read and decoded."""

    def __init__(self, request: Request, payload: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._payload = payload
        self._value = value

    async def body(self) -> bytes:
        return self._payload

    async def json(self) -> Any:
        return self._value

    @property
    def is_large(self) -> bool:
        """Whether it holds up others to look at all of it at once."""
        return len(self._payload) > INLINE_BYTES

    def checked(self, value: Any) -> "ReadRequest":
        """The same request with this in place of what was decoded."""
        return ReadRequest(self, self._payload, value)


async def body_chunks(request: Request, *, limit_bytes: int | None) -> AsyncIterator[bytes]:
    """The body as it comes. Not one byte of it has been read before the first is asked for.

    Raises:
        RequestTooLarge: it announced, or has, more than `limit_bytes`.
        RequestTimeout: it came too slowly.
        UnsupportedMediaType: it is encoded (compressed).
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without content-encoding")
    announced = request.headers.get("content-length", "")
    if limit_bytes is not None and announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    size_bytes, pace = 0, Pace()
    pieces = request.stream()
    while True:
        since = anyio.current_time()
        piece = None
        with anyio.CancelScope(deadline=since + pace.patience_s) as scope:
            piece = await anext(pieces, b"")
        if scope.cancelled_caught or piece is None:
            raise RequestTimeout("the body did not come in time: send it faster, or in smaller requests")
        if not piece:
            return
        pace.take(len(piece), anyio.current_time() - since)
        size_bytes += len(piece)
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        yield piece


def media_type(request: Request) -> str:
    """What the body says that it is, in lower case and without parameters; empty if it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def has_body(request: Request) -> bool:
    """Whether anything is announced, be it of no known length."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def is_json(request: Request) -> bool:
    """Whether the body says that it is JSON."""
    kind = media_type(request)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def refuse_form(request: Request) -> None:
    """For a route whose body may be of any type: curl calls everything a form that it is not told a type of, and its
    `-d @file` leaves out the line ends, so that something else would be kept than what was meant.

    Raises:
        UnsupportedMediaType
    """
    kind = media_type(request)
    if kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise UnsupportedMediaType(
            f"a body of type {kind} is not taken: send the content as it is (curl --data-binary @FILE) with its own "
            "content-type, such as text/plain or application/octet-stream, and JSON with application/json"
        )


async def read_shape(request: Request, shape: type[AnyShape], *, limit_bytes: int = NATIVE_BODY_BYTES) -> AnyShape:
    """A JSON body as this shape, for a route that takes other bodies too.

    Raises:
        RequestValidationError: it has another shape.
        BadRequest, TooManyValues, UnsupportedMediaType, RequestTooLarge, RequestTimeout, ReplicaBusy
    """
    with request.app.state.inbound.share(caller_of(request).tenant.id) as share:
        read = await read_json(request, share, limit_bytes=limit_bytes)
        value = await read.json()
        try:
            if read.is_large:
                return await anyio.to_thread.run_sync(shape.model_validate, value)
            return shape.model_validate(value)
        except ValidationError as exc:
            errors = [{**each, "loc": ("body", *each["loc"])} for each in exc.errors(include_input=False)]
            raise RequestValidationError(errors) from exc


async def read_json(request: Request, share: InboundShare, *, limit_bytes: int) -> ReadRequest:
    """The request with its JSON body read.

    Raises:
        BadRequest: it is not JSON.
        TooManyValues
        UnsupportedMediaType: it does not say that it is JSON.
        RequestTooLarge, RequestTimeout, ReplicaBusy
    """
    if not is_json(request):
        raise UnsupportedMediaType("send JSON, with content-type: application/json")
    pieces: list[bytes] = []
    async for piece in body_chunks(request, limit_bytes=limit_bytes):
        share.hold(len(piece))
        pieces.append(piece)
    payload = b"".join(pieces)
    if len(payload) <= INLINE_BYTES:
        value = _decoded(payload)
    else:
        value = await anyio.to_thread.run_sync(_decoded, payload)
    return ReadRequest(request, payload, value)


def _decoded(payload: bytes) -> Any:
    if count_values(payload, MOST_VALUES) > MOST_VALUES:
        raise TooManyValues(
            f"a JSON body may have {MOST_VALUES} values (strings, numbers, lists, objects): join small texts, or store "
            f"what is more as a context of JSON lines ({STREAMED})",
            data={"limit": MOST_VALUES, "upload": UPLOADS},
        )
    try:
        return from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from error


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"a body of this route may have {limit_bytes} bytes: store what is larger as a context, as a stream "
        f"(POST /v1/contexts with content-type: text/plain; {STREAMED})",
        data={"limit_bytes": limit_bytes, "upload": UPLOADS},
    )
