"""A measuring process, seen from here: started, asked, ended."""

import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

ROOT = Path(__file__).resolve().parent.parent
ANSWER_LIMIT_BYTES = 64 << 20
STOP_S = 30.0


class WorkerFailed(Exception):
    """A measuring process said what went wrong, or went away."""


class Worker:
    """Asked one thing at a time. It measures by itself, so what asking costs is in no figure."""

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process
        assert process.stdout is not None, "started with a pipe"
        self._answers = BufferedByteReceiveStream(process.stdout)

    async def call(self, do: str, *, deadline_s: float = 600.0, **arguments: Any) -> Any:
        """What the operation returned.

        Raises:
            WorkerFailed: it failed, ended, or took longer than the deadline.
        """
        assert self._process.stdin is not None, "started with a pipe"
        try:
            with anyio.fail_after(deadline_s):
                await self._process.stdin.send(json.dumps({"do": do, **arguments}).encode() + b"\n")
                line = await self._answers.receive_until(b"\n", ANSWER_LIMIT_BYTES)
        except TimeoutError:
            raise WorkerFailed(f"{self._name}: {do} took longer than {deadline_s:g} s") from None
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            raise WorkerFailed(f"{self._name} ended during {do}") from None
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self._name}: {do}: {answer['error']}")
        return answer["ok"]

    async def samples(self, do: str, **arguments: Any) -> list[float]:
        """Several operations return seconds; here they become milliseconds."""
        return [milliseconds(seconds) for seconds in await self.call(do, **arguments)]


@asynccontextmanager
async def started(
    name: str, command: Sequence[str], environment: Mapping[str, str], *, cwd: Path, log: Path
) -> AsyncIterator[Worker]:
    """A measuring process for the time of the block. What it has to say besides its answers goes to the log."""
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        process = await anyio.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, cwd=cwd, env=dict(environment)
        )
    finally:
        os.close(said)
    try:
        yield Worker(f"{name} (its log: {log})", process)
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: Process) -> None:
    """It ends with its stdin, after cleaning up; one that does not is killed."""
    assert process.stdin is not None, "started with a pipe"
    await process.stdin.aclose()
    with anyio.move_on_after(STOP_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()


def bare_python(module: str) -> list[str]:
    """The command line of one of our modules that needs the standard library only."""
    return [sys.executable, "-S", "-m", module]


def milliseconds(seconds: float) -> float:
    assert math.isfinite(seconds), "a time is finite"
    return seconds * 1000
