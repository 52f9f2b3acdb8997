"""Forms with files (`multipart/form-data`, RFC 7578), part by part as they come: nothing is gathered in memory or on
disk first. Part headers are bounded, and a part's content is for whoever reads it to bound."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value

from starlette.requests import Request

from service.errors import BadRequest
from service.web.bodies import UnsupportedMediaType

MOST_TYPE_CHARS = 256
"""Of the content type. `email`, which reads it, takes time with the square of its length."""
MOST_HEAD_BYTES = 1 << 10
"""Of the headers of one part, for the same reason."""
MOST_PARTS = 32
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormPart:
    """One field. Its content must be read before the next part is asked for; what is left of it is passed over."""

    name: str
    filename: str | None
    content: AsyncIterator[bytes]

    async def text(self, limit_bytes: int) -> str:
        """The content of a small field. Raises `BadRequest` when it is larger, or not UTF-8."""
        found = b""
        async for piece in self.content:
            found += piece
            if len(found) > limit_bytes:
                raise BadRequest(f"the form field {self.name[:80]!r} may have {limit_bytes} bytes")
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"the form field {self.name[:80]!r} is not UTF-8") from None


def boundary_of(request: Request) -> bytes:
    """Raises `UnsupportedMediaType` for what is no form, `BadRequest` for one whose boundary cannot be one."""
    kind = request.headers.get("content-type", "")
    if len(kind) > MOST_TYPE_CHARS:
        raise BadRequest(f"the content-type has {len(kind)} characters: of a form it has at most {MOST_TYPE_CHARS}")
    head = Message()
    head["content-type"] = kind
    boundary = _parameter(head, "boundary", "content-type")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise UnsupportedMediaType("send a form with the file, with content-type: multipart/form-data")
    if not _BOUNDARY.fullmatch(boundary):
        raise BadRequest("the boundary of the form cannot be one")
    return boundary.encode()


async def form_parts(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[FormPart]:
    """The parts of a form, in their order. Raises `BadRequest` for what is no form."""
    source = _Source(chunks)
    delimiter = b"\r\n--" + boundary
    source.put_back(b"\r\n")  # the first delimiter may stand at the very beginning
    async for _ in source.until(delimiter):
        pass
    for _ in range(MOST_PARTS):
        if await source.take(2) == b"--":
            return
        head = await source.head()
        content = source.until(delimiter)
        name, filename = _names_of(head)
        yield FormPart(name=name, filename=filename, content=content)
        async for _ in content:
            pass
    raise BadRequest(f"the form has more than {MOST_PARTS} parts")


class _Source:
    """The body, with what was read and not yet used."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()

    def put_back(self, data: bytes) -> None:
        self._buffer[:0] = data

    async def until(self, delimiter: bytes) -> AsyncIterator[bytes]:
        """What stands before the delimiter, which is taken away."""
        while (at := self._buffer.find(delimiter)) < 0:
            safe = len(self._buffer) - len(delimiter) + 1
            if safe > 0:
                yield self._cut(safe)
            await self._fill()
        if at:
            yield self._cut(at)
        del self._buffer[: len(delimiter)]

    async def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        return self._cut(size)

    async def head(self) -> bytes:
        """The headers of a part, behind the line of its delimiter (whose first two bytes were taken)."""
        while (at := self._buffer.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)) < 0:
            if len(self._buffer) >= MOST_HEAD_BYTES:
                raise BadRequest(f"the headers of a part of the form have more than {MOST_HEAD_BYTES} bytes")
            await self._fill()
        return self._cut(at + 4)

    def _cut(self, size: int) -> bytes:
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    async def _fill(self) -> None:
        piece = await anext(self._chunks, b"")
        if not piece:
            raise BadRequest("the form breaks off: its last delimiter is missing")
        self._buffer += piece


def _names_of(head: bytes) -> tuple[str, str | None]:
    fields = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    name, filename = (_parameter(fields, each, "content-disposition") for each in ("name", "filename"))
    if name is None:
        raise BadRequest("a part of the form has no name")
    return name, filename


def _parameter(fields: Message, name: str, header: str) -> str | None:
    """None where there is none. Raises `BadRequest` for a header that `email` cannot read."""
    try:
        found = fields.get_param(name, header=header)
        return collapse_rfc2231_value(found).strip() if isinstance(found, tuple) else found
    except (TypeError, ValueError, LookupError) as exc:  # as it trips over parameters in pieces, or strange charsets
        raise BadRequest(f"the {header} of the form cannot be read") from exc
