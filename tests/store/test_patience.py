"""Patience with a server that says nothing: how long it holds up a replica that stays, and one that is to end."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import anyio
import pytest
from redis.asyncio import ConnectionPool

from service.ids import RunId, TenantId, new_id
from service.journal.redis_journal import Journal
from service.journal.values import Recorded
from service.loop.events import DeadlineNeared
from service.loop.values import Limits
from service.runs.driving.recorder import Recorder
from service.store.blobs import Blobs
from service.store.connection import COMMAND_TIMEOUT_S, CONNECTIONS, Store
from service.store.errors import StoreFailed
from service.store.exchanges import Exchanges
from service.store.hints import Hints
from service.store.patience import HURRIED_S, Patience
from tests.runs.doubles import submitted_run
from tests.virtual_time import run_in_virtual_time

END_AFTER_S = 5.0


class SilentConnection:
    """Takes everything in and never replies."""

    async def send_packed_command(self, command: bytes, *, check_health: bool) -> None:
        """Sent."""

    async def read_response(self, *, disable_decoding: bool) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async def disconnect(self, *, nowait: bool) -> None:
        """Nothing is open."""


class SilentServer:
    """A `ConnectionPool`, as far as `Exchanges` asks for one."""

    def make_connection(self) -> SilentConnection:
        return SilentConnection()

    async def ensure_connection(self, connection: SilentConnection) -> None:
        """It stands."""


async def never() -> str:
    raise AssertionError("a server that is silent is not revived")


def silent_store() -> Store:
    patience = Patience(COMMAND_TIMEOUT_S)
    exchanges = Exchanges(cast("ConnectionPool", SilentServer()), patience)
    return Store(exchanges, patience, cast("Hints", None), never, "the silent server")


async def failing(act: Callable[[], Awaitable[object]], ends: list[float], *, begin_at: float = 0.0) -> None:
    """Note when it has failed."""
    await anyio.sleep_until(begin_at)
    with pytest.raises(StoreFailed, match="did not answer in time"):
        await act()
    ends.append(anyio.current_time())


def test_a_replica_that_stays_waits_as_long_for_every_command() -> None:
    """Each has its whole time; those that wait for a connection wait until there is one."""

    async def main() -> None:
        store, ends = silent_store(), list[float]()
        async with anyio.create_task_group() as tasks:
            for _ in range(CONNECTIONS + 1):
                tasks.start_soon(failing, lambda: store.read("PING"), ends)
        assert ends == pytest.approx([COMMAND_TIMEOUT_S] * CONNECTIONS + [2 * COMMAND_TIMEOUT_S])

    run_in_virtual_time(main)


def test_a_replica_that_is_to_end_waits_until_then_and_hardly_longer() -> None:
    """What is under way at that moment, or waits for a connection, ends in time; what begins behind it is hurried."""

    async def main() -> None:
        store, ends = silent_store(), list[float]()
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * CONNECTIONS):
                tasks.start_soon(failing, lambda: store.write("INCR", "key"), ends)
            await anyio.sleep_until(1.0)
            store.end_after(END_AFTER_S)
            store.end_after(2 * END_AFTER_S)  # once said it is not taken back
            late = list[float]()
            for begin_at in (7.0, 20.0):
                await failing(lambda: store.read("PING"), late, begin_at=begin_at)
        assert ends == pytest.approx([1.0 + END_AFTER_S] * 2 * CONNECTIONS)
        assert late == pytest.approx([7.0 + HURRIED_S, 20.0 + HURRIED_S])

    run_in_virtual_time(main)


def test_facts_that_wait_for_a_silent_store_do_not_outlast_a_replica_that_is_to_end(tmp_path: Path) -> None:
    """Neither the fact that is on its way, nor those behind it that no cancellation reaches, hold it up for more than
    one hurried command beyond its end."""

    async def main() -> None:
        store, ends = silent_store(), list[float]()
        run_id = RunId(new_id("run"))
        journal = Journal(store, Blobs(tmp_path), TenantId(new_id("ten")))
        first = Recorded(seq=1, event=submitted_run(run_id, limits=Limits(), deadline_at=100.0))
        recorder = Recorder(journal, run_id, 1, [first])

        async def record() -> None:
            with pytest.raises(StoreFailed):
                await recorder.record(DeadlineNeared(at=1.0))
            ends.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(record)
            await anyio.sleep_until(0.5)
            for _ in range(9):
                tasks.start_soon(record)
            await anyio.sleep_until(1.0)
            store.end_after(END_AFTER_S)
            tasks.cancel_scope.cancel()
        assert ends == pytest.approx([1.0 + END_AFTER_S] + [1.0 + END_AFTER_S + HURRIED_S] * 9)

    run_in_virtual_time(main)
