"""Pairing: which store a directory of blobs belongs to, so that one that has lost its data is not taken for one that
refers to nothing.

The same random word stands in a file beside the blobs and in the store. Copies of both, put back together, agree.
"""

import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import anyio
import anyio.to_thread

from service.errors import BadRequest
from service.store.connection import Store
from service.store.errors import StoreFailed, disk_failed

_KEY = "rlm:blobs_paired"
_FILE = "paired-store"
_PROPOSED = "paired-store.proposed"
"""The word that a directory without one offers to a store without one."""
_LONGEST = 100
_FORCE = "`rlm-service blobs collect --force` pairs the two, if what only the one or the other has is not needed"


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
        self._blobs = blobs
        self._path = blobs / _FILE
        self._proposed = blobs / _PROPOSED
        self._reader = anyio.CapacityLimiter(1)

    async def standing(self) -> Standing:
        """Raises `StoreFailed`."""
        ours, theirs = await self._words()
        if ours is None:
            return Standing.NEW
        return Standing.PAIRED if theirs == ours else Standing.PARTED

    async def require(self) -> None:
        """Return where directory and store belong together, or may yet come to.

        Raises:
            BadRequest: the store is paired with another directory.
            StoreFailed: the directory was paired with another store, or this one has lost its data.
        """
        ours, theirs = await self._words()
        if theirs is None and ours is not None:
            raise StoreFailed(
                f"the store knows nothing of the blobs in {self._blobs}: it has lost its data, or is another than "
                f"before. Restore it, or point RLM_REDIS_URL at the right one; {_FORCE}"
            )
        if ours != theirs:
            raise BadRequest(
                f"the store belongs to the blobs of another directory than {self._blobs}: set RLM_DATA_DIR to the one "
                f"that all replicas over this store share, or restore its blobs; {_FORCE}"
            )

    async def join(self) -> None:
        """As `require`; a store and a directory that are both empty are paired. Of several directories that come to one
        new store at once, one is."""
        if await self._may_join():
            # Whoever shares the directory offers the same word, so it does not matter who is killed between these.
            word = await anyio.to_thread.run_sync(self._propose)
            await self._store.write("SET", _KEY, word, "NX")
            if await self._store.read("GET", _KEY) == word:
                await anyio.to_thread.run_sync(self._accept, word)
        await self.require()

    async def pair(self) -> None:
        """From now on they belong together. Idempotent. Raises `StoreFailed`."""
        await self._store.write("SET", _KEY, os.urandom(16).hex(), "NX")
        word = await self._store.read("GET", _KEY)
        assert isinstance(word, bytes), "it was written just now, and nothing deletes it"
        await anyio.to_thread.run_sync(self._write, word)

    async def _words(self) -> tuple[bytes | None, bytes | None]:
        """The directory's and the store's."""
        ours = await anyio.to_thread.run_sync(_read, self._path, limiter=self._reader)
        theirs = await self._store.read("GET", _KEY)
        assert theirs is None or isinstance(theirs, bytes)
        return ours, theirs

    async def _may_join(self) -> bool:
        """Whether both are new, or somebody who shares the directory is just pairing them."""
        ours, theirs = await self._words()
        if ours is not None:
            return False
        if theirs is not None:
            return theirs == await anyio.to_thread.run_sync(_read, self._proposed)
        return not await anyio.to_thread.run_sync(self._has_payloads)

    def _has_payloads(self) -> bool:
        names = (name for _, _, names in os.walk(self._blobs) for name in names)
        return any(not name.startswith(_FILE) for name in names)

    def _propose(self) -> bytes:
        """The word that stands proposed: this one's, or that of whoever was here first."""
        temporary = self._written(os.urandom(16).hex().encode())
        try:
            with suppress(FileExistsError):
                os.link(temporary, self._proposed)
            temporary.unlink()
        except OSError as error:
            raise disk_failed(error, f"write {self._proposed}") from error
        word = _read(self._proposed)
        if word is None:  # Somebody else has just accepted it.
            word = _read(self._path)
        if word is None:
            raise StoreFailed(f"{self._proposed} cannot be kept: check the file system of the data directory")
        return word

    def _accept(self, word: bytes) -> None:
        self._write(word)
        self._proposed.unlink(missing_ok=True)

    def _write(self, word: bytes) -> None:
        temporary = self._written(word)
        try:
            temporary.rename(self._path)
        except OSError as error:
            raise disk_failed(error, f"write {self._path}") from error

    def _written(self, word: bytes) -> Path:
        """A file of its own with the word in it, on disk."""
        temporary = self._path.with_name(f"{_FILE}.{os.getpid()}-{os.urandom(8).hex()}")
        try:
            with temporary.open("xb") as file:
                file.write(word)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_failed(error, f"write {temporary}") from error
        return temporary


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_failed(error, f"read {path}") from error
