"""Request bodies: bounded in size, time and number."""

import json
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import pytest

from service.contexts.json_counts import MOST_VALUES
from service.ids import TenantId
from service.web import bodies
from service.web.bodies import NATIVE_BODY_BYTES, Pace
from service.web.inbound import Inbound, ReplicaBusy
from tests.web.serving import Served
from tests.web.test_callers import exchange

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


async def test_too_large_a_body_is_refused_as_soon_as_it_is_known(it: Served) -> None:
    """By what it announces, and else by what comes; the refusal says where large things go."""
    announced = await it.client.post("/v1/runs", content=b"x" * (NATIVE_BODY_BYTES + 1), headers=JSON)
    assert (announced.status_code, announced.json()["code"]) == (413, "request_too_large")
    assert announced.json()["data"]["upload"] == bodies.UPLOADS
    secret = it.client.headers["authorization"].encode()
    head = b"POST /v1/runs HTTP/1.1\r\nhost: x\r\nauthorization: %s\r\ncontent-type: application/json\r\n" % secret
    with anyio.fail_after(60):
        found = await anyio.to_thread.run_sync(
            exchange, it.address, head + b"content-length: 99999999999999999999\r\n\r\n"
        )
    assert found.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_is_given_up(it: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a key and sends half a body is told so and let go."""
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.2)
    secret = it.client.headers["authorization"].encode()
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: %s\r\ncontent-type: %s\r\ncontent-length: 100\r\n\r\n{"
    for path, kind in ((b"/v1/runs", b"application/json"), (b"/v1/contexts", b"text/plain")):
        with anyio.fail_after(60):
            found = await anyio.to_thread.run_sync(exchange, it.address, head % (path, secret, kind))
        assert found.startswith(b"HTTP/1.1 408 "), path
        assert b'"code":"request_timeout"' in found.replace(b" ", b"")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"nonsense", 400),
        (b'{"question": NaN}', 400),
        (b'{"question": "\\ud800"}', 400),
        (b"[" * 50_000, 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b'{"question": 1' + b"0" * 5000 + b"}", 400),
        (json.dumps({"question": "?", "root_model": "m", "unknown": 1}).encode(), 422),
    ],
)
async def test_what_is_no_submission_is_refused_whatever_it_is(it: Served, body: bytes, status: int) -> None:
    """Malformed, deep, with numbers and characters that there are not: one sentence, never a failure."""
    reply = await it.client.post("/v1/runs", content=body, headers=JSON)
    assert reply.status_code == status, reply.text
    assert len(reply.text) < 4000


async def test_a_body_must_say_what_it_is(it: Served) -> None:
    """Neither an unknown type nor a compressed one is guessed at."""
    for headers in ({"content-type": "text/html"}, JSON | {"content-encoding": "gzip"}):
        reply = await it.client.post("/v1/runs", content=b"{}", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


async def test_a_large_body_is_decoded(it: Served) -> None:
    """Megabytes of JSON arrive whole."""
    text = "ä" * (3 << 20)
    reply = await it.client.post("/v1/contexts", json={"text": text})
    assert reply.json()["length"] == len(text)


def test_a_tenant_holds_no_more_than_it_leaves_to_the_others() -> None:
    """Beyond it its requests are told to come back, and another's are not; whatever was held is given back."""
    inbound = Inbound(limit_bytes=16)
    with inbound.share(TenantId("one")) as first, inbound.share(TenantId("one")) as second:
        first.hold(6)
        second.hold(2)
        with pytest.raises(ReplicaBusy):
            second.hold(1)
        with inbound.share(TenantId("other")) as third:
            third.hold(4)
            with pytest.raises(ReplicaBusy):
                third.hold(1)
    assert inbound.held_bytes == 0
    with inbound.share(TenantId("one")) as again:
        again.hold(8)


def test_what_came_fast_buys_no_later_rest() -> None:
    """However much came before, the next bytes have as long as the first had."""
    pace = Pace()
    pace.take(64 << 20, 1.0)
    assert pace.patience_s == bodies.PATIENCE_S
    for _ in range(4):
        pace.take(1, bodies.PATIENCE_S / 4)
    assert pace.patience_s == 0
    pace.take(int(bodies.PATIENCE_S * bodies.LEAST_BYTES_PER_S), 0)
    assert pace.patience_s == bodies.PATIENCE_S


async def test_an_import_holds_what_came_of_it(it: Served) -> None:
    """Heads of imports whose bodies never come keep nobody from sending theirs."""
    secret = it.client.headers["authorization"].encode()
    head = b"POST /v1/runs:import HTTP/1.1\r\nhost: x\r\nauthorization: %s\r\n" % secret
    head += b"content-type: application/jsonl\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    host, _, port = it.address.removeprefix("http://").rpartition(":")
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            for _ in range(5):
                stream = await stack.enter_async_context(await anyio.connect_tcp(host, int(port)))
                await stream.send(head)
                assert (await stream.receive()).startswith(b"HTTP/1.1 100 ")  # so its body is waited for
            reply = await it.client.post("/v1/contexts", json={"text": "x" * (1 << 20)})
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/v1/chat/completions", b'{"model": "m", "messages": [', b"]}"),
        ("/v1/contexts", b'{"texts": [', b"]}"),
        ("/v1/runs", b'{"question": "?", "contexts": [', b"]}"),
    ],
)
async def test_a_body_of_too_many_values_is_refused_before_it_is_decoded(
    it: Served, path: str, before: bytes, after: bytes
) -> None:
    """Each would be an object in memory: 413, and where to take so many. As many commas in one text are fine."""
    many = b",".join([b"{}"] * MOST_VALUES)
    refused = await it.client.post(path, content=before + many + after, headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_values")
    assert refused.json()["data"] == {"limit": MOST_VALUES, "upload": bodies.UPLOADS}
    text = json.dumps("{}," * MOST_VALUES).encode()
    assert (await it.client.post(path, content=before + text + after, headers=JSON)).status_code != 413


async def test_a_large_body_is_refused_in_the_same_words_as_a_small_one(it: Served) -> None:
    """Though it is checked elsewhere: the same places, the same messages."""
    for path, wrong in (("/v1/runs", {"question": 1, "unknown": 2}), ("/v1/messages", {"model": "m", "messages": 3})):
        small = await it.client.post(path, json=wrong)
        large = await it.client.post(path, json=wrong | {"pad": "x" * (2 * bodies.INLINE_BYTES)})
        assert (small.status_code, large.status_code) == (422, 422)
        if path == "/v1/runs":
            told = {each["at"]: each["message"] for each in small.json()["data"]["errors"]}
            assert told.items() < {each["at"]: each["message"] for each in large.json()["data"]["errors"]}.items()
        else:
            assert small.json()["error"] == large.json()["error"]
