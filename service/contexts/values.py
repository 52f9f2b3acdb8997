"""What a stored context is."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sandbox_image.protocol import ImageEncoding
from service.errors import BadRequest, Fault, NotFound, RlmServiceError
from service.ids import ContextId

ContextKind = Literal["text", "json", "json_lines", "named_texts"]


class Life(StrEnum):
    """How long a context that is put is there."""

    KEPT = "kept"
    """Until it is deleted."""
    TRANSIENT = "transient"
    """Until no conversation has brought it along for a while, and nothing uses it. One that is kept stays kept."""
    UNLISTED = "unlisted"
    """What code hands to a child run: as long as that run, in no list, and shared with nothing else."""


ContextUnit = Literal["characters", "items", "keys"]


class ContextAbsent(NotFound):
    """There is no such context, or none any more."""


class DigestMismatch(RlmServiceError):
    """What came is not what was said to be sent; nothing of it was kept."""

    code = "digest_mismatch"
    fault = Fault.CALLER
    may_be_retried = True


class NotInEncoding(BadRequest):
    """The bytes are no text in the encoding in which they are read; `data` has the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextImage:
    """A text as CPython holds it in memory, as a blob (`images`)."""

    sha256: str
    encoding: ImageEncoding
    length: int
    """In characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextListImage:
    """The texts of a list as CPython holds them in memory, as a blob (`text_lists`)."""

    sha256: str
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stored payload of a context. Most contexts have one; `named_texts` have many."""

    name: str
    sha256: str
    size_bytes: int
    image: TextImage | None = None
    """Of a text that is large enough for one."""
    list_image: TextListImage | None = None
    """Of JSON that is a large list of nothing but strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A stored context: which blobs it consists of, and the constant-size facts that a root LM is shown."""

    context_id: ContextId
    name: str
    kind: ContextKind
    parts: tuple[Part, ...]
    type_name: str
    """Of the value it becomes in the REPL: `str`, `list`, `dict`, …"""
    length: int
    """`len()` of that value; 0 for a scalar."""
    unit: ContextUnit
    preview: str
    size_bytes: int
    created_at: float
    came_along: bool = False
    """It was stored because a conversation brought it along, and was transient then; it may have been kept since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedPart:
    """A part as a session's directory holds it."""

    part: str
    link: str
    """A bare file name."""
    size_bytes: int
    image: TextImage | None = None
    """Linked under its digest, as the other is."""
    list_image: TextListImage | None = None
