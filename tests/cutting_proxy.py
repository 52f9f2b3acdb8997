"""A relay in front of the real store that can lose a reply: the request is carried out, then the connection is cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import SocketStream


class CuttingProxy:
    """Relays bytes both ways, except that it loses the replies it is told to lose."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._losing, self._words = 0, b""
        self.lost = 0
        """How many replies were lost so far."""

    def lose_replies(self, count: int, to: bytes = b"EVALSHA") -> None:
        """Lose the replies to the next `count` requests that have these words, by default to those that call a script,
        and the connections they came on."""
        self._losing, self._words = count, to

    async def relay(self, client: SocketStream) -> None:
        async with client, await anyio.connect_unix(str(self._server)) as server:
            try:
                while True:
                    request = await client.receive(1 << 20)
                    await server.send(request)
                    reply = await server.receive(1 << 20)
                    if self._losing and self._words in request:
                        # The server has answered, so it has done what it was asked.
                        self._losing -= 1
                        self.lost += 1
                        return
                    await client.send(reply)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


@asynccontextmanager
async def cutting_proxy(server: Path, path: Path) -> AsyncIterator[CuttingProxy]:
    """A proxy that listens at `path`. It knows one request and one reply at a time, which is how commands travel."""
    proxy = CuttingProxy(server)
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.relay)
        yield proxy
        group.cancel_scope.cancel()
