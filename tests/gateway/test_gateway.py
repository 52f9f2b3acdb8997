"""The gateway over its real socket: what a hostile sandbox may send, and what it gets."""

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import TaskStatus

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from sandbox_image.protocol import MAX_BATCH_ITEMS, MAX_HOST_CALL_BODY_BYTES, MAX_HOST_CALL_VALUES
from service.errors import BadRequest
from service.gateway.app import gateway_app
from service.gateway.bounds import ConnectionBounds
from service.gateway.listener import DEFAULT_BOUNDS, serve_gateway
from service.ids import CellId
from service.loop.events import CallFinished
from service.runs.host_calls.grants import Grants
from service.runs.host_calls.host_calls import MAX_UNPAID_CALLS, HostCalls, MakesHostCalls, OpenCell
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import HostCall, HostCallItem
from tests.runs.doubles import ListedJournal

pytestmark = pytest.mark.anyio

CELL = "run.t1.b0"


class Reversing:
    """Makes a call by reversing its prompts."""

    def remember(self, call: CallFinished) -> None:
        """Nothing to remember."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        if call.arguments["prompts"] is None:
            raise BadRequest("prompts must be a list of strings")
        under_way.items += [HostCallItem(value=prompt[::-1]) for prompt in call.arguments["prompts"]]


@asynccontextmanager
async def gateway(
    directory: Path,
    *,
    valid_s: float = 60.0,
    maker: MakesHostCalls | None = None,
    most_unpaid: int = MAX_UNPAID_CALLS,
    bounds: ConnectionBounds = DEFAULT_BOUNDS,
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A served gateway with one run's grant."""
    journal = ListedJournal()
    grants = Grants(time.time)
    maker = maker or Reversing()
    async with (
        anyio.create_task_group() as tasks,
        serve_gateway(gateway_app(grants), directory, bounds=bounds) as socket,
    ):
        host_calls = HostCalls(
            {"llm_query_batched": maker},
            record=journal.record,
            now=time.time,
            recall=journal.recall,
            look_up=journal.look_up,
            tasks=tasks,
            most_unpaid=most_unpaid,
        )
        host_calls.open(OpenCell(wire_id=CELL, cell_id=CellId(CELL)))
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        with grants.granted(host_calls, expires_at=time.time() + valid_s) as token:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                yield client, token
        tasks.cancel_scope.cancel()


def body(**changes: Any) -> dict[str, Any]:
    return {
        "cell_id": CELL,
        "function": "llm_query_batched",
        "ordinal": 0,
        "arguments": {"prompts": ["abc", "xyz"], "model": None, "schema": None},
    } | changes


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_batch_comes_back_in_order(tmp_path: Path) -> None:
    """One request carries the batch, one reply the items."""
    async with gateway(tmp_path) as (client, token):
        reply = await client.post("/host-calls", json=body(), headers=bearer(token))
        assert reply.status_code == 200
        assert [item["value"] for item in reply.json()["items"]] == ["cba", "zyx"]


async def test_without_a_valid_grant_nothing_is_answered(tmp_path: Path) -> None:
    """No token, a made-up one and another scheme get the same 401, whatever the body says."""
    async with gateway(tmp_path) as (client, token):
        for headers in ({}, bearer("guess"), {"authorization": f"Basic {token}"}, bearer(token[:-1])):
            reply = await client.post("/host-calls", content=b"{" * 1_000, headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, "grant_refused")


async def test_an_expired_grant_is_refused(tmp_path: Path) -> None:
    """A grant ends with its run's deadline even while the run's block is still open."""
    async with gateway(tmp_path, valid_s=-1.0) as (client, token):
        assert (await client.post("/host-calls", json=body(), headers=bearer(token))).status_code == 401


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 90_000,
        b'{"cell_id": 1}',
        json.dumps(body(function="open")).encode(),
        json.dumps(body(ordinal=-1)).encode(),
        json.dumps(body(ordinal=2**70)).encode(),
        json.dumps(body(cell_id="x" * 10_000)).encode(),
        json.dumps(body(arguments=["prompts"])).encode(),
        json.dumps(body(arguments={"prompts": ["x"] * (MAX_BATCH_ITEMS + 1)})).encode(),
        b"\xff\xfe",
    ],
)
async def test_what_is_not_a_host_call_is_refused_and_the_gateway_goes_on(tmp_path: Path, content: bytes) -> None:
    """400 with a code; the next good call is answered."""
    async with gateway(tmp_path) as (client, token):
        assert (await client.post("/host-calls", content=content, headers=bearer(token))).status_code == 400
        assert (await client.post("/host-calls", json=body(), headers=bearer(token))).status_code == 200


async def test_a_call_of_another_cell_is_refused(tmp_path: Path) -> None:
    """409: only the open cell may ask."""
    async with gateway(tmp_path) as (client, token):
        reply = await client.post("/host-calls", json=body(cell_id="run.t9.b9"), headers=bearer(token))
        assert (reply.status_code, reply.json()["code"]) == (409, "host_call_refused")


async def test_an_endless_body_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    """A chunked body without an end is refused once it passes the limit, not read on."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b" " * (1 << 20)

    async with gateway(tmp_path) as (client, token):
        try:
            reply = await client.post("/host-calls", content=endless(), headers=bearer(token))
            assert reply.status_code == 413
        except httpx.TransportError:
            # The server answered and closed while the client was still sending.
            pass
        assert sent <= MAX_HOST_CALL_BODY_BYTES + (16 << 20)


async def test_other_routes_do_not_exist(tmp_path: Path) -> None:
    """No documentation, no index, no other method."""
    async with gateway(tmp_path) as (client, token):
        for path in ("/", "/docs", "/openapi.json", "/host-calls/"):
            assert (await client.get(path, headers=bearer(token))).status_code in (404, 405, 307)


async def test_what_is_asked_is_recorded_under_what_was_asked(tmp_path: Path) -> None:
    """Equal ordinals of different arguments are different calls: the key holds a digest that is made here."""
    async with gateway(tmp_path) as (client, token):
        for text in ("abc", "xyz"):
            arguments = {"prompts": [text], "model": None, "schema": None}
            reply = await client.post("/host-calls", json=body(arguments=arguments), headers=bearer(token))
            assert reply.json()["items"][0]["value"] == text[::-1]


async def test_all_requests_of_a_grant_together_are_bounded(tmp_path: Path) -> None:
    """While two bodies are on their way a third, each within the limit, is refused: their sum is not. The two are
    answered, and afterwards there is room again."""
    large = json.dumps(body(arguments={"prompts": ["x" * (50 << 20)]})).encode()
    may_end = anyio.Event()
    statuses: list[int] = []
    async with gateway(tmp_path) as (client, token):
        client.timeout = httpx.Timeout(60)

        async def ask_and_pause(*, task_status: TaskStatus[None]) -> None:
            async def content() -> AsyncIterator[bytes]:
                yield large[:-1]
                task_status.started()
                await may_end.wait()
                yield large[-1:]

            reply = await client.post("/host-calls", content=content(), headers=bearer(token))
            statuses.append(reply.status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                await tasks.start(ask_and_pause)
            with contextlib.suppress(httpx.TransportError):  # refused and closed while it was still sending
                refused = await client.post("/host-calls", content=large, headers=bearer(token))
                assert refused.status_code == 413
            assert statuses == []
            may_end.set()
        assert statuses == [200, 200]
        assert (await client.post("/host-calls", json=body(), headers=bearer(token))).status_code == 200


async def test_the_socket_of_a_killed_replica_is_taken_away_and_a_living_ones_is_not() -> None:
    """Replicas that share a data directory each have a socket of their own; what a dead one left goes at a start."""
    with tempfile.TemporaryDirectory(prefix="rlm-gateways-") as name:
        directory = Path(name)
        left = directory / "gateway-0123456789abcdef.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(left))
        app = gateway_app(Grants(time.time))
        async with serve_gateway(app, directory) as first, serve_gateway(app, directory) as second:
            assert set(os.listdir(directory)) == {first.name, second.name}
            for path in (first, second):
                transport = httpx.AsyncHTTPTransport(uds=str(path))
                async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                    assert (await client.get("/")).status_code in {401, 404}
        assert os.listdir(directory) == []


@pytest.mark.parametrize(
    "endless",
    [b"", b"x-padding: ", b"content-length: 5\r\nx-padding: ", b"transfer-encoding: chunked\r\n\r\n1;"],
    ids=["a target", "a header", "a header of a request with a body", "a chunk's extension"],
)
async def test_what_is_around_a_body_has_an_end(tmp_path: Path, endless: bytes) -> None:
    """A head or a chunk's framing without an end is refused after 64 KiB or a little more, its connection closed."""
    begins = b"POST /" if not endless else b"POST /host-calls HTTP/1.1\r\nhost: gateway\r\n" + endless
    async with gateway(tmp_path) as (client, token):
        (name,) = os.listdir(tmp_path)
        async with await anyio.connect_unix(tmp_path / name) as stream:
            sent = len(begins)
            with anyio.fail_after(60), contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(begins)
                while sent < 64 << 20:
                    await stream.send(b"x" * (64 << 10))
                    sent += 64 << 10
        assert sent < 4 << 20
        assert (await client.post("/host-calls", json=body(), headers=bearer(token))).status_code == 200


async def test_a_body_in_pieces_of_one_byte_is_read(tmp_path: Path) -> None:
    """Framing counts against a request only where it is more than its body needs."""
    whole = json.dumps(body(arguments={"prompts": ["x" * 30_000], "model": None, "schema": None})).encode()

    async def bytes_one_by_one() -> AsyncIterator[bytes]:
        for at in range(len(whole)):
            yield whole[at : at + 1]

    async with gateway(tmp_path) as (client, token):
        reply = await client.post("/host-calls", content=bytes_one_by_one(), headers=bearer(token))
        assert reply.status_code == 200


@pytest.mark.parametrize("piece", [b"[],", b"1.5,", '"é",'.encode(), b'{"a":0},'])
async def test_a_body_of_countless_values_is_not_decoded(tmp_path: Path, piece: bytes) -> None:
    """It is refused for the number of its values, and takes little more memory than its bytes."""
    begin, end = b'{"cell_id":"x","function":"budget","ordinal":0,"arguments":{"prompts":[', b"0]}}"
    content = begin + piece * ((16 << 20) // len(piece)) + end
    async with gateway(tmp_path) as (client, token):
        restart_peak()
        before = resident_bytes()
        reply = await client.post("/host-calls", content=content, headers=bearer(token))
        assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
        assert peak_bytes() - before < 10 * len(content)


async def test_a_schema_of_countless_values_is_not_looked_at(tmp_path: Path) -> None:
    """Where a call asks for an answer of a shape, the shape's values count too."""
    asked = body(arguments={"prompts": ["x"], "model": None, "schema": {"enum": [1] * MAX_HOST_CALL_VALUES}})
    async with gateway(tmp_path) as (client, token):
        assert (await client.post("/host-calls", json=asked, headers=bearer(token))).status_code == 413


async def test_calls_that_are_refused_come_to_an_end(tmp_path: Path) -> None:
    """After so many that were no host calls nothing more is read of a run, nor answered."""
    async with gateway(tmp_path, most_unpaid=3) as (client, token):
        for _ in range(3):
            assert (await client.post("/host-calls", json={}, headers=bearer(token))).status_code == 400
        for content in (b"{}", json.dumps(body()).encode()):
            reply = await client.post("/host-calls", content=content, headers=bearer(token))
            assert (reply.status_code, reply.json()["code"]) == (409, "host_call_refused")


async def test_calls_that_their_maker_refuses_come_to_an_end_too(tmp_path: Path) -> None:
    """What has the form of a call and asks for what cannot be is counted like what has not."""
    async with gateway(tmp_path, most_unpaid=3) as (client, token):
        for ordinal in range(3):
            asked = body(ordinal=ordinal, arguments={"prompts": None})
            assert (await client.post("/host-calls", json=asked, headers=bearer(token))).status_code == 400
        reply = await client.post("/host-calls", json=body(), headers=bearer(token))
        assert (reply.status_code, reply.json()["code"]) == (409, "host_call_refused")
