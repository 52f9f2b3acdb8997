"""A session when things get hard: cells that have to be stopped, lost namespaces, many sessions, a noisy neighbour."""

import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from benchmarks.rows import Row, row_of
from benchmarks.service_side import Side, WrongAnswer, claim, run_cell
from benchmarks.worker import Worker, milliseconds
from service.ids import CellId, SessionId
from service.loop.values import CellStatus
from service.runs.session_use.direct_cells import DirectCells
from service.runs.session_use.sessions import SessionDesk
from service.runs.session_use.values import CellAsked, SessionChange
from service.sandboxes.sandbox import Sandbox

ACTIVE_SESSIONS = 200
STARTS_AT_ONCE = 4
THINK_S = 1.0
"""Between two cells of an active session."""
REBUILT_CELLS = 100
CELL_CODE = "kept = globals().get('kept', 0) + 1"
SPIN = "while True: pass"
STUBBORN = "import os\nos._exit(1)"
_NEVER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HardEffort:
    """How many rounds, and for how many cells every one of many sessions is active."""

    rounds: int
    cells_a_session: int
    cells_a_round: int


FULL = HardEffort(rounds=15, cells_a_session=10, cells_a_round=200)
QUICK = HardEffort(rounds=3, cells_a_session=2, cells_a_round=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardships:
    """`side` has slots for `ACTIVE_SESSIONS`; `bare` is a bare process."""

    side: Side
    bare: Worker
    effort: HardEffort

    async def row(self, name: str, unit: str) -> Row:
        """Measure one benchmark."""
        measure: dict[str, Callable[[str, str], Awaitable[Row]]] = {
            "interrupt": self._interrupt,
            "kill_respawn": self._kill_respawn,
            "rebuild_100_cells": self._rebuild,
            "sessions_active_200": self._sessions_active,
            "noisy_neighbour": self._noisy_neighbour,
        }
        return await measure[name](name, unit)

    async def _interrupt(self, name: str, unit: str) -> Row:
        """From asking a spinning cell to stop until its result is there; its variables stay."""
        ours, floor = [], []
        async with self.side.session() as sandbox:
            await run_cell(sandbox, "kept = 6 * 7\nprint(kept)", "42")
            for _ in range(self.effort.rounds):
                ours.append(milliseconds(await _interrupted(sandbox)))
                floor += await self.bare.samples("interrupt", count=1)
            await run_cell(sandbox, "print(kept)", "42")
        return row_of(name, unit, ours, floor)

    async def _kill_respawn(self, name: str, unit: str) -> Row:
        """A cell that ends its interpreter, until the first cell of the next interpreter is done."""
        ours, floor = [], []
        async with self.side.session() as sandbox:
            for _ in range(self.effort.rounds):
                started = time.perf_counter()
                result = await sandbox.run_cell(
                    _new_cell_id(), STUBBORN, active_limit_s=_NEVER_S, wall_limit_s=_NEVER_S
                )
                if result.status is not CellStatus.KILLED or not result.namespace_lost:
                    raise WrongAnswer(f"expected a killed cell, found {result}")
                await run_cell(sandbox, "print(6 * 7)", "42")
                ours.append(milliseconds(time.perf_counter() - started))
                floor += await self.bare.samples("fork", count=1)
        return row_of(name, unit, ours, floor)

    async def _rebuild(self, name: str, unit: str) -> Row:
        """A session whose sandbox is gone, from a direct cell asked for to its result: the log is done again first."""
        runs = self.side.service.runs
        desk = SessionDesk(runs)
        cells = DirectCells(runs, desk)
        ours, floor = [], []
        session_id = (await desk.open(SessionChange())).session_id
        for _ in range(REBUILT_CELLS):
            await _direct(cells, session_id, CELL_CODE)
        for _ in range(min(self.effort.rounds, 5)):
            sitting = runs.seats.sitting(session_id)
            if sitting is None or sitting.session.sandbox is None:
                raise WrongAnswer("expected the session to be kept with its sandbox")
            await sitting.session.sandbox.kill()
            started = time.perf_counter()
            said = await _direct(cells, session_id, "print(kept)")
            ours.append(milliseconds(time.perf_counter() - started))
            if said != str(REBUILT_CELLS):
                raise WrongAnswer(f"expected {REBUILT_CELLS} cells to be done again, found {said!r}")
            floor += await self.bare.samples("cells", count=1, code=CELL_CODE, cells=REBUILT_CELLS)
        await desk.close(session_id)
        return row_of(name, unit, ours, floor)

    async def _sessions_active(self, name: str, unit: str) -> Row:
        """The slowest hundredth of the cells of many sessions that think in between, against those of one alone."""
        count = self.effort.cells_a_session
        async with self.side.session() as sandbox:
            alone = [milliseconds(await run_cell(sandbox, "print(1)", "1")) for _ in range(10 * count)]
        among: list[float] = []

        async def be_active(sandbox: Sandbox, first_s: float) -> None:
            await anyio.sleep(first_s)
            for _ in range(count):
                among.append(milliseconds(await run_cell(sandbox, "print(1)", "1")))
                await anyio.sleep(THINK_S)

        async with self._many_sessions() as sandboxes, anyio.create_task_group() as tasks:
            for index, sandbox in enumerate(sandboxes):
                tasks.start_soon(be_active, sandbox, THINK_S * index / ACTIVE_SESSIONS)
        return row_of(name, unit, [percentile(among, 0.99)], [percentile(alone, 0.99)], n=len(among))

    @asynccontextmanager
    async def _many_sessions(self) -> AsyncIterator[list[Sandbox]]:
        """Claimed sandboxes, `ACTIVE_SESSIONS` of them, a few started at a time."""
        pool = self.side.service.pool
        limiter = anyio.CapacityLimiter(STARTS_AT_ONCE)
        sandboxes: list[Sandbox] = []

        async def open_one() -> None:
            async with limiter:
                sandbox = await pool.acquire()
                sandboxes.append(sandbox)
                await claim(sandbox)

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(ACTIVE_SESSIONS):
                    tasks.start_soon(open_one)
            yield sandboxes
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    for sandbox in sandboxes:
                        tasks.start_soon(pool.release, sandbox)

    async def _noisy_neighbour(self, name: str, unit: str) -> Row:
        """The slowest hundredth of cells beside as many sessions that spin as there are cores, against that of the same
        cells without them."""
        count = self.effort.cells_a_round
        async with AsyncExitStack() as sessions:
            sandbox = await sessions.enter_async_context(self.side.session())
            noisy = [await sessions.enter_async_context(self.side.session()) for _ in os.sched_getaffinity(0)]
            alone = [milliseconds(await run_cell(sandbox, "print(1)", "1")) for _ in range(count)]
            beside: list[float] = []
            async with anyio.create_task_group() as tasks:
                spinning = [(each, _new_cell_id()) for each in noisy]
                for each, cell_id in spinning:
                    tasks.start_soon(_spin, each, cell_id)
                    await _until_running(each)
                beside += [milliseconds(await run_cell(sandbox, "print(1)", "1")) for _ in range(count)]
                for each, cell_id in spinning:
                    await each.interrupt(cell_id)
        return row_of(name, unit, [percentile(beside, 0.99)], [percentile(alone, 0.99)], n=count)


def percentile(samples: list[float], share: float) -> float:
    """The smallest sample that so large a share of all is not above."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


async def _interrupted(sandbox: Sandbox) -> float:
    """Seconds from the interrupt to the result of a spinning cell."""
    asked_at = ended_at = 0.0
    spinning = _new_cell_id()

    async def spin() -> None:
        nonlocal ended_at
        await _spin(sandbox, spinning)
        ended_at = time.perf_counter()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spin)
        await _until_running(sandbox)
        asked_at = time.perf_counter()
        await sandbox.interrupt(spinning)
    return ended_at - asked_at


async def _spin(sandbox: Sandbox, cell_id: CellId) -> None:
    result = await sandbox.run_cell(cell_id, SPIN, active_limit_s=_NEVER_S, wall_limit_s=_NEVER_S)
    if result.raised is None or result.raised.type_name != "KeyboardInterrupt" or result.namespace_lost:
        raise WrongAnswer(f"expected an interrupted cell, found {result}")


def _new_cell_id() -> CellId:
    return CellId(f"cell_{time.monotonic_ns()}")


async def _until_running(sandbox: Sandbox) -> None:
    with anyio.fail_after(_NEVER_S):
        while (await sandbox.stats()).running_cell is None:
            pass


async def _direct(cells: DirectCells, session_id: SessionId, code: str) -> str:
    done = await cells.done(await cells.start(session_id, CellAsked(code=code)))
    if done.result is None or done.result.status is not CellStatus.OK:
        raise WrongAnswer(f"expected a direct cell to end well, found {done}")
    return done.result.stdout.head.strip()
