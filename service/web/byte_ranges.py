"""Parts of a payload by bytes: the header `range` (RFC 9110, one range) as a decision about what to send."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from service.errors import Fault, RlmServiceError

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


class RangeNotSatisfiable(RlmServiceError):
    """The part that was asked for lies behind the end."""

    code = "range_not_satisfiable"
    fault = Fault.CALLER


@dataclass(frozen=True, slots=True, kw_only=True)
class BytePart:
    """From `first` up to `end`, of `size_bytes`."""

    first: int
    end: int
    size_bytes: int
    is_partial: bool


def part_of(request: Request, size_bytes: int, etag: str) -> BytePart:
    """What of so many bytes the request asks for. All of it for a range that is none, is several, or is of what the
    client had (`if-range`) and may have changed since (it has not where that is `etag`), as the RFC allows.

    Raises:
        RangeNotSatisfiable
    """
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    whole = BytePart(first=0, end=size_bytes, size_bytes=size_bytes, is_partial=False)
    has_changed = request.headers.get("if-range", etag) != etag
    if found is None or has_changed or found.groups() == ("", ""):
        return whole
    first_text, last_text = found.groups()
    if not first_text:
        first, end = max(0, size_bytes - int(last_text)), size_bytes
    else:
        first = int(first_text)
        end = min(size_bytes, int(last_text) + 1) if last_text else size_bytes
        if last_text and int(last_text) < first:
            return whole
    if first >= end:
        raise RangeNotSatisfiable(
            f"there are {size_bytes} bytes, and the range begins behind them", data={"size_bytes": size_bytes}
        )
    return BytePart(first=first, end=end, size_bytes=size_bytes, is_partial=True)


def content_range(part: BytePart) -> dict[str, str]:
    """The headers of a response with this part."""
    headers = {"accept-ranges": "bytes", "content-length": str(part.end - part.first)}
    if part.is_partial:
        headers["content-range"] = f"bytes {part.first}-{part.end - 1}/{part.size_bytes}"
    return headers


class KeptFile(FileResponse):
    """A payload that never changes, whole or the part that the request asks for.

    Which part is decided here, because what the framework makes of a range that it cannot serve is no refusal of ours.
    """

    def __init__(
        self, request: Request, path: Path, *, sha256: str, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Raises `RangeNotSatisfiable`."""
        etag = f'"{sha256}"'
        standing = path.stat()
        self._is_partial = part_of(request, standing.st_size, etag).is_partial
        super().__init__(path, media_type=media_type, headers={**(headers or {}), "etag": etag}, stat_result=standing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_partial:
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        await super().__call__(scope, receive, send)
