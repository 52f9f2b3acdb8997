"""Blobs: large payloads as files under their SHA-256, written once, never changed, shared by whoever has the digest.

`<directory>/sha256/ab/<digest>`, mode 0444 (sandboxes get them as hard links). A payload is written under a
temporary name, forced to disk, then linked to its digest, so that a digest never names half a payload and a
reference written after `put` never dangles, not even after a power cut. The file system is only touched in worker
threads, at most `WORKERS` at a time.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, TypeVar

import anyio
import anyio.to_thread

from service.loop.values import BlobRef
from service.store.blob_batches import BlobBatch
from service.store.blob_collection import Collected, Untouched, is_away, put_back, remove, touch_if_kept, untouched
from service.store.errors import BlobMissing, BlobTooLarge, StoreFailed, disk_failed

Media = Literal["text", "json"]

WORKERS = 8
COPY_BYTES = 4 << 20
GATHER_BYTES = 1 << 20
UNFINISHED_FOR_S = 24 * 3600.0
ERASED_IN_PASSES = 5

_DIGEST = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class Blobs:
    """The blob store of one data directory. Safe under concurrency, in one process and between several."""

    def __init__(self, directory: Path) -> None:
        """Prepare the directory, and clear away what writers that were killed left behind.

        Raises:
            StoreFailed: the directory cannot be used.
        """
        self._payloads = directory / "sha256"
        self._unfinished = directory / "unfinished"
        self.uploads = directory / "uploads"
        """Where payloads stand that come in several requests, under names that their owners give them."""
        self._workers = anyio.CapacityLimiter(WORKERS)
        try:
            self._payloads.mkdir(parents=True, exist_ok=True)
            self._unfinished.mkdir(exist_ok=True)
            self.uploads.mkdir(exist_ok=True)
            put_back(self._payloads, self._unfinished)
            for leftover in self._unfinished.iterdir():
                if not is_away(leftover) and leftover.stat().st_mtime < time.time() - UNFINISHED_FOR_S:
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise disk_failed(error, f"open the blob store in {directory}") from error

    def __repr__(self) -> str:
        return f"<Blobs {self._payloads.parent} busy={self._workers.borrowed_tokens}>"

    async def put(self, data: bytes, media: Media = "text") -> BlobRef:
        """Keep a payload that is in memory. Idempotent."""

        def write() -> BlobRef:
            ref = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), media=media)
            if touch_if_kept(self.path(ref.sha256), ref.size_bytes):
                return ref
            with self.writer() as writer:
                writer.write(data)
                return writer.commit(media)

        return await self.in_thread(write)

    async def put_file(self, path: Path, media: Media = "text", *, limit_bytes: int | None = None) -> BlobRef:
        """Keep a copy of a file. Idempotent.

        Raises:
            BlobTooLarge: the file is larger than `limit_bytes`; nothing is kept.
        """
        with self.writer(limit_bytes) as writer:
            source = await self.in_thread(lambda: path.open("rb"))
            try:
                while await self.in_thread(lambda: _copy(source, writer)):
                    pass
                return await self.in_thread(lambda: writer.commit(media))
            finally:
                source.close()

    async def put_stream(self, chunks: AsyncIterator[bytes], *, limit_bytes: int, media: Media = "text") -> BlobRef:
        """Keep a payload as it arrives, holding about `GATHER_BYTES` of it in memory.

        Raises:
            BlobTooLarge: more than `limit_bytes` came; nothing is kept.
        """
        with self.writer(limit_bytes) as writer:
            async for gathered in gather(chunks):
                await self.in_thread(partial(writer.write, gathered))
            return await self.in_thread(lambda: writer.commit(media))

    def writer(self, limit_bytes: int | None = None) -> "BlobWriter":
        """For callers that look at the payload while it is written; its methods block, so use `in_thread`."""
        return BlobWriter(self._payloads, self._unfinished, limit_bytes)

    def batch(self) -> BlobBatch:
        """For callers with many small payloads; its methods block, so use `in_thread`."""
        return BlobBatch(self._payloads, self._unfinished)

    async def in_thread(self, act: Callable[[], _T]) -> _T:
        """Run blocking file work in a worker thread; file system errors come out as `StoreFailed`."""
        try:
            return await anyio.to_thread.run_sync(act, limiter=self._workers)
        except OSError as error:
            raise disk_failed(error, "use the blob store") from error

    def path(self, sha256: str) -> Path:
        """Where the payload of a digest is, or would be. A digest that is not one never becomes a path."""
        if _DIGEST.fullmatch(sha256) is None:
            raise StoreFailed("expected a SHA-256 of 64 lower-case hexadecimal digits")
        return self._payloads / sha256[:2] / sha256

    async def untouched(self, shard: str, *, since: float) -> Untouched:
        """The payloads in a shard (`blob_collection.SHARDS`) that nobody put or touched since then."""
        return await self.in_thread(lambda: untouched(self._payloads, shard, since=since))

    async def remove(self, digests: Iterable[str], *, untouched_since: float) -> Collected:
        """Remove payloads that nothing refers to, but for those that were touched since. `untouched_since` lies at
        least an hour before the references were looked at (`blob_collection`). Safe beside every writer."""
        return await self.in_thread(
            lambda: remove(self._payloads, self._unfinished, digests, untouched_since=untouched_since)
        )

    async def touch(self, kept: Iterable[tuple[str, int | None]]) -> list[str]:
        """Say that these payloads (digest and, where it is known, size) are about to be referred to, so that they are
        not collected. Those that are not there, or not whole."""
        paths = [(self.path(sha256), size_bytes) for sha256, size_bytes in kept]
        return await self.in_thread(
            lambda: [path.name for path, size_bytes in paths if not touch_if_kept(path, size_bytes)]
        )

    async def erase(self) -> None:
        """Delete every payload, for good: the tenant whose directory this is, is gone. Idempotent."""

        def erase() -> None:
            # Somebody may be putting or removing a payload at the same time.
            for _ in range(ERASED_IN_PASSES):
                with suppress(OSError):
                    shutil.rmtree(self._payloads.parent)
                if not self._payloads.parent.exists():
                    return
            shutil.rmtree(self._payloads.parent)

        await self.in_thread(erase)

    async def has(self, sha256: str) -> bool:
        path = self.path(sha256)
        return await self.in_thread(path.is_file)

    async def read(self, ref: BlobRef, limit_bytes: int) -> bytes:
        """The whole payload.

        Raises:
            BlobTooLarge: it is larger than the caller wants to hold in memory.
            BlobMissing: it is gone.
        """
        if ref.size_bytes > limit_bytes:
            raise _too_large(limit_bytes, ref.sha256)
        path = self.path(ref.sha256)

        def read_all() -> bytes:
            with _open(path, ref) as file:
                return file.read(limit_bytes + 1)

        data = await self.in_thread(read_all)
        if len(data) != ref.size_bytes:
            raise BlobMissing(f"blob {ref.sha256} has {len(data)} bytes where {ref.size_bytes} were kept; restore it")
        return data

    async def stream(self, ref: BlobRef, chunk_bytes: int = 64 << 10) -> AsyncIterator[bytes]:
        """The payload in pieces of `chunk_bytes`; the last may be shorter.

        Raises:
            BlobMissing: it is gone.
        """
        path = self.path(ref.sha256)
        file = await self.in_thread(lambda: _open(path, ref))
        try:
            while chunk := await self.in_thread(lambda: file.read(chunk_bytes)):
                yield chunk
        finally:
            file.close()


class BlobWriter:
    """One payload on its way in: `write` it piece by piece, then `commit`; leaving without a commit keeps nothing."""

    def __init__(self, payloads: Path, unfinished: Path, limit_bytes: int | None) -> None:
        self._payloads = payloads
        self._temporary = unfinished / f"{os.getpid()}-{os.urandom(8).hex()}"
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises `BlobTooLarge` past the limit."""
        self.size_bytes += len(data)
        if self._limit_bytes is not None and self.size_bytes > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        self._opened().write(data)
        self._hash.update(data)

    def written(self) -> Path:
        """The file as far as it is written, for whoever must look at it before it is committed."""
        self._opened().flush()
        return self._temporary

    def commit(self, media: Media) -> BlobRef:
        """Put the payload in its place, durably. Called once, last."""
        sha256 = self._hash.hexdigest()
        target = self._payloads / sha256[:2] / sha256
        ref = BlobRef(sha256=sha256, size_bytes=self.size_bytes, media=media)
        if touch_if_kept(target, self.size_bytes):
            return ref
        file = self._opened()
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            _sync_directory(self._payloads)
        # Replaces a file of the wrong size, which only damage can have left there.
        self._temporary.rename(target)
        _sync_directory(target.parent)
        return ref

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._temporary.open("xb")
        return self._file


async def gather(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces of about `GATHER_BYTES`: a thread hop costs more than a small write."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        pieces.append(chunk)
        size += len(chunk)
        if size >= GATHER_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _copy(source: BinaryIO, writer: BlobWriter) -> bool:
    data = source.read(COPY_BYTES)
    writer.write(data)
    return bool(data)


def _open(path: Path, ref: BlobRef) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise BlobMissing(f"blob {ref.sha256} ({ref.size_bytes} bytes) is missing from the blob store") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _too_large(limit_bytes: int, sha256: str | None = None) -> BlobTooLarge:
    what = f"blob {sha256}" if sha256 else "the payload"
    return BlobTooLarge(f"{what} is larger than the allowed {limit_bytes} bytes", data={"limit_bytes": limit_bytes})
