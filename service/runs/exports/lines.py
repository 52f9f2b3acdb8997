"""The lines of an export: JSON objects, told apart by `line`, each bounded. In this order:

export      first: what this is
blob        a payload, followed by its pieces; one that is left out stands without any
context     a context of the run, its parts by the digests of blobs
event       the run's events, as in its journal
cell        the session's log of what the run did, from which its namespace is built again
end         last: nothing is missing
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio.to_thread
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from sandbox_image.protocol import count_values
from service.contexts.json_counts import MOST_VALUES
from service.errors import BadRequest
from service.journal.codec import encode
from service.journal.values import CellRecord
from service.loop.events import Event

_WHAT_TO_SEND = "send what `runs export` or GET /v1/runs/{run_id}/export gave, as it is"
FORMAT: Literal["rlm-run/1"] = "rlm-run/1"
PIECE_BYTES = 1 << 20
MOST_HELD_BYTES = 64 << 20
"""Of all lines but pieces, which whoever reads an export holds; so no line is longer."""
READ_INLINE_BYTES = 64 << 10
"""A longer line is read in a thread."""
MOST_PARTS = 10_000

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}_[0-9a-f]{32}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLine:
    run_id: Id
    random_seed: Annotated[int, Field(ge=0, lt=2**48)]
    hash_seed: Annotated[int, Field(ge=0, lt=2**32)] | None
    format: Literal["rlm-run/1"]
    line: Literal["export"] = "export"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobLine:
    sha256: Digest
    size_bytes: Annotated[int, Field(ge=0)]
    media: Literal["text", "json"]
    pieces: Annotated[int, Field(ge=0)]
    """0 of one that is left out for its size, and of an empty one."""
    line: Literal["blob"] = "blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceLine:
    base64: str
    line: Literal["piece"] = "piece"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPart:
    name: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLine:
    context_id: Id
    name: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    kind: Literal["text", "json", "json_lines", "named_texts"]
    parts: Annotated[tuple[GivenPart, ...], Field(min_length=1, max_length=MOST_PARTS)]
    line: Literal["context"] = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    event: dict[str, Any]
    line: Literal["event"] = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLine:
    record: CellRecord
    line: Literal["cell"] = "cell"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLine:
    line: Literal["end"] = "end"


Line = ExportLine | BlobLine | PieceLine | ContextLine | EventLine | CellLine | EndLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


def written(line: Line) -> bytes:
    """As it stands in the file."""
    return to_json(line, inf_nan_mode="constants") + b"\n"


def written_event(event: Event) -> bytes:
    """An event's line, in the journal's own words."""
    return b'{"line":"event","event":%s}\n' % encode(event)


async def read_line(text: bytes, number: int) -> Line:
    """A long one is read in a thread. Raises `BadRequest` naming the line that is none."""
    if len(text) <= READ_INLINE_BYTES:
        return _read_line(text, number)
    return await anyio.to_thread.run_sync(_read_line, text, number)


def _read_line(text: bytes, number: int) -> Line:
    if count_values(text, MOST_VALUES) > MOST_VALUES:
        raise BadRequest(f"line {number} of the export has more than {MOST_VALUES} values")
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError:
        raise BadRequest(f"line {number} of the export is not JSON: {_WHAT_TO_SEND}") from None
    if isinstance(found, dict) and found.get("line") == "export" and found.get("format") != FORMAT:
        raise BadRequest(
            f"the export is not {FORMAT}, which this version reads: export it with this version, or import it with one "
            "as new as the one that wrote it"
        )
    try:
        return _LINE.validate_python(found)
    except ValidationError as error:
        where = ".".join(str(step) for step in error.errors(include_input=False, include_url=False)[0]["loc"])
        raise BadRequest(
            f"line {number} of the export is none of {FORMAT} (at {where[:100] or 'its beginning'}): {_WHAT_TO_SEND}"
        ) from None


def event_text(line: EventLine) -> bytes:
    """For `codec.decode`."""
    return json.dumps(line.event).encode("utf-8", "replace")
