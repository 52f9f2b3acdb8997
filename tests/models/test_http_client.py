"""The HTTP client of the native adapters: responses in any pieces, bounds, and which connections are used again."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from service.models.http_client.errors import (
    BodyBroke,
    ConnectionBroke,
    NotHttp,
    NotTrusted,
    RequestMalformed,
)
from service.models.http_client.pool import HttpPool, tls
from service.models.http_client.response import HELD_BYTES, MAX_HEAD_BYTES, Response

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n"
ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + SIZED
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
UNTIL_END = b"HTTP/1.1 200 OK\r\n\r\nhello"


class Flow:
    """Counts how often it was told to stop and to go on."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


@given(st.sampled_from([SIZED, CHUNKED, ANNOUNCED, CLOSING, UNTIL_END]), st.data())
def test_a_response_is_the_same_however_it_is_cut(wire: bytes, data: st.DataObject) -> None:
    """TCP delivers in any pieces: status, body and whether the connection goes on are those of the whole."""
    response = Response(Flow())
    left, body = wire, b""
    while left:
        size = data.draw(st.integers(min_value=1, max_value=len(left)))
        response.feed(left[:size])
        left = left[size:]
        body += response.read_nowait()
    assert response.is_complete == (wire is not UNTIL_END)
    response.feed_eof()
    assert (response.status, body, response.is_complete) == (200, b"hello", True)
    assert response.keeps_alive == (wire in (SIZED, CHUNKED, ANNOUNCED))
    assert "link" not in response.headers
    assert "trailer" not in response.headers


@given(st.sampled_from([SIZED, CHUNKED, ANNOUNCED]), st.data())
def test_a_response_that_ends_early_is_broken(wire: bytes, data: st.DataObject) -> None:
    """Wherever it is cut off, it fails: as a connection before its head has come, as a body behind it."""
    cut = data.draw(st.integers(min_value=0, max_value=len(wire) - 1))
    response = Response(Flow())
    response.feed(wire[:cut])
    response.feed_eof()
    head = wire.rindex(b"HTTP/1.1 200")
    expected = BodyBroke if cut >= wire.index(b"\r\n\r\n", head) + 4 else ConnectionBroke

    async def read_all() -> None:
        await response.until_headed()
        while await response.read():
            pass

    with pytest.raises(expected):
        asyncio.run(read_all())
    assert not response.keeps_alive


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
    ],
    ids=["no HTTP", "two lengths", "a negative length", "another protocol", "a long header", "many headers"],
)
def test_what_is_no_response_is_refused(wire: bytes) -> None:
    """A head that cannot be understood, or does not end, is never waited for."""
    response = Response(Flow())
    for start in range(0, len(wire), 4096):
        response.feed(wire[start : start + 4096])
    with pytest.raises(NotHttp):
        asyncio.run(response.until_headed())


@pytest.mark.parametrize(
    "wire", [b"zz\r\n", b"2;" + b"x" * (2 * MAX_HEAD_BYTES), b"0\r\nt: " + b"x" * 2 * MAX_HEAD_BYTES]
)
def test_framing_that_makes_no_sense_breaks_the_body(wire: bytes) -> None:
    """Neither a chunk size that is none nor extensions or trailers without end are taken in."""
    response = Response(Flow())
    response.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
    assert response.read_nowait() == b"he"
    response.feed(wire)
    with pytest.raises(BodyBroke):
        asyncio.run(response.read())


def test_what_follows_a_response_spoils_its_connection() -> None:
    """Bytes that nobody asked for are no beginning of the next response."""
    for more in (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"garbage"):
        together, behind = Response(Flow()), Response(Flow())
        together.feed(SIZED + more)
        behind.feed(SIZED)
        assert behind.keeps_alive
        behind.feed(more)
        for response in (together, behind):
            assert (response.status, response.read_nowait()) == (200, b"hello")
            assert not response.keeps_alive


def test_a_reader_that_does_not_read_stops_the_flow() -> None:
    """At most a quarter of a megabyte, and what came with it, waits in memory; reading lets it go on."""
    flow = Flow()
    response = Response(flow)
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(3):
        response.feed(b"x" * HELD_BYTES)
    assert flow.told == ["pause"]
    assert len(response.read_nowait()) == 3 * HELD_BYTES
    assert flow.told == ["pause", "resume"]


@asynccontextmanager
async def served(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[HttpPool, list[int]]]:
    """A pool before a server that answers so, and the client's port of each connection."""
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client went away
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        pool = HttpPool(f"http{'s' * bool(tls)}://127.0.0.1:{port}/v1/x?a=b c", {"X-Key": "k"}, keep_alive_s=60.0)
        try:
            yield pool, ports
        finally:
            await pool.aclose()
            assert repr(pool) == "<HttpPool 0 connections, 0 idle>"


async def received(reader: asyncio.StreamReader) -> bytes:
    """One request, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def always(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await received(reader)
        writer.write(SIZED)


async def posted(pool: HttpPool, body: bytes = b"{}") -> bytes:
    async with pool.post(body) as response:
        assert response.media_type in ("text/plain", "")
        read = b""
        while piece := await response.read():
            read += piece
        return read


@pytest.mark.anyio
@pytest.mark.parametrize("size_bytes", [0, 10, 3 << 20])
async def test_a_request_is_what_was_asked_for(size_bytes: int) -> None:
    """The target is encoded, the length is told, and the body arrives whole, small or large."""
    seen: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await received(reader))
        writer.write(CHUNKED)

    async with served(keep) as (pool, ports):
        assert await posted(pool, b"b" * size_bytes) == b"hello"
        head, _, body = seen[0].partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"POST /v1/x?a=b%20c HTTP/1.1"
        assert b"\r\nX-Key: k\r\n" in head
        assert body == b"b" * size_bytes
        assert len(ports) == 1


@pytest.mark.anyio
async def test_a_connection_is_used_again_unless_its_response_was_left() -> None:
    """One after another goes over one connection; a body that nobody read to its end costs its connection."""

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await received(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1_000_000)

    async with served(always) as (pool, ports):
        for _ in range(3):
            await posted(pool)
        assert len(ports) == 1
    async with served(large) as (pool, ports):
        for _ in range(3):
            async with pool.post(b"") as response:
                assert response.status == 200
        assert len(ports) == 3


@pytest.mark.anyio
async def test_a_connection_that_ended_while_idle_is_not_used() -> None:
    """A server may close what is idle: the next request goes over a new connection."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader)
        writer.write(SIZED)

    async with served(once) as (pool, ports):
        for _ in range(3):
            assert await posted(pool) == b"hello"
            with anyio.fail_after(60):
                while "0 idle" not in repr(pool):
                    await anyio.lowlevel.checkpoint()
        assert len(ports) == 3


@pytest.mark.anyio
async def test_a_cancelled_exchange_closes_its_connection() -> None:
    """Whoever is cancelled while waiting for the head leaves nothing open."""
    is_asked = anyio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader)
        is_asked.set()
        await reader.read()

    async with served(never) as (pool, _), anyio.create_task_group() as tasks:
        tasks.start_soon(posted, pool)
        await is_asked.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://127.0.0.1/", {}),
        ("http://", {}),
        ("http://127.0.0.1:notaport/", {}),
        ("http://127.0.0.1/", {"Authorization": "Bearer a\r\nX-Other: b"}),
        ("http://127.0.0.1/", {"Authorization": "Bearer \u20ac"}),
    ],
)
async def test_what_cannot_be_sent_is_told_before_anything_is(url: str, headers: dict[str, str]) -> None:
    """A URL that is none, and a key that would become a header of its own."""
    with pytest.raises(RequestMalformed):
        await posted(HttpPool(url, headers, keep_alive_s=1.0))


def certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Of a server on loopback, and the file with its certificate, which nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public


@pytest.mark.anyio
async def test_only_a_trusted_server_is_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends it before anything is sent; with it among the machine's it works."""
    context, file = certificate(tmp_path)
    async with served(always, context) as (pool, _):
        try:
            with pytest.raises(NotTrusted, match="self-signed certificate"):
                await posted(pool)
            monkeypatch.setenv("SSL_CERT_FILE", str(file))
            tls.cache_clear()
            assert await posted(pool) == b"hello"
            assert await posted(pool) == b"hello"
        finally:
            tls.cache_clear()
