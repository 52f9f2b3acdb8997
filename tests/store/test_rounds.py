"""Rounds of loops that end with the replica only."""

import anyio
import pytest
from structlog.testing import capture_logs

from service.store.errors import StoreFailed
from service.store.rounds import tried_again

pytestmark = pytest.mark.anyio


def test_nothing_that_goes_wrong_ends_a_loop() -> None:
    """A store that fails is a line in the log, a defect a traceback, and the round ends without either."""
    with capture_logs() as logs:
        for error in (StoreFailed("not now"), KeyError("defect")):
            with tried_again("nothing_done", tenant_id="t"):
                raise error
    assert [(log["event"], log["log_level"], log["tenant_id"]) for log in logs] == [
        ("nothing_done", "warning", "t"),
        ("nothing_done", "error", "t"),
    ]
    assert "not now" in logs[0]["error"]
    assert logs[1]["exc_info"]


async def test_a_cancelled_loop_ends() -> None:
    """Cancellation is nothing that goes wrong."""
    rounds = 0
    with anyio.CancelScope() as scope:
        while rounds < 2:
            rounds += 1
            with tried_again("nothing_done"):
                scope.cancel()
                await anyio.sleep_forever()
    assert rounds == 1
