"""What a misbehaving sandbox costs the orchestrator and the sandbox next door: nothing that lasts, and next to no time.

Time is counted in what no other program of the machine has a part in: turns of the event loop that a neighbour's cell
needed from its request to its answer, and CPU time of this thread within one turn, during which nobody else is served.
A neighbour that waits for anything but its own answer needs thousands of turns, because here the loop never sleeps.
"""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from service.ids import CellId
from service.sandboxes.listener import MAX_REFUSALS
from service.sandboxes.port import SandboxGone
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.socket_path import short_path
from service.sandboxes.stream import UnixStream, connect
from tests.sandboxes.scripted import Request, Script, Stream, honest, http
from tests.sandboxes.test_hostile_peer import (
    BAD_ANSWERS,
    BAD_VALUES,
    FLOODS,
    Scene,
    never_answers,
    on,
    read,
    run,
    scene,
)
from tests.sandboxes.test_hostile_structures import STRUCTURES

pytestmark = pytest.mark.anyio

QUIET_TURNS = 20
"""That a cell of the scripted sandbox needs when nobody else does anything, and some to spare: it was 13."""
MOST_TURNS = 20 * QUIET_TURNS
MOST_TURN_CPU_S = 0.25
"""Quiet turns take 1 ms at most, one in which a reply of 8 MiB is counted and refused 9."""
MOST_BYTES = 96 << 20
"""Of real memory that one misbehaving sandbox may make us hold, its own end included, which is in this process; a reply
may have 8 MiB."""
DIALS = 1000
MOST_STREAMS = 32
"""That a sandbox which dials without end may have open at our end at once: four in their prefaces, a few that wait."""


class Turns:
    """Of the event loop, while `counted`."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_cpu_s = 0.0
        """CPU time of the longest one."""
        self._began_s = 0.0
        self._is_over = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The collector of garbage stands still meanwhile: it looks at all that other tests have left."""
        gc.collect()
        gc.disable()
        self._began_s = time.thread_time()
        self._turn()
        try:
            yield
        finally:
            self._is_over = True
            gc.enable()

    def _turn(self) -> None:
        now_s = time.thread_time()
        self.longest_cpu_s = max(self.longest_cpu_s, now_s - self._began_s)
        self._began_s = now_s
        self.count += 1
        if not self._is_over:
            asyncio.get_running_loop().call_soon(self._turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misdeed:
    """What a sandbox does, and to whom."""

    script: Script
    ask: Callable[[Sandbox], Awaitable[object]]


def _run(sandbox: Sandbox) -> Awaitable[object]:
    return run(sandbox, wall_limit_s=0.5)


def _cells(script: Script | bytes) -> Misdeed:
    return Misdeed(script=on("PUT", "/cells", script), ask=_run)


def _values(script: Script | bytes) -> Misdeed:
    return Misdeed(script=on("GET", "/values", script), ask=read)


def saying(begin: bytes, again: bytes = b"") -> Script:
    """Answers with this, then with more of it for as long as anybody reads."""

    async def script(request: Request, stream: Stream) -> None:
        await stream.send(begin)
        while again:
            await stream.send(again)
        stream.close()

    return script


async def drip(request: Request, stream: Stream) -> None:
    """A byte now and then."""
    await stream.send(_LONG_HEAD)
    while True:
        await stream.send(b" ")
        await anyio.sleep(0.005)


async def crumbs(request: Request, stream: Stream) -> None:
    """Byte after byte."""
    await stream.send(_LONG_HEAD)
    while True:
        await stream.send(b" ")
        await anyio.lowlevel.checkpoint()


_LONG_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n"
MISDEEDS: dict[str, Misdeed] = {
    **{name: _cells(saying(answer)) for name, answer in BAD_ANSWERS.items()},
    **{f"a value: {name}": _values(answer) for name, answer in BAD_VALUES.items()},
    **{f"a flood of {name}": _cells(saying(begin, again)) for name, (begin, again, _) in FLOODS.items()},
    **{f"a value's flood of {name}": _values(saying(begin, again)) for name, (begin, again, _) in FLOODS.items()},
    **{f"countless values: {name}": _cells(http(200, body)) for name, body in STRUCTURES.items()},
    "a body without end": _cells(saying(_LONG_HEAD, b" " * 65536)),
    "a drip": _cells(drip),
    "crumbs": _cells(crumbs),
    "silence": _cells(never_answers),
}


@pytest.fixture(autouse=True)
def places(data: Path) -> None:
    (data / "bad").mkdir()
    (data / "good").mkdir()


def descriptors() -> int:
    """Of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def _beside(data: Path, script: Script, misbehave: Callable[[Scene], Awaitable[object]]) -> None:
    """While one sandbox misbehaves, cell after cell of another one, and what all of it may cost."""
    async with scene(data / "good") as it:  # whatever is opened once and kept is open after it
        await run(it.sandbox)
    before = descriptors()
    turns, is_over, most = Turns(), anyio.Event(), 0

    async def work(sandbox: Sandbox) -> None:
        nonlocal most
        number = 0
        while number < 5 or not is_over.is_set():
            began, number = turns.count, number + 1
            await sandbox.run_cell(CellId(f"run_1.t{number}.b0"), "1", active_limit_s=60, wall_limit_s=60)
            most = max(most, turns.count - began)

    async with AsyncExitStack() as stack:
        good = (await stack.enter_async_context(scene(data / "good"))).sandbox
        bad = await stack.enter_async_context(scene(data / "bad", script))
        restart_peak()
        resident = resident_bytes()
        with turns.counted():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, good)
                await misbehave(bad)
                is_over.set()
        assert peak_bytes() - resident < MOST_BYTES
        assert good.is_running
    assert most <= MOST_TURNS
    assert turns.longest_cpu_s < MOST_TURN_CPU_S
    assert descriptors() <= before


@pytest.mark.parametrize("misdeed", MISDEEDS.values(), ids=MISDEEDS.keys())
async def test_a_misbehaving_sandbox_costs_its_neighbour_nothing(data: Path, misdeed: Misdeed) -> None:
    """While one sandbox misbehaves, every cell of another is answered in the turns that it always needs, none of which
    is long; memory stays within what a reply may take, and afterwards no descriptor is left."""

    async def ask(bad: Scene) -> None:
        with pytest.raises(SandboxGone):
            await misdeed.ask(bad.sandbox)

    await _beside(data, misdeed.script, ask)


async def test_a_quiet_neighbour_needs_few_turns(data: Path) -> None:
    """What is measured against: without any misdeed a cell needs no more turns than a quiet one is said to."""
    turns = Turns()
    async with scene(data / "good") as it:
        with turns.counted():
            for number in range(20):
                began = turns.count
                await it.sandbox.run_cell(CellId(f"run_1.t{number}.b0"), "1", active_limit_s=60, wall_limit_s=60)
                assert turns.count - began <= QUIET_TURNS


PREFACES: dict[str, bytes] = {
    "silence": b"",
    "half a line": b'{"protocol": 1',
    "a line without an end": b"x" * 100_000,
    "no proof": b'{"protocol": 1, "lane": "cells"}\n',
    "depth": b"[" * 4000 + b"\n",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("preface", PREFACES.values(), ids=PREFACES.keys())
async def test_a_thousand_connections_cost_a_neighbour_nothing(data: Path, preface: bytes) -> None:
    """Whoever dials without end is let in a few times at once, some dozens of times in all, and then nowhere."""

    async def dial(bad: Scene) -> None:
        before, held = len(os.listdir("/proc/self/fd")), list[UnixStream]()
        try:
            with short_path(bad.sandbox.directory, "sandbox.sock") as path, contextlib.suppress(ConnectionError):
                for _ in range(DIALS):
                    held.append(await connect(path))
                    with contextlib.suppress(anyio.BrokenResourceError):
                        await held[-1].send(preface)
                    assert len(os.listdir("/proc/self/fd")) - len(held) - before <= MOST_STREAMS
            assert MAX_REFUSALS <= len(held) < DIALS
        finally:
            for stream in held:
                stream.close()

    await _beside(data, honest, dial)


async def test_a_thousand_good_connections_cost_a_neighbour_nothing(data: Path) -> None:
    """Nor do those of a supervisor that proves each time that it is the one."""

    async def dial(bad: Scene) -> None:
        before, held = len(os.listdir("/proc/self/fd")), list[UnixStream]()
        try:
            with contextlib.suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                for _ in range(DIALS):
                    held.append(await bad.provider.dial(bad.provider.processes[0], bad.sandbox.directory, "cells"))
                    assert len(os.listdir("/proc/self/fd")) - len(held) - before <= MOST_STREAMS
            assert MAX_REFUSALS <= len(held) < DIALS
        finally:
            for stream in held:
                stream.close()

    await _beside(data, honest, dial)
