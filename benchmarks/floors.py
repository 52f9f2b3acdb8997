"""Ours against the least that the same thing can cost on this machine, measured in the same run."""

import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from benchmarks.material import GB, LINE_BYTES, MB, write_text
from benchmarks.memory import available_bytes, forecast, memory_of_descendants
from benchmarks.rows import Row, row_of
from benchmarks.service_side import Side, claim, run_cell
from benchmarks.worker import Worker, milliseconds
from service.contexts.values import Context

SESSIONS = 50
SESSIONS_BEFORE_A_FORECAST = 4
SHARE_OF_MEMORY = 0.6
"""Of what is available: more is not taken from a machine that has other things to do."""
ECHO_BYTES = 512
"""About what a trivial cell's request and its result take."""
TOUCH = "print(context.count('\\n'), len(context))"


class NotMeasured(Exception):
    """The figure would not mean what its name says; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many rounds."""

    short: int
    long: int
    cells_a_round: int


FULL = Effort(short=15, long=5, cells_a_round=50)
QUICK = Effort(short=3, long=1, cells_a_round=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """Our side twice, with and without warm sandboxes, and a bare process."""

    warm: Side
    cold: Side
    bare: Worker
    scratch: Path
    effort: Effort

    async def row(self, name: str, unit: str) -> Row:
        """Measure one benchmark."""
        measure: dict[str, Callable[[str, str], Awaitable[Row]]] = {
            "claim_warm": self._claim_warm,
            "cold_start": self._cold_start,
            "cell_internal": self._cell_internal,
            "context_1gb_ready": self._context_ready,
            "context_1gb_50_sessions_host_memory": self._host_memory,
            "ingest": self._ingest,
            "import_time": self._import_time,
            "cli_help": self._cli_help,
        }
        return await measure[name](name, unit)

    async def _claim_warm(self, name: str, unit: str) -> Row:
        ours, floor = [], []
        for _ in range(self.effort.short):
            await self.warm.calm()
            started = time.perf_counter()
            sandbox = await self.warm.service.pool.acquire()
            await claim(sandbox)
            ours.append(milliseconds(time.perf_counter() - started))
            await self.warm.service.pool.release(sandbox)
            await self.warm.calm()
            floor += await self.bare.samples("fork", count=5)
        return row_of(name, unit, ours, floor)

    async def _cold_start(self, name: str, unit: str) -> Row:
        command = [sys.executable, "-I", "-S", "-c", "print(6 * 7)"]
        ours, floor = [], []
        for _ in range(self.effort.short):
            ours.append(milliseconds(await self.cold.ready()))
            floor += await self.bare.samples("run", count=1, command=command)
        return row_of(name, unit, ours, floor)

    async def _cell_internal(self, name: str, unit: str) -> Row:
        ours, floor = [], []
        async with self.cold.session() as sandbox:
            for _ in range(self.effort.long):
                count = self.effort.cells_a_round
                ours += [milliseconds(await run_cell(sandbox, "print(1)", "1")) for _ in range(count)]
                floor += await self.bare.samples("echo", count=count, size_bytes=ECHO_BYTES)
        return row_of(name, unit, ours, floor)

    async def _context_ready(self, name: str, unit: str) -> Row:
        context = await self._big_context(self.warm)
        path = str(next(iter(self.warm.service.contexts.links(context).values())))
        ours, floor = [], []
        for _ in range(self.effort.short):
            await self.warm.calm()
            sandbox = await self.warm.service.pool.acquire()
            try:
                started = time.perf_counter()
                await claim(sandbox, await self.warm.beginning(context))
                await run_cell(sandbox, "print(len(context))", str(GB))
                ours.append(milliseconds(time.perf_counter() - started))
            finally:
                await self.warm.service.pool.release(sandbox)
            floor += await self.bare.samples("map_file", count=3, path=path)
        return row_of(name, unit, ours, floor)

    async def _host_memory(self, name: str, unit: str) -> Row:
        """Every session reads the whole context; what is shared by several processes is counted once."""
        context = await self._big_context(self.cold)
        before = memory_of_descendants()
        available = available_bytes()
        used: list[int] = []
        async with AsyncExitStack() as stack:
            for number in range(1, SESSIONS + 1):
                sandbox = await stack.enter_async_context(self.cold.session(context))
                await run_cell(sandbox, TOUCH, f"{GB // LINE_BYTES} {GB}")
                used.append(memory_of_descendants() - before)
                if number == SESSIONS_BEFORE_A_FORECAST and forecast(used, SESSIONS) > available * SHARE_OF_MEMORY:
                    raise NotMeasured(
                        f"{number} sessions took {used[-1] / GB:.1f} GB, so {SESSIONS} would not fit this machine: "
                        "contexts are copied here, not mapped"
                    )
        return row_of(name, unit, [used[-1] / MB], [GB / MB], n=SESSIONS)

    async def _ingest(self, name: str, unit: str) -> Row:
        ours, floor = [], []
        for number in range(self.effort.long):
            path = await self._big_file(f"ingest-{number}.txt", head=f"{number}\n".encode())
            # Turn about, so that neither is always the one that meets what the other left for the disk to write.
            if number % 2:
                floor.append(await self._copied(path))
                ours.append(await self._ingested(path))
            else:
                ours.append(await self._ingested(path))
                floor.append(await self._copied(path))
            path.unlink()
        return row_of(name, unit, ours, floor)

    async def _ingested(self, path: Path) -> float:
        """MB/s."""
        started = time.perf_counter()
        await self.cold.service.contexts.put_text(path.name, path)
        return GB / MB / (time.perf_counter() - started)

    async def _copied(self, path: Path) -> float:
        """MB/s."""
        (seconds,) = await self.bare.call(
            "copy_and_hash", count=1, source=str(path), target=str(self.scratch / "copied")
        )
        return float(GB / MB / seconds)

    async def _import_time(self, name: str, unit: str) -> Row:
        return await self._command(name, unit, [sys.executable, "-c", "import service.wiring.service"])

    async def _cli_help(self, name: str, unit: str) -> Row:
        return await self._command(name, unit, [str(Path(sys.executable).with_name("rlm-service")), "--help"])

    async def _command(self, name: str, unit: str, command: list[str]) -> Row:
        ours, floor = [], []
        for number in range(self.effort.short + 1):
            mine = await self.bare.samples("run", count=1, command=command)
            least = await self.bare.samples("run", count=1, command=[sys.executable, "-c", "pass"])
            if number:  # the first one reads from disk what the others find in memory
                ours += mine
                floor += least
        return row_of(name, unit, ours, floor)

    async def _big_context(self, side: Side) -> Context:
        """A text of 1 GB in the side's store; the same one whenever it is asked for."""
        path = await self._big_file("context.txt")
        try:
            return await side.service.contexts.put_text(path.name, path)
        finally:
            path.unlink()

    async def _big_file(self, name: str, head: bytes = b"") -> Path:
        path = await anyio.to_thread.run_sync(write_text, self.scratch / name, GB)
        with path.open("r+b") as file:
            file.write(head)
            file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())  # else whoever reads it waits for its writing too
        return path
