"""Replies of many small values cost the orchestrator neither memory nor time: they are counted before they are read."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from sandbox_image.protocol import MAX_CONTROL_BODY_BYTES, MAX_REPLY_VALUES
from service.sandboxes import replies
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.port import SandboxGone
from service.sandboxes.sandbox import Sandbox
from tests.sandboxes.scripted import cell_reply, http, ok
from tests.sandboxes.test_hostile_peer import CELL, on, run, scene

MOST_BYTES = 96 << 20
"""Of real memory, the peer's copies of its own reply included: it runs in this process."""


def filled(begin: bytes, again: bytes, end: bytes) -> bytes:
    """A reply as long as one may be."""
    return begin + again * ((MAX_CONTROL_BODY_BYTES - len(begin) - len(end)) // len(again)) + end


STRUCTURES: dict[str, bytes] = {
    "a list of the wrong type": filled(b'{"variables":[0', b",0", b"]}"),
    "empty lists": filled(b'{"variables":[[]', b",[]", b"]}"),
    "empty objects": filled(b'{"files":[{}', b",{}", b"]}"),
    "names": filled(b'{"variables":["a"', b',"a"', b"]}"),
    "a field that nobody asked for": filled(b'{"variables":[],"junk":[1.5', b",1.5", b"]}"),
    "fields that nobody asked for": filled(b'{"variables":[]', b',"a":0', b"}"),
    "values behind a surrogate": filled(b'{"detail":"\\ud800","variables":[0', b",0", b"]}"),
}
ASKED: dict[str, tuple[str, str, Callable[[Sandbox], Awaitable[object]]]] = {
    "a cell": ("PUT", "/cells", run),
    "variables": ("GET", "/variables", lambda sandbox: sandbox.variables()),
    "bindings": ("POST", "/bind", lambda sandbox: sandbox.bind([], {})),
    "files": ("GET", "/files", lambda sandbox: sandbox.files.list()),
    "stats": ("GET", "/stats", lambda sandbox: sandbox.stats()),
}


@pytest.mark.anyio
@pytest.mark.parametrize("body", STRUCTURES.values(), ids=STRUCTURES.keys())
@pytest.mark.parametrize(("method", "path", "ask"), ASKED.values(), ids=ASKED.keys())
async def test_a_reply_of_countless_values_is_not_read(
    data: Path, method: str, path: str, ask: Callable[[Sandbox], Awaitable[object]], body: bytes
) -> None:
    """Whatever is asked, a reply of more values than any has ends its sandbox, and takes little more memory than its
    bytes."""
    async with scene(data, on(method, path, http(200, body))) as it:
        restart_peak()
        before = resident_bytes()
        with pytest.raises(SandboxGone, match=f"more than {MAX_REPLY_VALUES} values"):
            await ask(it.sandbox)
        assert peak_bytes() - before < MOST_BYTES


@pytest.mark.anyio
async def test_an_error_of_countless_values_is_not_read(data: Path) -> None:
    """What a sandbox refuses with is bounded like what it answers with."""
    body = STRUCTURES["a field that nobody asked for"]
    async with scene(data, on("PUT", "/cells", http(500, body))) as it:
        with pytest.raises(SandboxGone, match=f"more than {MAX_REPLY_VALUES} values"):
            await run(it.sandbox)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "reply",
    [
        cell_reply(CELL, junk=1),
        cell_reply(CELL, stdout={"head": "", "tail": "", "size_bytes": 0, "junk": 1}),
        cell_reply(CELL, status="raised", raised={"type_name": "E", "message": "", "traceback": "", "junk": 1}),
    ],
)
async def test_a_field_too_many_ends_the_sandbox(data: Path, reply: object) -> None:
    """What the protocol does not name is refused, at every depth of a reply."""
    async with scene(data, on("PUT", "/cells", ok(reply))) as it:
        with pytest.raises(SandboxGone, match=r"outside the schema, at .*junk"):
            await run(it.sandbox)


def test_where_much_is_wrong_the_errors_are_not_made() -> None:
    """Within the bound on values a reply may still be wrong in thousands of places: one sentence says so."""
    body = b'{"variables":[' + b",".join([b"0"] * 9_000) + b"]}"
    with pytest.raises(ProtocolBroken, match="in many places"):
        replies.parse(replies.VARIABLES, body)


def test_the_longest_honest_reply_is_within_the_bound() -> None:
    """As many variables as can be bound are read."""
    one = b'{"name":"a,[{b","type_name":"str","size":1}'
    body = b'{"variables":[' + b",".join([one] * replies.MAX_BOUND_VARIABLES) + b"]}"
    assert len(replies.parse(replies.BIND, body).variables) == replies.MAX_BOUND_VARIABLES
