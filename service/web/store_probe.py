"""Whether the store takes writes and there is room on the disk, asked so that nobody waits long for it and that no
asking piles up."""

import anyio
import anyio.abc

from service.store.connection import Store
from service.store.disk_room import DiskRoom
from service.store.errors import StoreFailed, WritesRefused
from service.store.pairing import Pairing, Standing

READY_WITHIN_S = 2.0
"""A load balancer does not wait longer either."""


class StoreProbe:
    """One question in flight at a time, whoever waits for it: a command of the store cannot be cancelled."""

    def __init__(self, store: Store, pairing: Pairing, disk: DiskRoom, tasks: anyio.abc.TaskGroup) -> None:
        self._store = store
        self._pairing = pairing
        self._disk = disk
        self._tasks = tasks
        self._in_flight: anyio.Event | None = None
        self._trouble: str | None = None

    async def trouble(self) -> str | None:
        """Why nothing can be kept now; None when it can. Within `READY_WITHIN_S`."""
        if self._in_flight is None:
            self._in_flight = anyio.Event()
            self._tasks.start_soon(self._fly, self._in_flight)
        in_flight = self._in_flight
        with anyio.move_on_after(READY_WITHIN_S):
            await in_flight.wait()
            return self._trouble
        return f"the store has not answered for {READY_WITHIN_S:.0f} seconds"

    async def _fly(self, landed: anyio.Event) -> None:
        try:
            self._trouble = await self._found()
        finally:
            self._in_flight = None
            landed.set()

    async def _found(self) -> str | None:
        try:
            await self._store.require_writes()
            standing = await self._pairing.standing()
        except WritesRefused:
            return "the store takes no writes: it is full, cannot write to its disk or is a read-only replica"
        except StoreFailed:
            return "the store cannot be reached"
        try:
            await self._disk.require()
        except StoreFailed:
            return "there is no room left on the disk of the data directory"
        if standing is Standing.PARTED:
            return "the store has lost its data, or is another than the one that the blobs belong to: restore it"
        return None
