"""Believes nothing that comes back from a sandbox: strict schema, bounds, finite numbers; then our own values.

A reply that does not pass is a `ProtocolBroken`. Nothing of it is quoted: a reply is the sandbox's payload.
"""

import json
import math
import re
from typing import TypeVar

import anyio
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

from sandbox_image.protocol import (
    CAPTURE_HEAD_BYTES,
    CAPTURE_TAIL_BYTES,
    MAX_NAME_CHARS,
    MAX_REPLY_VALUES,
    MAX_TRACEBACK_CHARS,
    MAX_VARIABLES_REPORTED,
    AnswerReply,
    BindReply,
    Captured,
    CellReply,
    ClaimReply,
    ErrorReply,
    FilesReply,
    OutputReply,
    RaisedReply,
    StatsReply,
    Variable,
    VariablesReply,
    count_values,
)
from service.ids import CellId
from service.loop.values import AnswerShown, CapturedText, CellResult, CellStatus, Raised
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.values import SandboxStats

MAX_WHOLE = 1 << 53
MAX_SECONDS = 1e7
MAX_LINE_CHARS = 2_000
MAX_MESSAGE_CHARS = 64_000
MAX_BOUND_VARIABLES = 4_096
MAX_ERRORS_TOLD = 20
INLINE_BYTES = 64 << 10
"""Larger replies are read in a thread."""
_CHARS_PER_BYTE = 4
"""A byte that is no UTF-8 is shown as `\\xff`."""
_TRACEBACK_SLACK_CHARS = 1_000

_LONE_SURROGATE_PERHAPS = re.compile(rb"\\u[dD][89a-fA-F]")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_LARGE_REPLIES = anyio.CapacityLimiter(2)
"""Read at once, of all sandboxes."""

CLAIM = TypeAdapter(ClaimReply)
BIND = TypeAdapter(BindReply)
CELL = TypeAdapter(CellReply)
VARIABLES = TypeAdapter(VariablesReply)
STATS = TypeAdapter(StatsReply)
ERROR = TypeAdapter(ErrorReply)
OUTPUT = TypeAdapter(OutputReply)
FILES = TypeAdapter(FilesReply)

Reply = TypeVar("Reply")


async def read(adapter: TypeAdapter[Reply], body: bytes) -> Reply:
    """The reply, if it is one. A large one is read in a thread: it may be 8 MiB, and others are served meanwhile.

    Raises:
        ProtocolBroken: it is none.
    """
    if len(body) <= INLINE_BYTES:
        return parse(adapter, body)
    return await anyio.to_thread.run_sync(parse, adapter, body, limiter=_LARGE_REPLIES)


def parse(adapter: TypeAdapter[Reply], body: bytes) -> Reply:
    """The reply, if it is one: no coercion, no field too many, no endless nesting, and no more values than any reply
    has, which are counted before one is made. A lone surrogate, which a cell may well put into an error's message and
    which no UTF-8 can carry, becomes a question mark."""
    if count_values(body, MAX_REPLY_VALUES) > MAX_REPLY_VALUES:
        raise ProtocolBroken(f"a reply of more than {MAX_REPLY_VALUES} values")
    try:
        return adapter.validate_json(body, strict=True)
    except ValidationError as exc:
        if not _LONE_SURROGATE_PERHAPS.search(body):
            raise _outside_schema(exc) from None
    try:
        return adapter.validate_json(_without_surrogates(body), strict=True)
    except ValidationError as exc:
        raise _outside_schema(exc) from None


def _without_surrogates(body: bytes) -> bytes:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        raise ProtocolBroken("a reply that is no JSON") from None


def _outside_schema(exc: ValidationError) -> ProtocolBroken:
    if exc.error_count() > MAX_ERRORS_TOLD:  # asking for the first makes them all
        return ProtocolBroken("a reply outside the schema, in many places")
    where = ".".join(str(part)[:40] for part in exc.errors(include_input=False, include_url=False)[0]["loc"][:4])
    return ProtocolBroken(f"a reply outside the schema, at {where or 'its beginning'}")


def cell_result(reply: CellReply, asked: CellId, *, at_most_s: float) -> CellResult:
    """The result of the cell that was asked for, no longer ago than `at_most_s` by the host's clock."""
    _require(reply.cell_id == asked, "the result of another cell")
    _require(len(reply.variables) <= MAX_VARIABLES_REPORTED, "too many variables")
    status = CellStatus(reply.status)
    _require(reply.raised is not None or status is not CellStatus.RAISED, "raised without an exception")
    _require(reply.raised is None or status is not CellStatus.OK, "an exception in a cell that went well")
    return CellResult(
        cell_id=asked,
        status=status,
        stdout=_captured(reply.stdout),
        stderr=_captured(reply.stderr),
        raised=_raised(reply.raised),
        variables=tuple(_name(name) for name in reply.variables),
        answer=_answer(reply.answer),
        namespace_lost=reply.namespace_lost,
        detail=_text(reply.detail, MAX_LINE_CHARS),
        active_s=min(_seconds(reply.active_s), at_most_s),
        wall_s=min(_seconds(reply.wall_s), at_most_s),
    )


def variables(found: list[Variable], at_most: int) -> list[Variable]:
    """The list itself, once every entry is within bounds."""
    _require(len(found) <= at_most, "too many variables")
    for variable in found:
        _name(variable.name)
        _text(variable.type_name, MAX_NAME_CHARS)
        if variable.size is not None:
            _whole(variable.size)
    return found


def stats(reply: StatsReply) -> SandboxStats:
    running = reply.running_cell
    return SandboxStats(
        kernel_lives=_whole(reply.kernel_lives),
        running_cell=None if running is None else _name(running),
        host_calls_in_flight=_whole(reply.host_calls_in_flight),
    )


def confinement(reply: ClaimReply) -> tuple[str, ...]:
    _require(len(reply.confinement) <= 32, "too much confinement")
    _text(reply.python, MAX_NAME_CHARS)
    return tuple(_name(item) for item in reply.confinement)


def value_type(text: str | None) -> str:
    """A type's name from a header."""
    _require(text is not None and text.isprintable(), "no usable type header")
    return _text(text or "", MAX_NAME_CHARS)


def digest(text: str | None) -> str:
    """A SHA-256 from a header."""
    _require(text is not None and _SHA256.match(text) is not None, "no usable digest")
    return text or ""


def bounded(text: str, most_chars: int) -> str:
    """A text of a reply, within its bound."""
    return _text(text, most_chars)


def whole(number: int) -> int:
    """A count of a reply, within what a count can be."""
    return _whole(number)


def shown_to_people(message: str) -> str:
    """A sandbox's error message as part of ours: one printable, bounded line."""
    line = "".join(character if character.isprintable() else " " for character in message[:300])
    return " ".join(line.split())


def _captured(reply: Captured) -> CapturedText:
    return CapturedText(
        head=_text(reply.head, CAPTURE_HEAD_BYTES * _CHARS_PER_BYTE),
        tail=_text(reply.tail, CAPTURE_TAIL_BYTES * _CHARS_PER_BYTE),
        size_bytes=_whole(reply.size_bytes),
    )


def _raised(reply: RaisedReply | None) -> Raised | None:
    if reply is None:
        return None
    return Raised(
        type_name=_text(reply.type_name, MAX_NAME_CHARS),
        message=_text(reply.message, MAX_MESSAGE_CHARS),
        traceback=_text(reply.traceback, MAX_TRACEBACK_CHARS + _TRACEBACK_SLACK_CHARS),
    )


def _answer(reply: AnswerReply | None) -> AnswerShown | None:
    if reply is None:
        return None
    return AnswerShown(
        ready=reply.ready,
        type_name=_text(reply.type_name, MAX_NAME_CHARS),
        size_bytes=_whole(reply.size_bytes),
        sha256=digest(reply.sha256) if reply.ready or reply.sha256 else "",  # large and unfinished: not encoded yet
    )


def _name(text: str) -> str:
    _require(text != "", "an empty name")
    return _text(text, MAX_NAME_CHARS)


def _text(text: str, most_chars: int) -> str:
    _require(len(text) <= most_chars, "a text over its bound")
    return text


def _whole(number: int) -> int:
    _require(0 <= number <= MAX_WHOLE, "a number out of range")
    return number


def _seconds(number: float) -> float:
    _require(math.isfinite(number) and 0 <= number <= MAX_SECONDS, "a time out of range")
    return number


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProtocolBroken(f"the reply has {otherwise}")
