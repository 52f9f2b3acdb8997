"""Forms whose headers are made to be slow to read."""

from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from service.errors import BadRequest
from service.web.forms import MOST_HEAD_BYTES, MOST_TYPE_CHARS, FormPart, boundary_of, form_parts

pytestmark = pytest.mark.anyio


def test_a_long_content_type_is_refused_unread() -> None:
    """A content type longer than a form's can be is refused, though reading it would find a boundary."""
    form = "multipart/form-data; boundary=x"
    assert boundary_of(_request(form.ljust(MOST_TYPE_CHARS, ";"))) == b"x"
    with pytest.raises(BadRequest, match="content-type"):
        boundary_of(_request(form.ljust(MOST_TYPE_CHARS + 1, ";")))


@pytest.mark.parametrize("piece_bytes", [100, 1 << 20])
async def test_long_headers_of_a_part_are_refused_unread(piece_bytes: int) -> None:
    """A part with more headers than it needs is refused, however much of it came at once."""
    assert [part.name for part in await _parts(MOST_HEAD_BYTES, piece_bytes)] == ["file"]
    with pytest.raises(BadRequest, match="headers of a part"):
        await _parts(MOST_HEAD_BYTES + 1, piece_bytes)


@pytest.mark.parametrize(
    "disposition",
    [
        b"form-data; name*=utf-8'ta; name*9=utf-8'ta",
        b"form-data; name*=\0''x",
        b"form-data; name=file; filename*=utf-8'a; filename*1=b",
        b"form-data",
    ],
)
async def test_headers_that_cannot_be_read_are_refused(disposition: bytes) -> None:
    """Parameters in pieces without order, a charset that is none, no name: the form is refused, nothing else."""
    form = b"--x\r\ncontent-disposition: " + disposition + b"\r\n\r\nbody\r\n--x--"

    async def pieces() -> AsyncIterator[bytes]:
        yield form

    with pytest.raises(BadRequest):
        _ = [part async for part in form_parts(pieces(), b"x")]


async def _parts(head_bytes: int, piece_bytes: int) -> list[FormPart]:
    """Of a form with one part, with so many bytes from the end of its delimiter's name to its content."""
    head = b'\r\ncontent-disposition: form-data; name="file"'.ljust(head_bytes - 2, b";") + b"\r\n\r\n"
    form = b"--x" + head + b"content\r\n--x--"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), piece_bytes):
            yield form[start : start + piece_bytes]

    return [part async for part in form_parts(pieces(), b"x")]


def _request(content_type: str) -> Request:
    return Request({"type": "http", "headers": [(b"content-type", content_type.encode())]})
