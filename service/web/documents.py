"""PDF and Office documents: over HTTP a context is text, and these have to be read into text before they come."""

from collections.abc import AsyncIterator

from starlette.requests import Request

from service.web.bodies import UnsupportedMediaType, media_type

_TYPES = frozenset({"application/pdf", "application/msword", "application/epub+zip"})
_FAMILIES = (
    "application/vnd.ms-",
    "application/vnd.openxmlformats-officedocument.",
    "application/vnd.oasis.opendocument.",
)
_MARKS = (b"%PDF-", b"PK\x03\x04")
"""What a PDF begins with, and a ZIP archive, which every newer Office document is."""
_LONGEST_MARK = max(map(len, _MARKS))


def refuse_document(request: Request) -> None:
    """For a route whose body is text.

    Raises:
        UnsupportedMediaType: the body says that it is a document.
    """
    kind = media_type(request)
    if kind in _TYPES or kind.startswith(_FAMILIES):
        raise _refusal(f"a body of type {kind}")


async def text_chunks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, from the beginning of what shall be text; a PDF without a byte above 127 would pass as some.

    Raises:
        UnsupportedMediaType: it begins as a document does; before anything of it was given.
    """
    head = b""
    async for chunk in chunks:
        if len(head) >= _LONGEST_MARK:
            yield chunk
            continue
        head += chunk
        if len(head) >= _LONGEST_MARK:
            _refuse_marked(head)
            yield head
    if 0 < len(head) < _LONGEST_MARK:
        _refuse_marked(head)
        yield head


def _refuse_marked(head: bytes) -> None:
    if head.startswith(_MARKS):
        raise _refusal("a PDF or an Office document")


def _refusal(what: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(f"{what} is not text: extract the text first (`rlm-service contexts put` reads it)")
