"""Many small blobs at once: as durable as one by one (`blobs`), at a fraction of the waiting.

Forcing one file to disk takes milliseconds however small it is, and then its directory as well. Here the payloads of a
batch are written under temporary names, the file system is forced to disk once, the payloads get their digests as
names, and the directories are forced to disk in the same way. Blocking; call it within `Blobs.in_thread`.
"""

import ctypes
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from service.loop.values import BlobRef
from service.store.blob_collection import touch_if_kept

MOST_PENDING = 1_000
"""Payloads that wait for their names; more are forced to disk before."""


@dataclass(frozen=True, slots=True)
class _Pending:
    temporary: Path
    target: Path


class BlobBatch:
    """Payloads on their way in: `add` them, then `commit`; leaving without a commit keeps none that still waits."""

    def __init__(self, payloads: Path, unfinished: Path) -> None:
        self._payloads = payloads
        self._unfinished = unfinished
        self._pending: dict[str, _Pending] = {}

    def __repr__(self) -> str:
        return f"<BlobBatch {len(self._pending)} pending>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pending in self._pending.values():
            pending.temporary.unlink(missing_ok=True)

    def add(self, data: bytes) -> BlobRef:
        """Write a payload. The reference may be handed on once `commit` has returned."""
        sha256 = hashlib.sha256(data).hexdigest()
        ref = BlobRef(sha256=sha256, size_bytes=len(data))
        target = self._payloads / sha256[:2] / sha256
        if sha256 in self._pending or touch_if_kept(target, len(data)):
            return ref
        temporary = self._unfinished / f"{os.getpid()}-{os.urandom(8).hex()}"
        self._pending[sha256] = _Pending(temporary, target)
        with temporary.open("xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o444)
        if len(self._pending) >= MOST_PENDING:
            self.commit()
        return ref

    def commit(self) -> None:
        """Put what waits in its place, durably. May be called again."""
        if not self._pending:
            return
        _force_to_disk(self._unfinished, [pending.temporary for pending in self._pending.values()])
        directories = {pending.target.parent for pending in self._pending.values()}
        for directory in directories:
            directory.mkdir(exist_ok=True)
        for pending in self._pending.values():
            pending.temporary.rename(pending.target)
        _force_to_disk(self._payloads, [*directories, self._payloads])
        self._pending.clear()


def _force_to_disk(directory: Path, paths: list[Path]) -> None:
    """Force these files and directories, which are on the file system of `directory`, to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:  # Linux has it, and Python has no name for it
            for path in paths:
                _force_one(path)
        elif syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _force_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
