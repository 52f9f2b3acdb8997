"""Exchanges with the server: commands out in one piece, replies in their order.

The client library's own pipelines pack, lock, count and time every command by itself, which is most of what a round
trip to a server on the same machine costs. So its connections are used, with everything that it knows of addresses,
credentials, TLS and replies, and what goes over them is put together here, under one deadline for all of it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.store.patience import Patience

Reply = bytes | int | list["Reply"] | None
Part = str | bytes | int
Command = tuple[Part, ...]


class MakesExchanges(Protocol):
    """The way to the server, as the store takes it: `Exchanges`, or what a test puts before them."""

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """Called for each request of the store, however many commands go out in it; several may be under way at once.
        What is not idempotent is asked for once. Cancelling it leaves unknown what the commands did.

        Returns the replies, each where its command stood; an error that the server replied is one of them.

        Raises:
            RedisConnectionError: no connection, or it broke; what the commands did is unknown.
            RedisTimeoutError, RedisError, OSError
        """
        ...


PutsBefore = Callable[[MakesExchanges], MakesExchanges]
"""Puts something before the exchanges of a store that is opened."""


def nothing_before(exchanges: MakesExchanges) -> MakesExchanges:
    """As they are."""
    return exchanges


class Exchanges:
    """The connections to one server that wait for commands. How many there may be at once is decided by who calls."""

    def __init__(self, connections: ConnectionPool, patience: Patience) -> None:
        """`connections` says how one is made; it hands out none itself."""
        self._connections = connections
        self._patience = patience
        self._free: list[AbstractConnection] = []

    def __repr__(self) -> str:
        return f"<Exchanges free={len(self._free)}>"

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """The replies, each where its command stood; an error that the server replied is one of them.

        Raises:
            RedisConnectionError: no connection, or it broke; what the commands did is unknown. Those that waited were
                opened to the same server and are closed too.
            RedisTimeoutError, RedisError, OSError
        """
        connection = self._free.pop() if self._free else self._made()
        try:
            with self._patience.for_reply():
                # Opens it; one that waited is opened again if the server, or what stands between, has closed it since.
                # That costs no round trip, and a write over it would fail though nothing is wrong.
                await self._connections.ensure_connection(connection)
                await connection.send_packed_command(packed(commands), check_health=False)
                replies = [await _reply(connection) for _ in commands]
                self._free.append(connection)
                return replies
            raise RedisTimeoutError("no reply in time")
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, RedisConnectionError):
                await self.close()
            raise

    def _made(self) -> AbstractConnection:
        connection: AbstractConnection = self._connections.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def close(self) -> None:
        """Close the connections that wait."""
        while self._free:
            await self._free.pop().disconnect()


async def _reply(connection: AbstractConnection) -> Reply | ResponseError:
    try:
        reply: Reply = await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
    return reply


def packed(commands: Sequence[Command]) -> bytes:
    """The commands as the server reads them."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        for part in command:
            data = part if isinstance(part, bytes) else str(part).encode()
            pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)
