"""Exchanges: what commands become on the wire, and which connections are used again."""

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.ids import new_id
from service.store.exchanges import Exchanges, Part, Reply, packed
from service.store.patience import Patience

PARTS = st.one_of(st.text(), st.binary(), st.integers())


def taken_apart(wire: bytes) -> list[list[bytes]]:
    """Commands as a server reads them."""
    commands: list[list[bytes]] = []
    while wire:
        head, _, wire = wire.partition(b"\r\n")
        assert head.startswith(b"*")
        command = []
        for _ in range(int(head[1:])):
            size, _, wire = wire.partition(b"\r\n")
            assert size.startswith(b"$")
            length = int(size[1:])
            command.append(wire[:length])
            assert wire[length : length + 2] == b"\r\n"
            wire = wire[length + 2 :]
        commands.append(command)
    return commands


@given(st.lists(st.lists(PARTS, min_size=1, max_size=5).map(tuple), max_size=4))
def test_a_server_reads_the_commands_that_were_given(commands: list[tuple[Part, ...]]) -> None:
    """Whatever stands in a part, line ends too, it arrives as it is: numbers as digits, text as UTF-8."""
    assert taken_apart(packed(commands)) == [
        [part if isinstance(part, bytes) else str(part).encode() for part in command] for command in commands
    ]


def exchanges_at(path: Path | str, timeout_s: float = 60.0) -> Exchanges:
    connections = ConnectionPool(
        connection_class=UnixDomainSocketConnection,
        path=str(path),
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
    )
    return Exchanges(connections, Patience(timeout_s))


@pytest.fixture
def address(store_directory: Path) -> Path:
    return store_directory / "store" / "server.sock"


@pytest.mark.anyio
async def test_an_error_of_one_command_stands_in_its_place(address: Path) -> None:
    """The replies around it are what they would have been, and the connection is used again."""
    exchanges = exchanges_at(address)
    for _ in range(2):
        first, error, last = await exchanges.make([("ECHO", "a\r\nb"), ("NO-SUCH-COMMAND",), ("ECHO", b"\xff")])
        assert (first, last) == (b"a\r\nb", b"\xff")
        assert isinstance(error, ResponseError)
        assert repr(exchanges) == "<Exchanges free=1>"
    await exchanges.close()


@pytest.mark.anyio
async def test_when_one_connection_broke_none_that_waits_is_trusted(address: Path) -> None:
    """A server that went takes all its connections along: the next exchange opens a new one and succeeds."""
    exchanges = exchanges_at(address)
    async with anyio.create_task_group() as tasks:
        for at in range(8):
            tasks.start_soon(exchanges.make, [("ECHO", at)])
    (number,) = await exchanges.make([("CLIENT", "ID")])
    assert isinstance(number, int)
    with pytest.raises(RedisConnectionError):
        await exchanges.make([("CLIENT", "KILL", "ID", number, "SKIPME", "no"), ("ECHO", "unreachable")])
    assert repr(exchanges) == "<Exchanges free=0>"
    assert await exchanges.make([("ECHO", "again")]) == [b"again"]
    await exchanges.close()


@pytest.mark.anyio
async def test_connections_that_were_closed_while_they_waited_are_opened_again(address: Path) -> None:
    """A server or a proxy that ends idle connections makes no write fail, though many are used again at once."""
    exchanges, other, key = exchanges_at(address), exchanges_at(address), new_id("run")
    numbers: set[Reply | ResponseError] = set()

    async def learn_number() -> None:
        numbers.update(await exchanges.make([("CLIENT", "ID")]))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(learn_number)
    for number in numbers:
        assert isinstance(number, int)
        assert await other.make([("CLIENT", "KILL", "ID", number)]) == [1]
    assert repr(exchanges) == f"<Exchanges free={len(numbers)}>"
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(exchanges.make, [("HINCRBY", key, "generation", 1)])
    assert await other.make([("HGET", key, "generation"), ("DEL", key)]) == [b"8", 1]
    await exchanges.close()
    await other.close()


@pytest.mark.anyio
async def test_an_exchange_that_nobody_answers_ends_at_its_deadline(tmp_path: Path) -> None:
    """A server that accepts and says nothing holds nobody for ever, and its connection is not used again."""
    path = tmp_path / "s"
    async with await anyio.create_unix_listener(path):
        exchanges = exchanges_at(path, timeout_s=0.1)
        with pytest.raises(RedisTimeoutError):
            await exchanges.make([("ECHO", "x")])
        assert repr(exchanges) == "<Exchanges free=0>"
