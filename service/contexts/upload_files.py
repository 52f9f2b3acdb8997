"""The file of an upload: its length is how far the upload has come, so it is forced to disk before it is told."""

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from service.contexts.upload_values import UploadBusy
from service.store.blobs import Blobs

_HASHED_AT_ONCE = 4 << 20


@asynccontextmanager
async def written(blobs: Blobs, path: Path) -> AsyncIterator[int]:
    """The upload's file, for one writer at a time; forced to disk when the block is left, whatever ends it."""
    descriptor = await blobs.in_thread(lambda: _locked(path))
    try:
        yield descriptor
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await blobs.in_thread(lambda: os.fsync(descriptor))
            finally:
                os.close(descriptor)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UploadBusy("another request is writing to this upload: wait for its end") from None
    return descriptor


def append(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def length_on_disk(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # it has become a context, or a crash came between its record and its file
        return 0
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()
