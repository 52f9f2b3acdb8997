"""A sandbox that misbehaves is killed and its caller told, whatever it does."""

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import CellId
from service.sandboxes.opening import open_sandbox
from service.sandboxes.patience import Patience
from service.sandboxes.port import Measured, SandboxGone, Template
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.values import (
    Beginning,
    BindRefused,
    SandboxBusy,
    ValueMissing,
    ValueTooLarge,
    ValueUnserialisable,
)
from tests.sandboxes.scripted import (
    CAPTURED,
    Request,
    Script,
    ScriptedProvider,
    Stream,
    cell_reply,
    honest,
    http,
    ok,
    refusal,
    value,
)

pytestmark = pytest.mark.anyio

CELL = CellId("run_1.t1.b0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    sandbox: Sandbox
    provider: ScriptedProvider

    def asked(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.provider.requests]


@asynccontextmanager
async def scene(data: Path, script: Script = honest) -> AsyncIterator[Scene]:
    """A claimed scripted sandbox, and a client of little patience."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        provider = ScriptedProvider(tasks=tasks, script=script)
        sandbox = await open_sandbox(
            tasks,
            provider,
            Template(),
            sessions=data / "sessions",
            gateway_socket=None,
            hash_seed=1,
            patience=Patience(margin_s=0.1, sample_s=0.01),
        )
        await sandbox.claim(generation=3, grant="g", random_seed=1)
        try:
            yield Scene(sandbox=sandbox, provider=provider)
        except BaseException as exc:  # noqa: BLE001 - goes on below, without the task group's wrapping
            failure = exc
        await sandbox.kill()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def on(method: str, path: str, answer: bytes | Script) -> Script:
    """Honest but for one request."""

    async def script(request: Request, stream: Stream) -> None:
        if request.method != method or not request.target.startswith(path):
            await honest(request, stream)
        elif isinstance(answer, bytes):
            await stream.send(answer)
        else:
            await answer(request, stream)

    return script


async def run(sandbox: Sandbox, wall_limit_s: float = 5.0, active_limit_s: float = 1000) -> object:
    return await sandbox.run_cell(CELL, "1", active_limit_s=active_limit_s, wall_limit_s=wall_limit_s, grace_s=0.1)


async def read(sandbox: Sandbox, limit_bytes: int = 100) -> bytes:
    async with sandbox.read_value("answer", as_="text", limit_bytes=limit_bytes) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


BAD_CELL_REPLIES: dict[str, object] = {
    "the result of another cell": cell_reply("run_1.t9.b9"),
    "an unknown status": cell_reply(CELL, status="splendid"),
    "a status that is a class path": cell_reply(CELL, status="os.system"),
    "a number as a string": cell_reply(CELL, wall_s="0.1"),
    "a truth value as a number": cell_reply(CELL, namespace_lost=1),
    "not a number": cell_reply(CELL, wall_s=float("nan")),
    "an infinite time": cell_reply(CELL, active_s=float("inf")),
    "a negative time": cell_reply(CELL, active_s=-1.0),
    "a negative size": cell_reply(CELL, stdout={**CAPTURED, "size_bytes": -1}),
    "a size beyond any disk": cell_reply(CELL, stdout={**CAPTURED, "size_bytes": 1 << 80}),
    "an output over its bound": cell_reply(CELL, stdout={**CAPTURED, "head": "x" * (1 << 20)}),
    "a name over its bound": cell_reply(CELL, variables=["x" * 201]),
    "too many variables": cell_reply(CELL, variables=["x"] * 201),
    "a digest that is none": cell_reply(
        CELL, answer={"ready": True, "type_name": "str", "size_bytes": 1, "sha256": "../../etc"}
    ),
    "raised without an exception": cell_reply(CELL, status="raised"),
    "an exception in a good cell": cell_reply(CELL, raised={"type_name": "E", "message": "", "traceback": ""}),
    "a traceback over its bound": cell_reply(
        CELL, status="raised", raised={"type_name": "E", "message": "", "traceback": "x" * 50_000}
    ),
    "a field missing": {"cell_id": CELL, "status": "ok"},
    "a list": [],
    "null": None,
}

BAD_ANSWERS: dict[str, bytes] = {
    "no HTTP": b"hello\r\n\r\n",
    "the stream's end": b"",
    "half an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
    "a redirect": http(302, b"", "location: http://127.0.0.1/"),
    "an informational answer only": b"HTTP/1.1 101 x\r\n\r\n",
    "no content": http(204, b""),
    "a gzip body": http(200, b"\x1f\x8b", "content-encoding: gzip"),
    "a header twice": http(200, b"{}", "x-rlm-type: a", "x-rlm-type: b"),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    "both framings": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that lies": http(200, b"{}").replace(b"content-length: 2", b"content-length: 9000000"),
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "a hundred thousand headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000,
    "nothing but depth": http(200, b"[" * 100_000),
    "a million keys": http(200, b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}"),
    "depth behind a surrogate": http(200, b'"\\ud800"' + b"[" * 100_000),
    "bytes that are no UTF-8": http(200, b'{"detail": "\xff"}'),
    "an unknown error": http(500, b'{"code": "builtins.SystemExit", "message": ""}'),
    "an error that is none": http(500, b"oops"),
    "an error nobody expects of a cell": refusal(500, "internal", "x"),
}


@pytest.mark.parametrize("reply", BAD_CELL_REPLIES.values(), ids=BAD_CELL_REPLIES.keys())
async def test_a_cell_reply_outside_the_schema_ends_the_sandbox(data: Path, reply: object) -> None:
    """Whatever a cell reply says beyond schema and bounds, the caller gets SandboxGone and the sandbox is killed."""
    async with scene(data, on("PUT", "/cells", ok(reply))) as it:
        with pytest.raises(SandboxGone):
            await run(it.sandbox)
        assert not it.provider.processes[0].is_running
        assert not it.sandbox.directory.exists()


async def _send_and_close(stream: Stream, answer: bytes) -> None:
    await stream.send(answer)
    stream.close()


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_an_answer_that_is_not_the_protocol_ends_the_sandbox(data: Path, answer: bytes) -> None:
    """Bad framing, encodings, redirects, bombs and unknown errors all end in SandboxGone, none in anything else."""

    async def script(request: Request, stream: Stream) -> None:
        await _send_and_close(stream, answer)

    async with scene(data, on("PUT", "/cells", script)) as it:
        with pytest.raises(SandboxGone):
            await run(it.sandbox)
        assert not it.provider.processes[0].is_running


async def test_a_slow_drip_meets_the_total_deadline(data: Path) -> None:
    """A peer that sends one byte at a time for ever is cut off by the deadline over the whole exchange."""

    async def drip(request: Request, stream: Stream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8000000\r\n\r\n")
        while True:
            await stream.send(b" ")
            await anyio.sleep(0.01)

    async with scene(data, on("PUT", "/cells", drip)) as it:
        with pytest.raises(SandboxGone, match="no complete answer within"):
            await run(it.sandbox, wall_limit_s=0.1)


FLOODS: dict[str, tuple[bytes, bytes, str]] = {
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n", b"1\r\nx\r\n" * 9000, "transfer encoding"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, "a final status"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 9000, "head of more than"),
    "folded lines": (b"HTTP/1.1 200 OK\r\na: b\r\n", b" c\r\n" * 9000, "head of more than"),
    "an older HTTP": (b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 60_000, "a final status"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 60_000, "without its length"),
}


@pytest.mark.parametrize(("begin", "again", "reason"), FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize(("method", "path"), [("PUT", "/cells"), ("GET", "/values")])
async def test_a_flood_is_refused_at_its_first_bytes(
    data: Path, begin: bytes, again: bytes, reason: str, method: str, path: str
) -> None:
    """What costs a parser time without end is refused by its form, before the parser and long before the deadline."""

    async def flood(request: Request, stream: Stream) -> None:
        await stream.send(begin)
        while True:
            await stream.send(again)

    async with scene(data, on(method, path, flood)) as it:
        with pytest.raises(SandboxGone, match=reason):
            await (run(it.sandbox, 1000) if method == "PUT" else read(it.sandbox))


async def test_an_answer_in_tiny_pieces_is_cut_off(data: Path) -> None:
    """Byte by byte a body needs so many reads that it is refused, whatever its deadline."""

    async def crumbs(request: Request, stream: Stream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8000\r\n\r\n")
        while True:
            await stream.send(b" ")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()

    async with scene(data, on("PUT", "/cells", crumbs)) as it:
        with pytest.raises(SandboxGone, match="too many pieces"):
            await run(it.sandbox, wall_limit_s=1000)


async def test_two_answers_to_one_request_do_not_shift_the_next(data: Path) -> None:
    """A second, unasked answer is never taken for the answer to a later cell."""
    first = True

    async def twice(request: Request, stream: Stream) -> None:
        nonlocal first
        cell_id = request.target.rpartition("/")[2]
        extra = ok(cell_reply(cell_id, detail="unasked")) if first else b""
        first = False
        await stream.send(ok(cell_reply(cell_id, detail="asked")) + extra)

    async with scene(data, on("PUT", "/cells", twice)) as it:
        await run(it.sandbox)
        with pytest.raises(SandboxGone):
            await it.sandbox.run_cell(CellId("run_1.t2.b0"), "1", active_limit_s=1, wall_limit_s=1)


async def test_the_end_of_the_process_is_the_end_of_the_call(data: Path) -> None:
    """A caller waiting for a cell learns at once that the sandbox died."""

    async def die(request: Request, stream: Stream) -> None:
        it.provider.processes[0].end()

    async with scene(data, on("PUT", "/cells", die)) as it:
        with pytest.raises(SandboxGone):
            await run(it.sandbox, wall_limit_s=1000)


async def test_a_used_up_stream_is_replaced_by_the_next(data: Path) -> None:
    """When the peer closes after an answer and redials, the next request goes over the new stream."""

    async def close_after(request: Request, stream: Stream) -> None:
        await stream.send(ok({"variables": []}))
        stream.close()

    async with scene(data, on("GET", "/variables", close_after)) as it:
        assert [await it.sandbox.variables() for _ in range(5)] == [[]] * 5


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, "not_found"), ValueMissing),
        (refusal(413, "too_large"), ValueTooLarge),
        (refusal(422, "unserialisable"), ValueUnserialisable),
    ],
)
async def test_a_value_that_cannot_be_read_leaves_the_sandbox_alive(
    data: Path, answer: bytes, error: type[Exception]
) -> None:
    """Missing, too large and unserialisable are told apart, and the sandbox goes on."""
    async with scene(data, on("GET", "/values", answer)) as it:
        with pytest.raises(error):
            await read(it.sandbox)
        assert it.sandbox.is_running
        await run(it.sandbox)


BAD_VALUES: dict[str, bytes] = {
    "bytes that are not what the digest says": value(b"content", sha256="0" * 64),
    "more bytes than asked for": value(b"x" * 101),
    "no digest": http(200, b"x", "x-rlm-type: str"),
    "no type": http(200, b"x", f"x-rlm-sha256: {'0' * 64}"),
    "a type over its bound": value(b"x", type_name="y" * 300),
    "no length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BAD_VALUES.values(), ids=BAD_VALUES.keys())
async def test_a_value_that_breaks_the_protocol_ends_the_sandbox(data: Path, answer: bytes) -> None:
    """A value is refused when its digest, its size or its headers are not what they must be."""
    async with scene(data, on("GET", "/values", answer)) as it:
        with pytest.raises(SandboxGone):
            await read(it.sandbox)
        assert not it.sandbox.is_running


async def test_what_a_consumer_leaves_unread_is_verified_all_the_same(data: Path) -> None:
    """Leaving a value early does not hide that its bytes are not what the digest says."""
    async with scene(data, on("GET", "/values", value(b"x" * 1_000_000, sha256="0" * 64))) as it:
        with pytest.raises(SandboxGone, match="digest"):
            async with it.sandbox.read_value("answer", as_="text", limit_bytes=1_000_000) as stream:
                await anext(stream.chunks)


async def test_a_busy_sandbox_is_left_alone(data: Path) -> None:
    """Asking for variables while a cell runs is told to try again, and ends nothing."""
    started, asked = anyio.Event(), anyio.Event()

    async def busy(request: Request, stream: Stream) -> None:
        if request.method == "PUT":
            started.set()
            await asked.wait()
            await honest(request, stream)
        elif request.target == "/variables":
            await stream.send(refusal(409, "busy"))
        else:
            await honest(request, stream)

    async with scene(data, busy) as it:
        async with anyio.create_task_group() as callers:
            callers.start_soon(run, it.sandbox)
            await started.wait()
            with pytest.raises(SandboxBusy):
                await it.sandbox.variables()
            asked.set()
        assert it.sandbox.is_running


async def test_a_sandbox_that_is_busy_with_nothing_is_ended(data: Path) -> None:
    """No cell, binding or value is refused for a cell that we did not send: its run could not go on, a rebuild can."""
    for method, path, ask in (
        ("PUT", "/cells", run),
        ("GET", "/values", read),
        ("POST", "/bind", lambda sandbox: sandbox.bind([], {})),
        ("GET", "/variables", lambda sandbox: sandbox.variables()),
    ):
        async with scene(data, on(method, path, refusal(409, "busy"))) as it:
            with pytest.raises(SandboxGone, match="busy"):
                await ask(it.sandbox)
            assert not it.provider.processes[0].is_running


async def test_an_error_of_the_consumer_is_the_consumers(data: Path) -> None:
    """A TimeoutError raised while a value is consumed is not taken for a late sandbox."""
    async with scene(data, on("GET", "/values", value(b"x" * 1_000_000))) as it:
        with pytest.raises(TimeoutError, match="mine"):
            async with it.sandbox.read_value("answer", as_="text", limit_bytes=1_000_000):
                raise TimeoutError("mine")
        assert it.sandbox.is_running


async def test_what_cannot_be_bound_is_refused_in_one_clean_line(data: Path) -> None:
    """The sandbox's message about a binding reaches the caller without control characters and bounded."""
    async with scene(data, on("POST", "/bind", refusal(400, "bad_request", "line\n\x1b[31m" + "x" * 5000))) as it:
        with pytest.raises(BindRefused) as caught:
            await it.sandbox.bind([], {})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
        assert it.sandbox.is_running


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"refused": {"code": "busy", "message": "m"}},
        {"bound": {"variables": [{"name": "x" * 1000, "type_name": "str", "size": -1}]}},
    ],
)
async def test_a_claim_that_does_not_say_what_it_bound_ends_the_sandbox(data: Path, said: dict[str, object]) -> None:
    """A sandbox that was to begin with bindings tells what it bound, or why not, in words of the protocol."""
    claimed = ok({"python": "3.11", "confinement": [], **said})
    async with anyio.create_task_group() as tasks:
        provider = ScriptedProvider(tasks=tasks, script=on("POST", "/claim", claimed))
        sandbox = await open_sandbox(
            tasks, provider, Template(), sessions=data / "sessions", gateway_socket=None, hash_seed=1
        )
        beginning = Beginning(bindings=[], files={}, starts_run=True)
        with pytest.raises(SandboxGone):
            await sandbox.claim(generation=3, grant="g", random_seed=1, beginning=beginning)
        assert not provider.processes[0].is_running
        tasks.cancel_scope.cancel()


async def test_a_finished_cell_is_acknowledged_by_the_next_and_not_by_itself(data: Path) -> None:
    """The same cell asked again does not make the sandbox forget it; another cell does."""
    async with scene(data) as it:
        await run(it.sandbox)
        await run(it.sandbox)
        await it.sandbox.run_cell(CellId("run_1.t2.b0"), "1", active_limit_s=1, wall_limit_s=1)
        puts = [request.json["acknowledges"] for request in it.provider.requests if request.method == "PUT"]
        assert puts == [None, None, CELL]


async def test_a_cancelled_caller_interrupts_its_cell_and_keeps_the_stream(data: Path) -> None:
    """Cancelling the caller sends an interrupt and waits for the cell's end; the result is there for the next asker."""
    interrupted = anyio.Event()
    started = anyio.Event()

    async def until_interrupted(request: Request, stream: Stream) -> None:
        if request.target == "/interrupt":
            interrupted.set()
            await stream.send(ok({}))
        elif request.method == "PUT":
            started.set()
            await interrupted.wait()
            await stream.send(ok(cell_reply(CELL, detail="interrupted")))
        else:
            await honest(request, stream)

    async with scene(data, until_interrupted) as it:
        async with anyio.create_task_group() as callers:
            callers.start_soon(run, it.sandbox, 1000)
            await started.wait()
            callers.cancel_scope.cancel()
        assert it.asked()[-1] == "POST /interrupt"
        assert it.sandbox.is_running
        assert await run(it.sandbox)


async def test_a_cancelled_caller_whose_cell_goes_on_takes_the_sandbox_with_it(data: Path) -> None:
    """A cell that ignores the interrupt does not outlive its caller."""
    started = anyio.Event()

    async def never(request: Request, stream: Stream) -> None:
        started.set()
        await anyio.sleep_forever()

    async with scene(data, on("PUT", "/cells", never)) as it:
        async with anyio.create_task_group() as callers:
            callers.start_soon(run, it.sandbox, 1000)
            await started.wait()
            callers.cancel_scope.cancel()
        assert not it.provider.processes[0].is_running


async def never_answers(request: Request, stream: Stream) -> None:
    await anyio.sleep_forever()


async def test_a_supervisor_that_lets_a_cell_run_on_is_ended_by_the_clock_out_here(data: Path) -> None:
    """A cell that neither ends nor makes host calls is over at its active limit, not at the end of its run."""
    async with scene(data, on("PUT", "/cells", never_answers)) as it:
        with pytest.raises(SandboxGone, match=r"may be active for 0\.05 s and was for"):
            await run(it.sandbox, wall_limit_s=100_000, active_limit_s=0.05)
        assert not it.provider.processes[0].is_running


async def test_a_cell_that_spins_beside_a_host_call_is_ended_by_its_cpu_time(data: Path) -> None:
    """CPU time of the sandbox counts though a host call is in flight, and also that of processes that have ended."""
    async with scene(data, on("PUT", "/cells", never_answers)) as it:
        it.provider.processes[0].cpu_readings = itertools.cycle([100.0, None, 100.1, 3.0])
        with pytest.raises(SandboxGone, match="of CPU time"):
            await it.sandbox.run_cell(
                CELL, "1", active_limit_s=0, wall_limit_s=100_000, grace_s=1, is_waiting=lambda: True
            )


async def test_what_a_sandbox_used_is_known_when_it_was_killed_for_its_answer(data: Path) -> None:
    """A sandbox that breaks the protocol is measured before it is killed, and what it says of itself counts nothing."""
    async with scene(data, on("PUT", "/cells", ok(cell_reply("run_1.t9.b9", cpu_s=0.0)))) as it:
        it.provider.processes[0].cpu_readings = itertools.repeat(7.0)
        it.provider.processes[0].memory_peak_bytes = 1 << 20
        with pytest.raises(SandboxGone):
            await run(it.sandbox)
        assert it.sandbox.seen == Measured(cpu_s=7.0, memory_peak_bytes=1 << 20)


async def test_a_cell_may_wait_for_its_host_calls(data: Path) -> None:
    """Past every limit on its active time a cell goes on while its host calls are in flight."""
    samples = 0
    waited_long = anyio.Event()

    def is_waiting() -> bool:
        nonlocal samples
        samples += 1
        if samples == 30:
            waited_long.set()
        return True

    async def after_waiting(request: Request, stream: Stream) -> None:
        await waited_long.wait()
        await stream.send(ok(cell_reply(CELL)))

    async with scene(data, on("PUT", "/cells", after_waiting)) as it:
        await it.sandbox.run_cell(CELL, "1", active_limit_s=0, wall_limit_s=1000, grace_s=0.1, is_waiting=is_waiting)
        assert it.sandbox.is_running


async def test_a_caller_that_leaves_while_a_sandbox_wakes_leaves_it_awake(data: Path) -> None:
    """The next one finds it running, and does not wake it again."""
    async with scene(data) as on_stage, anyio.create_task_group() as tasks:
        (process,) = on_stage.provider.processes
        await on_stage.sandbox.pause()
        process.may_unpause = anyio.Event()
        caller = anyio.CancelScope()

        async def ask() -> None:
            with caller:
                await on_stage.sandbox.variables()

        tasks.start_soon(ask)
        await process.is_unpausing.wait()
        caller.cancel()
        process.may_unpause.set()
        assert await on_stage.sandbox.variables() == []
        assert not on_stage.sandbox.is_paused


async def test_a_cell_took_no_longer_than_the_host_waited(data: Path) -> None:
    """Whatever seconds a sandbox claims, those in the result are within what passed out here, also where the result is
    fetched once more."""
    claimed = ok(cell_reply(CELL, wall_s=1e6, active_s=1e6))
    async with scene(data, on("PUT", "/cells", claimed)) as on_stage:
        began = time.monotonic()
        for _ in range(2):
            result = await on_stage.sandbox.run_cell(CELL, "", active_limit_s=1, wall_limit_s=60)
            assert 0 < result.active_s <= result.wall_s <= time.monotonic() - began


async def test_a_killed_sandbox_says_so_ever_after(data: Path) -> None:
    """Every call after the kill raises SandboxGone, and a second kill is nothing."""
    async with scene(data) as it:
        await it.sandbox.kill()
        await it.sandbox.kill()
        with pytest.raises(SandboxGone):
            await run(it.sandbox)
        with pytest.raises(SandboxGone):
            await it.sandbox.variables()


async def test_a_lone_surrogate_becomes_a_question_mark(data: Path) -> None:
    """Text that no UTF-8 can carry neither ends the sandbox nor reaches the caller."""
    async with scene(data, on("PUT", "/cells", ok(cell_reply(CELL, detail="a\ud800b")))) as it:
        result = await it.sandbox.run_cell(CELL, "1", active_limit_s=1, wall_limit_s=1)
        assert result.detail == "a?b"


async def test_requests_carry_the_generation_once_claimed(data: Path) -> None:
    """The claim goes without a generation, everything after it with the claimed one."""
    async with scene(data) as it:
        await run(it.sandbox)
        assert [request.headers.get("x-rlm-generation") for request in it.provider.requests] == [None, "3"]
        assert {request.headers["accept-encoding"] for request in it.provider.requests} == {"identity"}
