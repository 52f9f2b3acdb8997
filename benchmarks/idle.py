"""What a sandbox takes of memory while it waits to be claimed."""

from dataclasses import dataclass

import anyio.to_thread

from benchmarks.floors import NotMeasured
from benchmarks.material import MB
from benchmarks.memory import memory_of
from benchmarks.rows import Row, row_of
from benchmarks.service_side import Side
from benchmarks.worker import Worker
from service.sandboxes.docker_provider import ContainerProcess
from service.sandboxes.local_process import LocalProcess
from service.sandboxes.sandbox import Sandbox

SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """One side that keeps nothing warm, and a bare process."""

    side: Side
    bare: Worker

    async def row(self, name: str, unit: str) -> Row:
        """The memory that the operating system charges to a sandbox; of a container its cgroup's, without what the
        engine runs beside it. Floor: a bare Python's."""
        ours, floor = [], []
        for _ in range(SAMPLES):
            sandbox = await self.side.service.pool.acquire()
            try:
                ours.append(await _held_bytes(sandbox) / MB)
            finally:
                await self.side.service.pool.release(sandbox)
            floor.append(await self.bare.call("memory") / MB)
        return row_of(name, unit, ours, floor)


async def _held_bytes(sandbox: Sandbox) -> int:
    process = sandbox.process
    if isinstance(process, ContainerProcess):
        return (await process.stats()).memory_bytes
    if not isinstance(process, LocalProcess):
        raise NotMeasured(f"nothing is known of how to measure {process!r}")
    return await anyio.to_thread.run_sync(memory_of, process.pids)
