"""What comes to be kept is refused by what it announces, and else cut off where it goes beyond `storage_bytes`: nobody
makes the disk hold in one request what no limit of theirs allows."""

from collections.abc import AsyncIterator

from starlette.requests import Request

from service.tenants.storage import StorageLeft


async def within_storage(
    chunks: AsyncIterator[bytes], left: StorageLeft | None, *, announced: Request | None = None
) -> AsyncIterator[bytes]:
    """The same chunks. With `announced`, whose body they are, its length is looked at before any is asked for.

    Raises:
        QuotaExceeded: more comes than the caller may keep besides what there is.
    """
    length = "" if announced is None else announced.headers.get("content-length", "")
    if left is not None and length.isdecimal():
        left.require(int(length))
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if left is not None:
            left.require(size_bytes)
        yield chunk
