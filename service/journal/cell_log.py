"""The cell log: per session, everything that shaped its namespace, in order. A lost namespace is rebuilt from it."""

from pydantic import TypeAdapter

from service.ids import SessionId, TenantId
from service.journal.values import CellRecord
from service.store.blobs import Blobs
from service.store.bodies import Bodies
from service.store.connection import Store
from service.store.errors import StaleEpoch
from service.store.fences import NO_FENCE, STALE, Fence
from service.store.keys import Keys
from service.store.scripts import load_fenced_script

PAGE = 500

_APPEND = load_fenced_script("service.journal", "log_append.lua", leaves_keys=True)
_RECORD = TypeAdapter(CellRecord)


class CellLog:
    """The cell logs of one tenant's sessions."""

    def __init__(self, store: Store, blobs: Blobs, tenant: TenantId) -> None:
        self._store = store
        self._bodies = Bodies(blobs)
        self._keys = Keys(tenant)

    async def append(self, session_id: SessionId, record: CellRecord, within: Fence = NO_FENCE) -> int:
        """Append the record and return its place, from 1; of a cell that was logged before, it comes in place of the
        earlier record, at the end: a cell that was broken off before its run's journal knew its end is run again, and
        what shaped the namespace is how it ended then. Idempotent: the same record again stays where it is.

        Raises:
            StaleEpoch: the fence does not stand: the run or the session has been taken over.
        """
        packed = await self._bodies.pack(_RECORD.dump_json(record))
        keys = [self._log(session_id), self._keys("session", session_id, "places")]
        place = await self._store.run(_APPEND, keys, [record.cell_id, packed], is_idempotent=True, fence=within)
        if place == STALE:
            raise StaleEpoch(f"session {session_id} has been taken over by another replica; stop using it")
        assert isinstance(place, int)
        return place

    async def read(self, session_id: SessionId) -> list[CellRecord]:
        """All records in order; none for a session in which nothing has run."""
        records: list[CellRecord] = []
        start = "-"
        while True:
            page = await self._store.read("XRANGE", self._log(session_id), start, "+", "COUNT", PAGE)
            assert isinstance(page, list)
            for entry in page:
                match entry:
                    case [bytes(place), [b"r", bytes(value)]]:
                        records.append(_RECORD.validate_json(await self._bodies.unpack(value)))
                        start = f"({place.decode()}"
                    case _:
                        raise AssertionError("an entry of a cell log has one field, r")
            if len(page) < PAGE:
                return records

    async def forget(self, session_id: SessionId) -> None:
        """Delete the session's records. Idempotent."""
        await self._store.write("UNLINK", self._log(session_id), self._keys("session", session_id, "places"))

    def _log(self, session_id: SessionId) -> str:
        return self._keys("session", session_id, "cells")
