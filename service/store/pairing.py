"""Pairing: which store a directory of blobs belongs to, so that one that has lost its data is not taken for one that
refers to nothing.

The same random word stands in a file beside the blobs and in the store. Copies of both, put back together, agree.
"""

import os
from enum import StrEnum
from pathlib import Path

import anyio.to_thread

from service.store.connection import Store
from service.store.errors import disk_failed

_KEY = "rlm:blobs_paired"
_FILE = "paired-store"
_LONGEST = 100


class Standing(StrEnum):
    """What two words that should be the same say."""

    PAIRED = "paired"
    NEW = "new"
    """The directory was never paired."""
    PARTED = "parted"
    """It was paired with another store, or the store has lost its data."""


class Pairing:
    """Of the installation's one directory of blobs with its one store."""

    def __init__(self, store: Store, blobs: Path) -> None:
        """`blobs` is the directory that the blobs of all tenants stand in."""
        self._store = store
        self._path = blobs / _FILE

    async def standing(self) -> Standing:
        """Raises `StoreFailed`."""
        ours = await anyio.to_thread.run_sync(self._read)
        if ours is None:
            return Standing.NEW
        return Standing.PAIRED if await self._store.read("GET", _KEY) == ours else Standing.PARTED

    async def pair(self) -> None:
        """From now on they belong together. Idempotent. Raises `StoreFailed`."""
        await self._store.write("SET", _KEY, os.urandom(16).hex(), "NX")
        word = await self._store.read("GET", _KEY)
        assert isinstance(word, bytes), "it was written just now, and nothing deletes it"
        await anyio.to_thread.run_sync(self._write, word)

    def _read(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(_LONGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_failed(error, f"read {self._path}") from error

    def _write(self, word: bytes) -> None:
        temporary = self._path.with_name(f"{_FILE}.{os.getpid()}-{os.urandom(8).hex()}")
        try:
            with temporary.open("xb") as file:
                file.write(word)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
        except OSError as error:
            raise disk_failed(error, f"write {self._path}") from error
