"""Pairing: which store a directory of blobs belongs to, so that one that has lost its data is not taken for one that
refers to nothing.

The same random word stands in a file beside the blobs and in the store. Copies of both, put back together, agree.
"""

import os
from collections.abc import Awaitable, Callable
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
    """One of them is paired with another, or the store has lost its data."""


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
        if ours is None and await self._may_take(theirs):
            return Standing.NEW
        if ours is None:  # Somebody who shares the directory may have paired them just now.
            ours, theirs = await self._words()
        return Standing.PAIRED if ours is not None and theirs == ours else Standing.PARTED

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

    async def join(self, *, has_payloads: Callable[[], Awaitable[bool]]) -> None:
        """As `require`; a store and a directory that are both empty are paired. Of several directories that come to one
        new store at once, one is.

        Args:
            has_payloads: whether the store knows of payloads, which an empty directory then lacks.

        Raises:
            BadRequest: also when an empty directory comes to a store that knows of payloads.
        """
        ours, theirs = await self._words()
        if ours is None and theirs is None:
            is_expected = await has_payloads()  # Asked first: a payload is on disk before the store refers to it.
            is_empty = not await anyio.to_thread.run_sync(self._has_payloads)
            if is_expected and is_empty:
                raise BadRequest(
                    f"there are no blobs in {self._blobs}, and the store refers to some: set RLM_DATA_DIR to the "
                    f"directory that they are in, or restore it; {_FORCE}"
                )
            if is_empty:
                await self.pair()
        elif ours is None and await self._may_take(theirs):
            await self.pair()
        await self.require()

    async def pair(self) -> None:
        """A directory and a store that are both new belong together from now on; of several directories that come at
        once one is paired, and the others are `PARTED`. Raises `StoreFailed`."""
        # Whoever shares the directory offers the same word, so it does not matter who is killed between these.
        word = await anyio.to_thread.run_sync(self._propose)
        await self._store.write("SET", _KEY, word, "NX")
        if await self._store.read("GET", _KEY) == word:
            await anyio.to_thread.run_sync(self._accept, word)

    async def pair_anew(self) -> None:
        """From now on this directory belongs to the store, and no other does. May be repeated. Raises `StoreFailed`."""
        word = os.urandom(16).hex().encode()
        await self._store.write("SET", _KEY, word)
        await anyio.to_thread.run_sync(self._accept, word)

    async def _words(self) -> tuple[bytes | None, bytes | None]:
        """The directory's and the store's."""
        ours = await anyio.to_thread.run_sync(_read, self._path, limiter=self._reader)
        theirs = await self._store.read("GET", _KEY)
        assert theirs is None or isinstance(theirs, bytes)
        return ours, theirs

    async def _may_take(self, theirs: bytes | None) -> bool:
        """Whether a directory without a word may take the store's: that is new too, or somebody who shares the
        directory is just pairing them."""
        return theirs is None or theirs == await anyio.to_thread.run_sync(_read, self._proposed)

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
