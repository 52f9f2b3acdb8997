"""Uploads: a context whose bytes come in several requests, each going on where the last one ended.

The bytes stand in a file of their own until all are there; then they become a context like any other. How far an
upload has come is the length of its file and nothing else: it is forced to disk before it is told, so whatever a
client has heard survives the end of this process, and of the machine. One request at a time writes to it, by a lock on
the file. An upload that nobody goes on with for `OPEN_FOR_S` is forgotten; its file is removed by the next `sweep`, or
when the tenant begins another one. Whoever begins one counts its whole size under its id; that ends here, with it.

Keys: `upload:{id}` the record, with its end as the key's own; `uploads` the ids by that end, and `uploads:{key id}`
those that an API key, or one below it, began: so one key does not take the places of all.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from service.contexts.intake import check_name
from service.contexts.redis_contexts import Contexts
from service.contexts.upload_files import append, digest_of, length_on_disk, written
from service.contexts.upload_values import (
    TooManyUploads,
    Upload,
    UploadDigestMismatch,
    UploadOffsetMismatch,
    UploadPlan,
)
from service.contexts.values import Context, DigestMismatch
from service.errors import BadRequest, NotFound
from service.ids import ContextId, KeyId, TenantId, UploadId, is_id, new_id
from service.store.blobs import Blobs, gather
from service.store.connection import Clock, Command, Store
from service.store.keys import Keys
from service.store.scripts import load_script

OPEN_FOR_S = 24 * 3600
MOST_OPEN = 400
"""Uploads of one tenant at once."""
MOST_OPEN_OF_KEY = 100
"""Of one API key, those of the keys below it included."""
LARGEST_BYTES = 64 << 30

Uncount = Callable[[str], Awaitable[object]]
"""Called with the id of an upload that needs no room any more; idempotent."""

_OPEN = load_script("service.contexts", "open_upload.lua", leaves_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    plan: UploadPlan
    key_line: tuple[KeyId, ...] = ()
    """Who began it: the key, then those that it descends from."""
    context_id: ContextId | None = None
    """Once all bytes came."""


_RECORD = TypeAdapter(_Record)


class Uploads:
    """The uploads of one tenant."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        tenant: TenantId,
        contexts: Contexts,
        *,
        uncount: Uncount,
        now: Clock,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._keys = Keys(tenant)
        self._contexts = contexts
        self._uncount = uncount
        self._now = now

    async def open(self, plan: UploadPlan, key_line: tuple[KeyId, ...] = ()) -> Upload:
        """Begin an upload. Where the tenant has stored these very bytes before, it is complete at once.

        `key_line` is the key that begins it and those that it descends from; empty where there are no keys.

        Raises:
            BadRequest: the plan cannot be.
            TooManyUploads
        """
        check_name(plan.name)
        if not 0 < plan.size_bytes <= LARGEST_BYTES:
            raise BadRequest(f"an upload may have 1 to {LARGEST_BYTES} bytes, found {plan.size_bytes}")
        upload_id = UploadId(new_id("upl"))
        record = _Record(plan=plan, key_line=key_line)
        keys = [self._record(upload_id), *self._indexes(record)]
        arguments: list[str | bytes | int] = [
            upload_id,
            _RECORD.dump_json(record),
            repr(await self._now()),
            OPEN_FOR_S,
            MOST_OPEN,
            MOST_OPEN_OF_KEY,
        ]
        match await self._store.run(_OPEN, keys, arguments, is_idempotent=True):
            case b"full":
                raise _too_many(MOST_OPEN, "a tenant")
            case b"key_full":
                raise _too_many(MOST_OPEN_OF_KEY, "an API key with those below it")
        await self.sweep()
        if plan.sha256 is not None and await self.holds(plan.sha256, plan.size_bytes):
            record = await self._become(upload_id, record, self._blobs.path(plan.sha256))
            return self._shown(upload_id, record, 0)
        path = self._path(upload_id)
        await self._blobs.in_thread(lambda: path.touch(mode=0o600))
        return self._shown(upload_id, record, 0)

    async def holds(self, sha256: str, size_bytes: int | None = None) -> bool:
        """Whether this tenant has stored a payload of this digest; what others have stored cannot be told. If
        so, it stays for at least an hour, so that it can be referred to."""
        return not await self._blobs.touch([(sha256, size_bytes)])

    async def get(self, upload_id: UploadId) -> Upload:
        """How far it has come. Raises `NotFound`."""
        record = await self._get(upload_id)
        offset = await self._blobs.in_thread(lambda: length_on_disk(self._path(upload_id)))
        return self._shown(upload_id, record, offset)

    async def add(self, upload_id: UploadId, offset: int, chunks: AsyncIterator[bytes]) -> Upload:
        """Write what comes from `offset` on, and make a context of it once all is there. What came before the
        chunks broke off is kept, unless they are known to be wrong.

        Raises:
            NotFound
            UploadOffsetMismatch: nothing was written.
            UploadBusy: nothing was written.
            BadRequest: more came than was announced; nothing of it was written. Or what came in all is not what its
                kind says; then the upload is gone.
            DigestMismatch: these bytes are not the ones that were sent; nothing of them was written.
            UploadDigestMismatch: all of it is not what was announced; then the upload is gone.
        """
        record = await self._get(upload_id)
        if record.context_id is not None:
            self._check_offset(offset, record.plan.size_bytes)
            return self._shown(upload_id, record, record.plan.size_bytes)
        path = self._path(upload_id)
        async with written(self._blobs, path) as descriptor:
            self._check_offset(offset, os.fstat(descriptor).st_size)
            try:
                await self._write(descriptor, record.plan.size_bytes - offset, chunks)
            except (BadRequest, DigestMismatch):
                await self._blobs.in_thread(partial(os.ftruncate, descriptor, offset))
                raise
            finally:
                await self._stay_open(upload_id, record)
            length = os.fstat(descriptor).st_size
            if length == record.plan.size_bytes:
                record = await self._complete(upload_id, record, path)
        return self._shown(upload_id, record, length)

    async def delete(self, upload_id: UploadId) -> None:
        """Forget it; what it has become stays. Raises `NotFound`."""
        await self._forget(upload_id, await self._get(upload_id))

    async def sweep(self) -> int:
        """Remove what is left of uploads that were given up; how many. Idempotent. A record is written before its file,
        and forgotten first."""
        swept = 0
        for name in await self._blobs.in_thread(lambda: os.listdir(self._blobs.uploads)):
            if is_id(name, "upl") and await self._store.read("EXISTS", self._record(UploadId(name))) != 1:
                await self._end(UploadId(name), None)
                swept += 1
        return swept

    async def _write(self, descriptor: int, room: int, chunks: AsyncIterator[bytes]) -> None:
        async for gathered in gather(chunks):
            room -= len(gathered)
            if room < 0:
                raise BadRequest("more bytes came than the upload was announced to have: nothing of them was kept")
            await self._blobs.in_thread(partial(append, descriptor, gathered))

    async def _complete(self, upload_id: UploadId, record: _Record, path: Path) -> _Record:
        try:
            wanted = record.plan.sha256
            if wanted is not None and await self._blobs.in_thread(lambda: digest_of(path)) != wanted:
                raise UploadDigestMismatch(f"upload {upload_id} does not have the announced sha256: begin it again")
            return await self._become(upload_id, record, path)
        except (BadRequest, UploadDigestMismatch):
            await self._forget(upload_id, record)
            raise

    async def _become(self, upload_id: UploadId, record: _Record, path: Path) -> _Record:
        context: Context = await self._contexts.put(record.plan.name, record.plan.kind, path)
        record = replace(record, context_id=context.context_id)
        await self._store.write("SET", self._record(upload_id), _RECORD.dump_json(record), "XX", "EX", OPEN_FOR_S)
        await self._end(upload_id, record)
        return record

    async def _stay_open(self, upload_id: UploadId, record: _Record) -> None:
        """For `OPEN_FOR_S` from now."""
        commands: list[Command] = [("EXPIRE", self._record(upload_id), OPEN_FOR_S)]
        until = repr(await self._now() + OPEN_FOR_S)
        for index in self._indexes(record):
            commands.append(("ZADD", index, "XX", until, upload_id))
            commands.append(("EXPIRE", index, OPEN_FOR_S))
        await self._store.write_many(commands)

    async def _forget(self, upload_id: UploadId, record: _Record) -> None:
        await self._store.write("DEL", self._record(upload_id))
        await self._end(upload_id, record)

    async def _end(self, upload_id: UploadId, record: _Record | None) -> None:
        """Its file goes last: whatever is broken off before, the next sweep finds it. Where the record is gone, so is
        its time, and keys count it no more."""
        indexes = [self._keys("uploads")] if record is None else self._indexes(record)
        await self._store.write_many([("ZREM", index, upload_id) for index in indexes])
        await self._uncount(upload_id)
        await self._blobs.in_thread(lambda: self._path(upload_id).unlink(missing_ok=True))

    async def _get(self, upload_id: UploadId) -> _Record:
        value = await self._store.read("GET", self._record(upload_id))
        if not isinstance(value, bytes):
            raise NotFound(f"there is no upload {upload_id}: it was never begun, was deleted, or has expired")
        return _RECORD.validate_json(value)

    def _check_offset(self, offset: int, stands_at: int) -> None:
        if offset != stands_at:
            raise UploadOffsetMismatch(
                f"the upload stands at {stands_at}, not at {offset}: go on from there", data={"offset": stands_at}
            )

    def _shown(self, upload_id: UploadId, record: _Record, offset: int) -> Upload:
        is_done = record.context_id is not None
        return Upload(
            upload_id=upload_id,
            plan=record.plan,
            offset=record.plan.size_bytes if is_done else offset,
            context_id=record.context_id,
        )

    def _indexes(self, record: _Record) -> list[str]:
        """The open uploads of each level that this one counts at; the tenant's first."""
        return [self._keys("uploads"), *(self._keys("uploads", key_id) for key_id in record.key_line)]

    def _record(self, upload_id: UploadId) -> str:
        return self._keys("upload", upload_id)

    def _path(self, upload_id: UploadId) -> Path:
        if not is_id(upload_id, "upl"):
            raise NotFound("this is not an upload's id")
        return self._blobs.uploads / upload_id


def _too_many(most: int, whose: str) -> TooManyUploads:
    return TooManyUploads(f"at most {most} uploads of {whose} can be open at once: end or delete some first")
