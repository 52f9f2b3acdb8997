"""`Content-Digest` (RFC 9530): the bytes that came are the bytes that were sent, or nothing is kept."""

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from service.contexts.values import DigestMismatch
from service.errors import BadRequest

_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


async def checked_chunks(request: Request, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, and an error at their end when they are not what the header says. Without one, nothing is
    checked; of several digests each one known must fit.

    Raises:
        BadRequest: the header cannot be read.
        DigestMismatch
    """
    wanted = _wanted(request.headers.get("content-digest", ""))
    found = {name: _ALGORITHMS[name]() for name in wanted}
    async for chunk in chunks:
        for digest in found.values():
            digest.update(chunk)
        yield chunk
    for name, digest in found.items():
        if digest.digest() != wanted[name]:
            raise DigestMismatch(
                f"the body's {name} is not that of content-digest: it was changed on its way, send it again"
            )


def _wanted(header: str) -> dict[str, bytes]:
    wanted = {}
    for entry in filter(None, (each.strip() for each in header.split(","))):
        name, _, value = entry.partition("=")
        if name.strip().lower() not in _ALGORITHMS:
            continue
        try:
            digest = base64.b64decode(value.strip().strip(":"), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("content-digest must be like sha-256=:BASE64:", data={"param": "content-digest"}) from None
        wanted[name.strip().lower()] = digest
    return wanted
