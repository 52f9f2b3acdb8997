"""What a connection may do: every wait of the public listener has an end."""

import asyncio
import select
import socket
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from service.tenants.values import OPERATOR
from service.web import connections
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

PATIENCE_S = 60


async def connect(it: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = it.address.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nhost: x\r\nx-more"])
async def test_a_head_that_does_not_come_ends_the_connection(
    it: Served, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing at all, or half a head: 408, and the connection is closed."""
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 0.2)
    reader, writer = await connect(it)
    writer.write(sent)
    with anyio.fail_after(PATIENCE_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    await closes(writer)


async def test_half_a_second_head_ends_a_kept_connection_too(it: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a request that was answered, the next one has as long as the first had."""
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 0.5)
    reader, writer = await connect(it)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    with anyio.fail_after(PATIENCE_S):
        assert b'"alive"' in await reader.readuntil(b"}")
        writer.write(b"GET /livez HT")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    await closes(writer)


async def test_too_large_a_head_is_refused(it: Served) -> None:
    """More than `MAX_HEAD_BYTES` of headers are not collected."""
    reader, writer = await connect(it)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (connections.MAX_HEAD_BYTES + 1))
    with anyio.fail_after(PATIENCE_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    await closes(writer)


def hangs_up(address: str, request: bytes) -> bool:
    """Whether the service ends a connection whose client asks, and reads nothing but the beginning of what comes."""
    host, port = address.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=PATIENCE_S)) as connection:
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 200"
        watch = select.poll()
        watch.register(connection, 0)  # nothing but errors and hang-ups, which are always told
        return bool(watch.poll(PATIENCE_S * 1000))


@pytest.mark.takes_long
async def test_a_client_that_reads_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for more than fits between it and us, reads none of it, and loses the connection."""
    monkeypatch.setattr(connections, "READ_WITHIN_S", 0.2)
    code = "```repl\nanswer['content'] = 'x' * (64 << 20)\nanswer['ready'] = True\n```"
    async with served(tmp_path, code) as it:
        run = await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=60"})
        path = f"/v1/runs/{run.json()['run_id']}/answer"
        secret = it.client.headers["authorization"]
        request = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {secret}\r\n\r\n".encode()
        assert await anyio.to_thread.run_sync(hangs_up, it.address, request)


async def busy(it: Served, secret: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with a request under way: its body does not come to its end."""
    reader, writer = await connect(it)
    head = f"POST /v1/contexts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-type: text/plain\r\n"
    writer.write(head.encode() + b"content-length: 10\r\n\r\nx")
    return reader, writer


async def test_more_connections_than_there_may_be_are_told_to_come_back(tmp_path: Path) -> None:
    """Those beyond the cap get 503 with when to try again, whatever they have sent, and take nobody's room: once
    another has gone, the next is let in."""
    async with served(tmp_path, settings={"RLM_MAX_CONNECTIONS": "2"}) as it:
        request = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
        tenants = [await it.tenants.create("busy", by=OPERATOR) for _ in range(2)]
        kept = [await busy(it, await it.secret(tenant_id=tenant.id)) for tenant in tenants]
        with anyio.fail_after(PATIENCE_S):
            while True:
                if repr(it.rooms.places) == "<RequestPlaces 2 of 2 taken by 2 tenants>":
                    break
                await anyio.sleep(0.01)
            for refused in [at_once(it, request + b"x" * 1000) for _ in range(3)]:
                reader, writer = await asyncio.open_connection(sock=refused)
                refusal = await reader.read()
                assert refusal.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: " in refusal
                writer.close()
            kept[0][1].close()
            while (await it.client.get("/livez")).status_code == 503:
                pass  # the service has not seen yet that one has gone
        await closes(kept[1][1])


async def until_let_in(client: httpx.AsyncClient) -> None:
    while True:
        if (await client.get("/livez")).status_code != 503:
            return
        await anyio.sleep(0.1)  # nobody has idled long enough yet


async def test_connections_that_nobody_uses_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many as there may be, the one that has idled longest is closed for a new one, whether it ever asked or
    not; one with a request under way never is."""
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 2.0 * PATIENCE_S)
    async with served(tmp_path, settings={"RLM_MAX_CONNECTIONS": "3"}) as it:
        tenant = await it.tenants.create("busy", by=OPERATOR)
        at_work = await busy(it, await it.secret(tenant_id=tenant.id))
        silent = await connect(it)
        asked = await connect(it)
        asked[1].write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        with anyio.fail_after(PATIENCE_S):
            assert b'"alive"' in await asked[0].readuntil(b"}")
            await until_let_in(it.client)
            assert await silent[0].read() == b""
            async with it.client_with(None) as another:
                await until_let_in(another)
                assert await asked[0].read() == b""
            at_work[1].write(b"123456789")
            assert (await at_work[0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
        for _, writer in (at_work, silent, asked):
            await closes(writer)


def at_once(it: Served, request: bytes) -> socket.socket:
    """A connection whose request has come before the service has looked at it: nothing of ours runs meanwhile."""
    host, port = it.address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    connection.sendall(request)
    return connection


async def test_a_body_of_tiny_chunks_is_refused(it: Served) -> None:
    """400 with what to do instead, also with a key and while the request is at work; the service goes on."""
    reader, writer = await connect(it)
    head = f"POST /v1/contexts HTTP/1.1\r\nhost: x\r\nauthorization: {it.client.headers['authorization']}\r\n"
    writer.write(head.encode() + b"content-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"1\r\na\r\n" * 43_000)
    with anyio.fail_after(PATIENCE_S):
        refusal = await reader.read()
        assert refusal.startswith(b"HTTP/1.1 400 ")
        assert b"send larger ones, or its length (content-length)" in refusal
    await closes(writer)
    assert (await it.client.get("/livez")).status_code == 200


async def test_one_turn_of_the_loop_parses_a_little_of_one_connection(
    it: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much has come of an upload, the parser gets a small piece at a time, and the whole of it in the end."""
    pieces: list[int] = []
    parse = connections.BoundedProtocol.data_received

    def recorded(self: connections.BoundedProtocol, data: bytes) -> None:
        pieces.append(len(data))
        parse(self, data)

    monkeypatch.setattr(connections.BoundedProtocol, "data_received", recorded)
    stored = await it.client.post("/v1/contexts", content=b"a" * (2 << 20), headers={"content-type": "text/plain"})
    assert stored.status_code == 201
    assert sum(pieces) > 2 << 20
    assert max(pieces) <= connections.MOST_READ_BYTES


async def reads_nothing(it: Served, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that asks for far more than fits between it and us."""
    host, port = it.address.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    writer.write(request)
    return reader, writer


async def test_who_asks_without_a_key_and_does_not_read_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests without a tenant's place whose responses nobody reads make room; one that has a place never does."""
    monkeypatch.setattr(connections, "READ_WITHIN_S", 2.0 * PATIENCE_S)
    async with served(tmp_path, settings={"RLM_MAX_CONNECTIONS": "3"}) as it:
        text = "a" * (16 << 20)
        uploaded = await it.client.post("/v1/contexts", content=text, headers={"content-type": "text/plain"})
        path = f"{uploaded.headers['location']}/content"
        secret = it.client.headers["authorization"]
        await it.client.aclose()
        keyed = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {secret}\r\nconnection: close\r\n\r\n"
        unkeyed = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 100
        with anyio.fail_after(PATIENCE_S):
            opened = [await reads_nothing(it, keyed.encode())]
            assert (await opened[0][0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
            opened += [await reads_nothing(it, unkeyed) for _ in range(2)]
            for _ in range(2):
                async with it.client_with(None) as another:
                    await until_let_in(another)
            read = await opened[0][0].read()
        assert read.endswith(b"a" * (16 << 20))
        for _, writer in opened:
            writer.transport.abort()
