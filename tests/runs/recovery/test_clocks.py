"""A replica whose clock is wrong, beside others: what is theirs it judges by the store's clock."""

import time
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import EMBEDDED_TENANT, RunId, new_id
from service.loop.values import StopReason
from service.runs.calls.purse import run_account
from service.store.keys import Keys
from service.tenants.errors import ConcurrencyLimited
from service.tenants.quotas import Counted
from service.tenants.values import CallerLimits, Level
from service.wiring.service import open_service
from tests.ledger.charges import charge
from tests.runs.recovery.crashing import end_of, world

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0


async def test_a_clock_that_is_ahead_takes_nothing_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica whose clock is three days ahead books no hold whose time has not come, forgets no run that ended just
    now where runs are kept for two days, and gives nobody's place away; what is due it still sees to."""
    async with world(tmp_path) as it:
        async with open_service(it.settings, serves=True) as first:
            old = await first.runs.submit(await it.request(first, None), _born_days_ago(3))
            young = await first.runs.submit(await it.request(first, None), _born_days_ago(2.5))
            for run_id in (old, young):
                first.runs.start(run_id)
                assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
            level = Level(kind="tenant", owner=EMBEDDED_TENANT, limits=CallerLimits(model_calls=1))
            await first.registry.quotas_of(EMBEDDED_TENANT).acquire(Counted.MODEL_CALLS, "a call", [level], for_s=600)
        now = await it.store.now()
        await it.store.write("HSET", Keys(EMBEDDED_TENANT)("run", old), "finished", int(now - 3 * DAY_S))
        for call, expires_at in (("due", now - 60), ("not due", now + 600)):
            held = [charge(call, 7, run=young)]
            await it.ledger.reserve(held, [run_account(young)], expires_at=expires_at)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3 * DAY_S)
        ahead = replace(it.beside(), runs_kept_s=2 * DAY_S)
        async with open_service(ahead, serves=True) as second:
            with anyio.fail_after(60):
                while await it.journal.exists(old) or "due" in await it.ledger.open_holds():
                    await anyio.lowlevel.checkpoint()
            places = second.registry.quotas_of(EMBEDDED_TENANT)
            with pytest.raises(ConcurrencyLimited):
                await places.acquire(Counted.MODEL_CALLS, "another", [level], for_s=600)
        assert await it.ledger.open_holds() == ["not due"]
        assert await it.journal.exists(young)


def _born_days_ago(days: float) -> RunId:
    """An id as a replica gives it out whose clock is so far behind."""
    prefix, _, made = new_id("run").rpartition("_")
    return RunId(f"{prefix}_{int(made, 16) - (int(days * DAY_S * 1000) << 80):032x}")
