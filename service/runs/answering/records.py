"""How runs were asked for, kept beside them: so that a response can be shown later, and continued by another.

A record goes when its run goes.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from service.errors import BadRequest, NotFound
from service.ids import ContextId, RunId
from service.journal.redis_journal import Journal
from service.loop.values import Message
from service.runs.answering.conversation import Conversation, utf8_bytes
from service.runs.answering.deciding import Decision

MOST_CONTINUED = 100
"""Responses that stand behind one another."""
LARGEST_HISTORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRecord:
    """What was sent, and what a client wants to see of it again."""

    model: str
    parts: tuple[str, ...]
    earlier: tuple[Message, ...] = ()
    """Of this request; what stands in `previous` is not repeated."""
    context_ids: tuple[ContextId, ...] = ()
    instructions: str | None = None
    text_format: dict[str, Any] | None = None
    previous: RunId | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    is_background: bool = False
    decision: Decision
    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was said and answered before, and what it was about."""

    said: tuple[Message, ...]
    context_ids: tuple[ContextId, ...]


_RECORD = TypeAdapter(AskedRecord)


class AskedRecords:
    """Of one tenant's runs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def kept(self, run_id: RunId, record: AskedRecord) -> AskedRecord:
        """Keep it beside a run that exists, and give back what is kept: of a request that was sent again, the first."""
        try:
            return await self.get(run_id)
        except NotFound:
            await self._journal.keep_asked(run_id, _RECORD.dump_json(record))
            return record

    async def get(self, run_id: RunId) -> AskedRecord:
        """Raises `NotFound`."""
        kept = await self._journal.asked(run_id)
        if kept is None:
            raise NotFound(f"there is no stored response of {run_id}")
        return _RECORD.validate_json(kept)

    async def forget(self, run_id: RunId) -> None:
        """Raises `NotFound`."""
        await self.get(run_id)
        await self._journal.forget_asked(run_id)

    async def chain(self, run_id: RunId) -> list[tuple[RunId, AskedRecord]]:
        """The record, and those that it continues, the oldest first.

        Raises:
            NotFound: one of them is gone.
            BadRequest: there are too many, or what they say is too much.
        """
        size_bytes = 0
        found: list[tuple[RunId, AskedRecord]] = []
        at: RunId | None = run_id
        while at is not None:
            if len(found) == MOST_CONTINUED:
                raise BadRequest(
                    f"at most {MOST_CONTINUED} responses can stand behind one another: begin a new one",
                    data={"param": "previous_response_id"},
                )
            record = await self.get(at)
            size_bytes += _said_bytes(record)
            _require_fits(size_bytes)
            found.append((at, record))
            at = record.previous
        return found[::-1]


class GrowingHistory:
    """What a chain of records, each with its answer, comes to; for who adds one after another, the oldest first."""

    def __init__(self) -> None:
        self._said: list[Message] = []
        self._context_ids: dict[ContextId, None] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<GrowingHistory messages={len(self._said)} bytes={self._bytes}>"

    def add(self, record: AskedRecord, answer: str) -> None:
        """Raises `BadRequest` when that is too much."""
        self._bytes += _said_bytes(record) + utf8_bytes(answer)
        _require_fits(self._bytes)
        self._said.extend(record.earlier)
        self._said.append(Message(role="user", content="\n\n".join(record.parts)))
        self._said.append(Message(role="assistant", content=answer))
        self._context_ids.update(dict.fromkeys(record.context_ids))

    def so_far(self) -> History:
        return History(said=tuple(self._said), context_ids=tuple(self._context_ids))


def _said_bytes(record: AskedRecord) -> int:
    return sum(utf8_bytes(message.content) for message in record.earlier) + sum(map(utf8_bytes, record.parts))


def _require_fits(size_bytes: int) -> None:
    if size_bytes > LARGEST_HISTORY_BYTES:
        raise BadRequest(
            f"what was said before has more than {LARGEST_HISTORY_BYTES} bytes: begin a new response, with files",
            data={"param": "previous_response_id"},
        )


def record_of(conversation: Conversation, decision: Decision, *, asked_at: float) -> AskedRecord:
    """Of a conversation as it was sent, before any history was added."""
    return AskedRecord(
        model=conversation.model,
        parts=conversation.parts,
        earlier=conversation.earlier,
        context_ids=conversation.context_ids,
        instructions=conversation.instructions or None,
        decision=decision,
        asked_at=asked_at,
    )
