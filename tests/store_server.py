"""A store server of the operator's own, reached by URL, that nobody revives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from service.store.server_program import find_server

READY_DEADLINE_S = 60
LOOK_EVERY_S = 0.01


async def start_store_server(directory: Path, *options: str) -> anyio.abc.Process:
    """Start a server over what `directory` holds; it listens at `directory/s` and has read what lies there when this
    returns. Whoever calls it ends it."""
    await anyio.Path(directory / "s").unlink(missing_ok=True)
    command = [find_server(), "--port", "0", "--unixsocket", str(directory / "s"), "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning", *options]
    process = await anyio.open_process(command, stdout=None, stderr=None)
    with anyio.fail_after(READY_DEADLINE_S):
        while not await _answers(directory / "s"):
            assert process.returncode is None, "the store server did not start"
            await anyio.sleep(LOOK_EVERY_S)
    return process


async def _answers(path: Path) -> bool:
    """Not while there is no socket yet, nobody listens at it yet, or what lies there is still being read (LOADING)."""
    try:
        async with await anyio.connect_unix(path) as connection:
            await connection.send(b"PING\r\n")
            return (await connection.receive()).startswith(b"+PONG")
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
        return False


@asynccontextmanager
async def store_server(directory: Path) -> AsyncIterator[anyio.abc.Process]:
    """A server that is gone afterwards; what it wrote stays."""
    async with await start_store_server(directory) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
