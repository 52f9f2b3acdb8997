"""Uploads under the store: what has been told survives, and what is given up goes."""

import sys
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from service.contexts.redis_contexts import Contexts
from service.contexts.upload_sweeping import keep_sweeping
from service.contexts.upload_values import TooManyUploads, UploadBusy, UploadPlan
from service.contexts.uploads import MOST_OPEN, MOST_OPEN_OF_KEY, OPEN_FOR_S, Uploads
from service.errors import NotFound
from service.ids import KeyId, UploadId
from service.store.keys import Keys
from service.tenants.storage import Storage
from service.tenants.values import NO_LIMITS, Level
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

PIECE = b"0123456789abcdef" * 65_536

WRITER = """
import sys, time
from pathlib import Path
import anyio
from service.contexts.redis_contexts import Contexts
from service.contexts.uploads import Uploads
from service.store.blobs import Blobs
from service.store.connection import open_store
from service.tenants.storage import Storage

directory, tenant, upload_id = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
piece = b"0123456789abcdef" * 65_536

async def chunks():
    for _ in range(3):
        yield piece
    print("sent", flush=True)
    await anyio.sleep_forever()

async def main():
    async with open_store(data_directory=directory, redis_url=None) as store:
        blobs = Blobs(directory / "blobs" / tenant)
        contexts = Contexts(store, blobs, tenant)
        uploads = Uploads(store, blobs, tenant, contexts, uncount=Storage(store, tenant).drop, now=store.now)
        await uploads.add(upload_id, 0, chunks())

anyio.run(main)
"""


def uploads_of(stored: Stored) -> Uploads:
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    storage = Storage(stored.store, stored.tenant)
    return Uploads(stored.store, stored.blobs, stored.tenant, contexts, uncount=storage.drop, now=stored.store.now)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_a_killed_writer_leaves_what_it_had_written(stored: Stored) -> None:
    """After kill -9 in the middle of a request the upload stands at a number, and goes on from there to a whole."""
    uploads = uploads_of(stored)
    size = 4 * len(PIECE)
    upload = await uploads.open(UploadPlan(name="n", kind="text", size_bytes=size))
    directory = stored.blobs.uploads.parent.parent.parent
    command = [sys.executable, "-c", WRITER, str(directory), stored.tenant, upload.upload_id]
    async with await anyio.open_process(command, stderr=None) as writer:
        try:
            assert writer.stdout is not None
            assert await writer.stdout.receive() in (b"sent", b"sent\n")
            with pytest.raises(UploadBusy):
                await uploads.add(upload.upload_id, 3 * len(PIECE), pieces(PIECE))
        finally:
            writer.kill()
    stands_at = (await uploads.get(upload.upload_id)).offset
    assert stands_at == 3 * len(PIECE)
    done = await uploads.add(upload.upload_id, stands_at, pieces(PIECE))
    assert done.context_id is not None
    context = await Contexts(stored.store, stored.blobs, stored.tenant).get(done.context_id)
    assert (context.length, context.size_bytes) == (size, size)


async def test_a_crash_between_the_bytes_and_the_context_is_made_up_for(stored: Stored) -> None:
    """An upload whose bytes are all there but that has become nothing becomes a context with an empty request."""
    uploads = uploads_of(stored)
    upload = await uploads.open(UploadPlan(name="n", kind="text", size_bytes=3))
    await anyio.Path(stored.blobs.uploads / upload.upload_id).write_bytes(b"abc")
    assert (await uploads.get(upload.upload_id)).offset == 3
    done = await uploads.add(upload.upload_id, 3, pieces())
    assert done.context_id is not None


async def test_what_was_given_up_is_collected(stored: Stored) -> None:
    """The file of an upload that expired is removed when another one begins; those that are open stay."""
    uploads = uploads_of(stored)
    expired = await uploads.open(UploadPlan(name="n", kind="text", size_bytes=3))
    kept = await uploads.open(UploadPlan(name="n", kind="text", size_bytes=3))
    await uploads.add(kept.upload_id, 0, pieces(b"ab"))
    record = f"rlm:{{{stored.tenant}}}:upload:{expired.upload_id}"
    assert await stored.store.read("TTL", record) in range(OPEN_FOR_S - 600, OPEN_FOR_S + 1)
    await stored.store.write("DEL", record)
    with pytest.raises(NotFound):
        await uploads.get(expired.upload_id)
    await uploads.open(UploadPlan(name="n", kind="text", size_bytes=3))
    names = {path.name for path in stored.blobs.uploads.iterdir()}
    assert expired.upload_id not in names
    assert (await uploads.get(kept.upload_id)).offset == 2


@pytest.mark.parametrize("upload_id", ["../x", "upl_" + "0" * 31 + "/", "ctx_" + "0" * 32, "upl_" + "0" * 32])
async def test_an_id_that_is_none_is_no_path(stored: Stored, upload_id: str) -> None:
    """What is not the id of an upload is not found, whatever it spells."""
    with pytest.raises(NotFound):
        await uploads_of(stored).get(UploadId(upload_id))


async def test_a_sweep_needs_nobody_who_begins_another(stored: Stored) -> None:
    """What is left of an upload that expired is removed, and its size counted no longer, without its tenant."""
    uploads, storage = uploads_of(stored), Storage(stored.store, stored.tenant)
    level = Level(kind="tenant", owner=stored.tenant, limits=NO_LIMITS)
    expired = await uploads.open(UploadPlan(name="n", kind="text", size_bytes=3))
    await storage.hold(expired.upload_id, {expired.upload_id: 3}, [level])
    await stored.store.write("DEL", f"rlm:{{{stored.tenant}}}:upload:{expired.upload_id}")

    async def of_all() -> list[Uploads]:
        return [uploads]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_sweeping, of_all)
        with anyio.fail_after(60):
            while (stored.blobs.uploads / expired.upload_id).exists():
                await stored.store.read("PING")
        tasks.cancel_scope.cancel()
    assert await storage.used_bytes(level) == 0


async def test_open_uploads_of_a_tenant_are_bounded(stored: Stored) -> None:
    """Whatever keys begin them; a key's count for those that it descends from, and one that is given up counts no
    more."""
    uploads, plan = uploads_of(stored), UploadPlan(name="n", kind="text", size_bytes=3)
    line = (KeyId("key_below"), KeyId("key_above"))
    first = await uploads.open(plan, line)
    keys, late = Keys(stored.tenant), repr(time.time() + OPEN_FOR_S)
    for name, most in (("key_above", MOST_OPEN_OF_KEY), (None, MOST_OPEN)):
        index = keys("uploads") if name is None else keys("uploads", name)
        for number in range(most - 1):
            await stored.store.write("ZADD", index, late, f"upl_{number}")
        with pytest.raises(TooManyUploads, match=f"at most {most}"):
            await uploads.open(plan, (KeyId(name or "key_other"),))
    await uploads.delete(first.upload_id)
    await uploads.open(plan, line)
