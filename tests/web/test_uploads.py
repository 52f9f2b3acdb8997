"""Uploads that are broken off and gone on with, and what is stored already, over HTTP."""

import base64
import hashlib
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from service.contexts.uploads import MOST_OPEN_OF_KEY
from service.tenants.errors import QuotaExceeded
from service.tenants.storage import StorageLeft
from service.tenants.values import CallerLimits
from service.web.storage_bounds import within_storage
from tests.web.serving import Served
from tests.web.test_callers import exchange

pytestmark = pytest.mark.anyio

TEXT = "line é\n".encode() * 300_000


async def begun(it: Served, **given: object) -> str:
    reply = await it.client.post("/v1/uploads", json={"name": "u", "size_bytes": len(TEXT)} | given)
    assert reply.status_code == 201, reply.text
    location: str = reply.headers["location"]
    return location


async def sent(it: Served, upload: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    return await it.client.patch(upload, content=data, headers={"upload-offset": str(offset)} | headers)


async def test_an_upload_comes_in_pieces_and_becomes_a_context(it: Served) -> None:
    """Each request goes on where the last one ended; with the last byte there is a context of those very bytes."""
    upload = await begun(it)
    assert (await it.client.head(upload)).headers["upload-offset"] == "0"
    first = await sent(it, upload, 0, TEXT[:1_000_001])
    assert (first.json()["offset"], first.json()["context_id"]) == (1_000_001, None)
    head = await it.client.head(upload)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("1000001", str(len(TEXT)))
    wrong = await sent(it, upload, 7, b"x")
    assert (wrong.status_code, wrong.json()["data"]) == (409, {"offset": 1_000_001})
    last = (await sent(it, upload, 1_000_001, TEXT[1_000_001:])).json()
    assert last["offset"] == len(TEXT)
    content = f"/v1/contexts/{last['context_id']}/content"
    whole = await it.client.get(content)
    assert whole.content == TEXT
    part = await it.client.get(content, headers={"range": "bytes=100-109"})
    assert (part.status_code, part.content) == (206, TEXT[100:110])
    assert (await sent(it, upload, len(TEXT), b"")).json() == last
    assert (await it.client.delete(upload)).status_code == 204
    assert (await it.client.head(upload)).status_code == 404
    assert (await it.client.get(content)).status_code == 200


async def test_what_came_before_a_broken_connection_is_kept(it: Served) -> None:
    """A request that breaks off in the middle leaves what had come, and the next goes on from there."""
    upload = await begun(it)
    half = len(TEXT) // 2

    class Gone(Exception):
        """The client's."""

    async def breaking_off() -> AsyncIterator[bytes]:
        yield TEXT[:half]
        with anyio.fail_after(60):  # what a connection carried that ended before anybody read it is gone with it
            while (await it.client.head(upload)).headers["upload-offset"] == "0":
                pass
        raise Gone

    headers = {"upload-offset": "0", "content-length": str(len(TEXT))}
    with pytest.raises(Gone):
        await it.client.patch(upload, content=breaking_off(), headers=headers)
    with anyio.fail_after(60):
        offset = 0
        while not 0 < offset <= half:  # until the service has noticed, and let go of it
            reply = await sent(it, upload, offset, b"")
            offset = reply.json()["offset"] if reply.status_code == 200 else reply.json()["data"].get("offset", 0)
    done = (await sent(it, upload, offset, TEXT[offset:])).json()
    assert (await it.client.get(f"/v1/contexts/{done['context_id']}/content")).content == TEXT


async def test_bytes_that_changed_on_their_way_are_not_kept(it: Served) -> None:
    """A request whose digest does not fit, or that is longer than announced, leaves the upload where it was."""
    upload = await begun(it)
    await sent(it, upload, 0, TEXT[:10])
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    wrong = await sent(it, upload, 10, TEXT[10:20], **{"content-digest": f"sha-256=:{digest}:"})
    assert wrong.json()["code"] == "digest_mismatch"
    assert (await sent(it, upload, 10, TEXT)).status_code == 400
    assert (await it.client.head(upload)).headers["upload-offset"] == "10"


async def test_a_whole_that_is_not_what_was_announced_is_gone(it: Served) -> None:
    """Where all bytes make another digest than announced, or are no text, the upload is refused and forgotten."""
    for given, data in (({"sha256": "0" * 64}, b"abc"), ({}, b"\xff\xfe\xff")):
        upload = await begun(it, size_bytes=3, **given)
        refused = await sent(it, upload, 0, data)
        assert refused.status_code in (400, 422)
        assert (await it.client.head(upload)).status_code == 404


async def test_what_is_stored_need_not_be_sent(it: Served) -> None:
    """A tenant finds its own bytes by their digest, and an upload announced with it is complete at once; another
    tenant is told nothing of them."""
    text = "only mine, and stored once"
    digest = hashlib.sha256(text.encode()).hexdigest()
    plan = {"name": "n", "size_bytes": len(text), "sha256": digest}
    async with it.as_other_tenant() as other:
        assert (await it.client.head(f"/v1/blobs/sha256:{digest}")).status_code == 404
        await it.stored(text)
        assert (await it.client.head(f"/v1/blobs/sha256:{digest}")).status_code == 200
        assert (await other.head(f"/v1/blobs/sha256:{digest}")).status_code == 404
        mine = (await it.client.post("/v1/uploads", json=plan)).json()
        assert mine["offset"] == len(text)
        assert (await it.client.get(f"/v1/contexts/{mine['context_id']}/content")).text == text
        theirs = (await other.post("/v1/uploads", json=plan)).json()
        assert (theirs["offset"], theirs["context_id"]) == (0, None)


async def test_two_tenants_with_the_same_bytes_do_not_share_them(it: Served) -> None:
    """What one tenant deletes the other keeps, and neither sees the other's upload or context."""
    async with it.as_other_tenant() as other:
        mine, theirs = await it.stored("same"), await it.stored("same", other)
        assert mine != theirs
        assert (await other.get(f"/v1/contexts/{mine}/content")).status_code == 404
        assert (await it.client.delete(f"/v1/contexts/{mine}")).status_code == 204
        assert (await other.get(f"/v1/contexts/{theirs}/content")).text == "same"
        upload = await begun(it)
        for reply in (
            await other.head(upload),
            await other.patch(upload, content=b"x", headers={"upload-offset": "0"}),
            await other.delete(upload),
        ):
            assert reply.status_code == 404
        assert (await it.client.head(upload)).headers["upload-offset"] == "0"


async def test_parts_are_read_by_name(it: Served) -> None:
    """Of a context with several parts each can be read; without a name it is asked for."""
    context = (await it.client.post("/v1/contexts", json={"name": "p", "open": True})).headers["location"]
    for name in ("a/b.txt", "c"):
        await it.client.put(f"{context}/parts/{name}", content=f"text of {name}".encode())
    assert (await it.client.post(f"{context}/seal")).status_code == 200
    assert (await it.client.get(f"{context}/content", params={"part": "a/b.txt"})).text == "text of a/b.txt"
    assert (await it.client.get(f"{context}/content")).status_code == 400
    assert (await it.client.get(f"{context}/content", params={"part": "x"})).status_code == 404


async def test_open_uploads_are_bounded(it: Served) -> None:
    """One more than a key may have open is refused, until one is ended; other keys of its tenant begin theirs."""
    plan = {"size_bytes": 10}
    async with it.client_with(await it.secret()) as greedy, it.client_with(await it.secret()) as other:
        opened = [(await greedy.post("/v1/uploads", json=plan)).headers["location"] for _ in range(MOST_OPEN_OF_KEY)]
        refused = await greedy.post("/v1/uploads", json=plan)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_uploads")
        assert (await other.post("/v1/uploads", json=plan)).status_code == 201
        await greedy.delete(opened[0])
        assert (await greedy.post("/v1/uploads", json=plan)).status_code == 201


async def test_what_a_tenant_may_keep_is_bounded(it: Served) -> None:
    """One context, byte or session more than a key may have is refused, leaves nothing, and fits once one is gone."""
    limits = CallerLimits(open_contexts=2, storage_bytes=100, open_sessions=1)
    async with it.client_with(await it.secret(limits=limits)) as client:

        async def store(text: str) -> httpx.Response:
            return await client.post("/v1/contexts", json={"text": text})

        first = (await store("a" * 60)).headers["location"]
        large = await store("b" * 60)
        assert (large.status_code, large.json()["code"], large.json()["data"]["limit_name"]) == (
            429,
            "quota_exceeded",
            "storage_bytes",
        )
        assert (await store("a" * 60)).headers["location"] == first  # it is there: nothing is added
        assert (await store("c")).status_code == 201
        assert (await store("d")).json()["data"]["limit_name"] == "open_contexts"
        assert (await client.post("/v1/contexts", json={"open": True})).status_code == 429
        upload = (await client.post("/v1/uploads", json={"name": "u", "size_bytes": 3})).headers["location"]
        patched = await client.patch(upload, content=b"xyz", headers={"upload-offset": "0"})
        assert patched.status_code == 429
        assert (await client.head(upload)).status_code == 404
        assert (await client.delete(first)).status_code == 204
        assert (await store("b" * 60)).status_code == 201
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        refused = await client.post("/v1/sessions", json={})
        assert (refused.status_code, refused.json()["data"]["limit_name"]) == (429, "open_sessions")
        assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1
        assert (await client.delete(session)).status_code == 204
        assert (await client.post("/v1/sessions", json={})).status_code == 201


async def test_a_part_that_does_not_fit_is_not_there(it: Served) -> None:
    """A part beyond what a key may keep is refused, and what is sealed is without it."""
    async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=100))) as client:
        context = (await client.post("/v1/contexts", json={"name": "p", "open": True})).headers["location"]
        assert (await client.put(f"{context}/parts/a", content=b"a" * 60)).status_code == 200
        for name in ("a", "b"):
            refused = await client.put(f"{context}/parts/{name}", content=b"b" * 60)
            assert (refused.status_code, refused.json()["data"]["limit_name"]) == (429, "storage_bytes")
        assert (await client.get(context)).json()["length"] == 1
        assert (await client.post(f"{context}/seal")).status_code == 200
        assert (await client.get(f"{context}/content", params={"part": "a"})).content == b"a" * 60


async def test_what_does_not_fit_into_a_session_is_not_there(it: Served) -> None:
    """A file or a variable beyond what a key may keep is refused, and the session has neither."""
    async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=10))) as client:
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        for path in ("files/f", "variables/v"):
            refused = await client.put(f"{session}/{path}", content=b"x" * 60)
            assert (refused.status_code, refused.json()["data"]["limit_name"]) == (429, "storage_bytes")
            assert (await client.get(f"{session}/{path}")).status_code == 404
        assert (await client.put(f"{session}/files/f", content=b"x" * 10)).status_code == 201
        assert (await client.get(f"{session}/files/f")).content == b"x" * 10
        assert (await client.delete(session)).status_code == 204


async def test_what_is_announced_beyond_what_is_left_is_refused_before_it_comes(it: Served) -> None:
    """A context, a part, a file, a variable: not a byte of the body is waited for."""
    async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=100))) as client:
        opened = (await client.post("/v1/contexts", json={"name": "p", "open": True})).headers["location"]
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        secret = client.headers["authorization"]
        for method, path in (
            ("POST", "/v1/contexts"),
            ("PUT", f"{opened}/parts/a"),
            ("PUT", f"{session}/files/f"),
            ("PUT", f"{session}/variables/v"),
        ):
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: {secret}\r\ncontent-type: text/plain\r\n"
            with anyio.fail_after(60):
                found = await anyio.to_thread.run_sync(
                    exchange, it.address, head.encode() + b"content-length: 101\r\n\r\n"
                )
            assert found.startswith(b"HTTP/1.1 429 "), (path, found)
            assert b'"limit_name":"storage_bytes"' in found.replace(b" ", b""), path


async def test_what_goes_beyond_what_is_left_is_cut_off_there() -> None:
    """Where nothing is announced, no more comes than fits and the piece that does not."""
    taken: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            taken.append(b"x" * 40)
            yield taken[-1]

    left = StorageLeft(kind="tenant", limit_bytes=150, used_bytes=50)
    with pytest.raises(QuotaExceeded):
        async for _ in within_storage(pieces(), left):
            pass
    assert len(taken) == 3


async def test_an_upload_is_counted_from_its_beginning(it: Served) -> None:
    """What an upload announces must fit beside the others that are open; it is room again once one is given up, is
    refused, or has become a context that is deleted."""
    async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=100))) as client:

        async def begin(size_bytes: int) -> httpx.Response:
            return await client.post("/v1/uploads", json={"size_bytes": size_bytes})

        assert (await begin(101)).status_code == 429
        first = (await begin(60)).headers["location"]
        refused = await begin(60)
        assert (refused.status_code, refused.json()["data"]["limit_name"]) == (429, "storage_bytes")
        assert (await client.delete(first)).status_code == 204
        wrong = (await begin(60)).headers["location"]
        refused = await client.patch(wrong, content=b"\xff" * 60, headers={"upload-offset": "0"})
        assert refused.status_code == 400
        second = (await begin(60)).headers["location"]
        done = await client.patch(second, content=b"u" * 60, headers={"upload-offset": "0"})
        assert done.status_code == 200, done.text
        assert (await begin(60)).status_code == 429
        assert (await client.delete(f"/v1/contexts/{done.json()['context_id']}")).status_code == 204
        assert (await begin(60)).status_code == 201
