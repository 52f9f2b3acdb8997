"""A replay takes its turn for a sandbox among the runs, and does not wait for it for ever."""

from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from service.ids import TenantId
from service.runs.replay.replaying import replay
from service.sandboxes.port import NoSandboxSlot
from tests.runs.playing import repl, stage

pytestmark = pytest.mark.anyio


async def test_a_replay_that_does_not_get_its_turn_says_so(tmp_path: Path) -> None:
    """Behind runs that wait for sandboxes it gives up when its time is over."""
    async with stage(tmp_path, repl("FINAL('done')")) as on:
        played = await on.play(await on.request("four"))
        starts = on.service.runs.rooms.dispatch.lines.run_starts
        async with AsyncExitStack() as others:
            while starts.free:
                await others.enter_async_context(starts.taken(TenantId("another"), cost=1))
            with anyio.fail_after(30), pytest.raises(NoSandboxSlot, match="did not get its turn"):
                await replay(on.service.runs, played.run_id, patience_s=0.5)
        assert (await replay(on.service.runs, played.run_id, patience_s=120)).difference is None
