"""A process that listens on loopback, for the time of a block: the model server, the other side's proxy."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

LINE_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where it listens, and which process it is."""

    port: int
    pid: int


class NotListening(Exception):
    """The process ended, or took too long; the text names its log."""


@asynccontextmanager
async def listening(
    command: Sequence[str], environment: Mapping[str, str], *, cwd: Path, log: Path, within_s: float
) -> AsyncIterator[Listener]:
    """Start it, read its port from the first line of its stdout, and kill it in the end. What else it says goes to the
    log; it holds the other end of a pipe on stdin, so that it can end with us.

    Raises:
        NotListening
    """
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        process = await anyio.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, cwd=cwd, env=dict(environment)
        )
    finally:
        os.close(said)
    assert process.stdout is not None, "started with a pipe"
    try:
        try:
            with anyio.fail_after(within_s):
                port = int(await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", LINE_BYTES))
        except (TimeoutError, anyio.IncompleteRead, anyio.EndOfStream, ValueError) as error:
            raise NotListening(f"{command[-1]} did not say its port within {within_s:g} s; see {log}") from error
        yield Listener(port=port, pid=process.pid)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()
