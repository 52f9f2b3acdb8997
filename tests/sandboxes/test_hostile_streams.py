"""What a hostile supervisor may do with a socket beside speaking HTTP on it: pass open files, close half of it, set
cookies, and answer when nobody waits any more."""

import os
from pathlib import Path

import anyio
import pytest

from service.ids import CellId
from service.sandboxes.port import SandboxGone
from tests.sandboxes.scripted import Request, Stream, cell_reply, honest, http, ok
from tests.sandboxes.test_hostile_peer import CELL, on, run, scene

pytestmark = pytest.mark.anyio

ASKED = {"host", "accept-encoding", "content-length", "x-rlm-generation"}
"""The heads that a request may have."""


async def test_passed_descriptors_are_let_go(data: Path) -> None:
    """Open files that come with an answer are nobody's: we hold none of them, and the answer is as good as without."""
    reading, writing = os.pipe()

    async def pass_them(request: Request, stream: Stream) -> None:
        answer = ok({"variables": []})
        stream.pass_descriptors(answer[:10], [writing] * 50)
        await stream.send(answer[10:])

    try:
        async with scene(data, on("GET", "/variables", pass_them)) as it:
            before = len(os.listdir("/proc/self/fd"))
            assert [await it.sandbox.variables() for _ in range(10)] == [[]] * 10
            assert len(os.listdir("/proc/self/fd")) == before
            os.close(writing)
            writing = -1
            assert os.read(reading, 1) == b""  # its end: nobody else has the other one
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


async def test_a_cookie_is_not_brought_back(data: Path) -> None:
    """Whatever an answer's head asks to be remembered, the next request has the same heads as the first."""
    heads = ("set-cookie: a=b; path=/", "alt-svc: h3", "link: </x>; rel=preload", "www-authenticate: Basic")

    async def set_cookies(request: Request, stream: Stream) -> None:
        await stream.send(http(200, b'{"variables": []}', *heads))

    async with scene(data, on("GET", "/variables", set_cookies)) as it:
        assert [await it.sandbox.variables() for _ in range(3)] == [[]] * 3
        await run(it.sandbox)
        asked = [request for request in it.provider.requests if request.target != "/claim"]
        assert len(asked) == 4
        assert all(set(request.headers) <= ASKED | {"content-type"} for request in asked)


async def test_a_stream_that_is_closed_in_one_direction_is_replaced(data: Path) -> None:
    """A whole answer before the half-close is taken, and the next request goes over a new stream."""

    async def close_half(request: Request, stream: Stream) -> None:
        await stream.send(ok({"variables": []}))
        stream.end_sending()

    async with scene(data, on("GET", "/variables", close_half)) as it:
        assert [await it.sandbox.variables() for _ in range(5)] == [[]] * 5
        await run(it.sandbox)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", http(200, b"{}" * 50)[:-1]])
async def test_half_an_answer_before_a_half_close_ends_the_sandbox(data: Path, answer: bytes) -> None:
    """Who ends its direction before an answer is whole is not waited for until a deadline."""

    async def close_half(request: Request, stream: Stream) -> None:
        await stream.send(answer)
        stream.end_sending()
        await anyio.sleep_forever()

    async with scene(data, on("PUT", "/cells", close_half)) as it:
        with pytest.raises(SandboxGone, match=r"ended|broke"):
            await run(it.sandbox, wall_limit_s=100_000)


async def test_an_answer_after_its_asker_has_left_is_nobody_elses(data: Path) -> None:
    """What comes for a cancelled request is not taken for the answer to the next one."""
    asked, has_left = anyio.Event(), anyio.Event()

    async def late(request: Request, stream: Stream) -> None:
        if asked.is_set():
            await stream.send(ok({"variables": []}))
            return
        asked.set()
        await has_left.wait()
        await stream.send(ok({"variables": [{"name": "stale", "type_name": "str", "size": 1}]}))

    async with scene(data, on("GET", "/variables", late)) as it:
        async with anyio.create_task_group() as callers:
            callers.start_soon(it.sandbox.variables)
            await asked.wait()
            callers.cancel_scope.cancel()
        has_left.set()
        assert [await it.sandbox.variables() for _ in range(3)] == [[]] * 3


async def test_a_second_answer_to_a_cancelled_cell_is_not_the_next_ones(data: Path) -> None:
    """Of a cell whose caller left the first answer is kept for whoever asks again; what follows it is never a later
    cell's."""
    started, interrupted = anyio.Event(), anyio.Event()

    async def twice(request: Request, stream: Stream) -> None:
        if request.target == "/interrupt":
            interrupted.set()
        if request.method != "PUT":
            await honest(request, stream)
            return
        cell_id = request.target.rpartition("/")[2]
        if cell_id == CELL:
            started.set()
            await interrupted.wait()
            await stream.send(ok(cell_reply(CELL, detail="interrupted")) + ok(cell_reply(CELL, detail="late")))
        else:
            await stream.send(ok(cell_reply(cell_id, detail="own")))

    async with scene(data, twice) as it:
        async with anyio.create_task_group() as callers:
            callers.start_soon(run, it.sandbox, 1000)
            await started.wait()
            callers.cancel_scope.cancel()
        try:
            result = await it.sandbox.run_cell(CellId("run_1.t2.b0"), "1", active_limit_s=60, wall_limit_s=60)
        except SandboxGone:
            return
        assert result.detail == "own"
