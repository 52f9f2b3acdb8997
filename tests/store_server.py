"""A store server of the operator's own, reached by URL, that nobody revives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel

from service.store.embedded import find_server


async def start_store_server(directory: Path, *options: str) -> anyio.abc.Process:
    """Start a server over what `directory` holds; it listens at `directory/s` and has read what lies there when this
    returns. Whoever calls it ends it."""
    await anyio.Path(directory / "s").unlink(missing_ok=True)
    command = [find_server(), "--port", "0", "--unixsocket", str(directory / "s"), "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning", *options]
    process = await anyio.open_process(command, stdout=None, stderr=None)
    while not await anyio.Path(directory / "s").exists():
        assert process.returncode is None, "the store server did not start"
        await anyio.lowlevel.checkpoint()
    async with await anyio.connect_unix(directory / "s") as connection:
        reply = b""
        while not reply.startswith(b"+PONG"):  # it says LOADING meanwhile
            await connection.send(b"PING\r\n")
            reply = await connection.receive()
    return process


@asynccontextmanager
async def store_server(directory: Path) -> AsyncIterator[anyio.abc.Process]:
    """A server that is gone afterwards; what it wrote stays."""
    async with await start_store_server(directory) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
