"""A disk that is full while the store is not: nothing is paid for that could not be kept."""

import os
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.loop.events import RunTakenOver
from service.loop.values import StopReason
from service.wiring.service import open_service
from tests.runs.recovery.crashing import end_of, world

pytestmark = pytest.mark.anyio


@dataclass
class Disk:
    """What the system says of every file system, and how often it was asked since it is full."""

    is_full: bool = False
    asked: int = 0

    def statvfs(self, path: str | Path) -> os.statvfs_result:
        found = list(_STATVFS(path))
        if self.is_full:
            self.asked += 1
            found[_BLOCKS_LEFT] = 0
        return os.statvfs_result(found)


_STATVFS = os.statvfs
_BLOCKS_LEFT = 4


@pytest.mark.takes_long
async def test_a_full_disk_costs_no_call_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full no model is asked and no run is adopted, so none is given up for coming no further; once
    there is room the run goes on and answers, and each call was made once."""
    disk = Disk()
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    async with world(tmp_path) as it, open_service(it.settings, serves=True) as service:
        run_id = await service.runs.submit(await it.request(service, None))
        disk.is_full = True
        # What was found a moment ago is believed in for a second: until then a run may begin still.
        with anyio.fail_after(60):
            while not disk.asked:
                await anyio.lowlevel.checkpoint()
        service.runs.start(run_id)
        with anyio.fail_after(60):
            while service.runs.live or disk.asked < 6:
                await anyio.lowlevel.checkpoint()
        assert it.model.root_requests == []
        assert not any(isinstance(event, RunTakenOver) for event in await it.events(run_id))
        disk.is_full = False
        assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
        await it.check_books(run_id)
        uncertain = [entry for entry in await it.ledger.entries(run_id) if "uncertain" in entry.flags]
        assert uncertain == []
