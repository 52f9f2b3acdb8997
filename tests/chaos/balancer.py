"""The one address in front of the replicas: relays TCP connections to one of those that accept them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream

_PIECE_BYTES = 1 << 16
_CONNECT_WITHIN_S = 5.0


@dataclass(eq=False)
class Balancer:
    """A connection goes to one backend whole. One that refuses connections is passed over, as a balancer's health
    check would have it."""

    address: str
    backends: dict[str, int] = field(default_factory=dict)
    """Ports on loopback, by name."""
    _next: int = 0

    async def relay(self, client: SocketStream) -> None:
        async with client:
            server = await self._connect()
            if server is None:
                return
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(_pass_on, client, server, tasks.cancel_scope)
                await _pass_on(server, client, tasks.cancel_scope)

    async def _connect(self) -> SocketStream | None:
        self._next += 1
        ports = list(self.backends.values())
        for offset in range(len(ports)):
            port = ports[(self._next + offset) % len(ports)]
            with anyio.move_on_after(_CONNECT_WITHIN_S):
                try:
                    return await anyio.connect_tcp("127.0.0.1", port)
                except OSError:
                    continue
        return None


async def _pass_on(source: ByteReceiveStream, target: ByteSendStream, both: anyio.CancelScope) -> None:
    """Until either side is gone, which ends both: HTTP/1.1 needs no half-closed connections."""
    try:
        while True:
            await target.send(await source.receive(_PIECE_BYTES))
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        both.cancel()


@asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    """A balancer that listens, and is gone afterwards with all its connections."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        balancer = Balancer(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, balancer.relay)
            yield balancer
            tasks.cancel_scope.cancel()
