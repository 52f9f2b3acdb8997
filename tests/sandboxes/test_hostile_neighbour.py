"""What a misbehaving sandbox costs the orchestrator and the sandbox next door: nothing that lasts."""

import gc
import os
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from service.ids import CellId
from service.sandboxes.port import SandboxGone
from service.sandboxes.sandbox import Sandbox
from tests.sandboxes.scripted import Request, Script, Stream
from tests.sandboxes.test_hostile_peer import BAD_ANSWERS, FLOODS, on, run, scene

pytestmark = pytest.mark.anyio

MOST_BYTES = 64 << 20
"""That one misbehaving sandbox may make us hold at once; a reply may have 8 MiB."""


def saying(begin: bytes, again: bytes = b"") -> Script:
    """Answers every cell with this, then with more of it for as long as anybody reads."""

    async def script(request: Request, stream: Stream) -> None:
        await stream.send(begin)
        while again:
            await stream.send(again)
        stream.close()

    return on("PUT", "/cells", script)


HOSTILE: dict[str, Script] = {
    **{name: saying(answer) for name, answer in BAD_ANSWERS.items()},
    **{f"a flood of {name}": saying(begin, again) for name, (begin, again, _) in FLOODS.items()},
    "a body without end": saying(b"HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n", b" " * 65536),
}


def descriptors() -> int:
    """Of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_misbehaving_sandbox_costs_its_neighbour_nothing(data: Path, script: Script) -> None:
    """While one sandbox misbehaves, every cell of another is answered; afterwards no descriptor is left, and at no time
    was more memory held than a reply may take."""
    (data / "bad").mkdir()
    (data / "good").mkdir()
    async with scene(data / "good") as it:  # whatever is opened once and kept is open after it
        await run(it.sandbox)
    before = descriptors()
    tracemalloc.start()
    try:
        async with AsyncExitStack() as stack:
            good = (await stack.enter_async_context(scene(data / "good"))).sandbox
            bad = (await stack.enter_async_context(scene(data / "bad", script))).sandbox
            is_over = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_work, good, is_over.is_set)
                with pytest.raises(SandboxGone):
                    await run(bad, wall_limit_s=0.5)
                is_over.set()
            assert good.is_running
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert descriptors() <= before


async def _work(sandbox: Sandbox, may_end: Callable[[], bool]) -> None:
    """Cell after cell, at least a few, as long as the other one misbehaves."""
    number = 0
    while number < 5 or not may_end():
        number += 1
        await sandbox.run_cell(CellId(f"run_1.t{number}.b0"), "1", active_limit_s=60, wall_limit_s=60)
