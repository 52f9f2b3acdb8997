"""Blobs: payloads under their digest, whole or not at all."""

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import BlobRef
from service.store.blobs import Blobs
from service.store.errors import BlobMissing, BlobTooLarge, StoreFailed, disk_failed

pytestmark = pytest.mark.anyio


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def leftovers(directory: Path) -> list[Path]:
    return list((directory / "unfinished").iterdir())


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


async def test_a_payload_is_kept_once_under_its_digest(blobs: Blobs, tmp_path: Path) -> None:
    """However a payload comes in, it is the same read-only file under its SHA-256, and nothing else is left."""
    (tmp_path / "source").write_bytes(b"hello")
    ref = await blobs.put(b"hello")
    assert ref == BlobRef(sha256=hashlib.sha256(b"hello").hexdigest(), size_bytes=5)
    assert await blobs.put_stream(pieces(b"he", b"", b"llo"), limit_bytes=5) == ref
    assert await blobs.put_file(tmp_path / "source") == ref
    path = blobs.path(ref.sha256)
    assert path == tmp_path / "sha256" / ref.sha256[:2] / ref.sha256
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert await blobs.has(ref.sha256)
    assert await blobs.read(ref, 5) == b"hello"
    assert [piece async for piece in blobs.stream(ref, 2)] == [b"he", b"ll", b"o"]
    assert leftovers(tmp_path) == []


async def test_the_same_payload_put_many_times_at_once_is_one_file(blobs: Blobs, tmp_path: Path) -> None:
    """Concurrent writers of one payload do not disturb each other."""
    payload = bytes(range(256)) * 5000
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(blobs.put, payload)
    digest = hashlib.sha256(payload).hexdigest()
    assert await blobs.read(BlobRef(sha256=digest, size_bytes=len(payload)), len(payload)) == payload
    assert leftovers(tmp_path) == []


async def test_a_payload_over_its_limit_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    """A stream or file that is larger than allowed is refused with the limit, and nothing stays on disk."""
    with pytest.raises(BlobTooLarge) as too_large:
        await blobs.put_stream(pieces(b"x" * 10), limit_bytes=9)
    assert too_large.value.data == {"limit_bytes": 9}
    (tmp_path / "source").write_bytes(b"x" * 10)
    with pytest.raises(BlobTooLarge):
        await blobs.put_file(tmp_path / "source", limit_bytes=9)
    ref = await blobs.put_file(tmp_path / "source", limit_bytes=10)
    with pytest.raises(BlobTooLarge):
        await blobs.read(ref, 9)
    assert leftovers(tmp_path) == []


async def test_a_cancelled_or_failing_stream_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    """When the sender goes away in the middle, nothing is kept and no temporary file is left."""

    async def never_ending(started: anyio.Event) -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        started = anyio.Event()

        async def put() -> None:
            await blobs.put_stream(never_ending(started), limit_bytes=1 << 30)

        group.start_soon(put)
        await started.wait()
        assert len(leftovers(tmp_path)) == 1
        group.cancel_scope.cancel()
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "sha256").rglob("*")) == []


async def test_a_missing_or_damaged_payload_is_named(blobs: Blobs, tmp_path: Path) -> None:
    """A reference whose file is gone or cut short says which blob it is; putting it again heals it."""
    ref = await blobs.put(b"hello")
    path = blobs.path(ref.sha256)
    path.unlink()
    path.write_bytes(b"he")
    with pytest.raises(BlobMissing, match=ref.sha256):
        await blobs.read(ref, 5)
    path.unlink()
    with pytest.raises(BlobMissing, match=ref.sha256):
        await blobs.read(ref, 5)
    with pytest.raises(BlobMissing, match=ref.sha256):
        _ = [piece async for piece in blobs.stream(ref)]
    path.write_bytes(b"he")
    await blobs.put(b"hello")
    assert await blobs.read(ref, 5) == b"hello"


async def test_what_a_killed_writer_left_is_cleared_away_a_day_later(tmp_path: Path) -> None:
    """Opening the blob store removes temporary files older than a day, and never a younger one."""
    Blobs(tmp_path)
    old, young = tmp_path / "unfinished" / "1-old", tmp_path / "unfinished" / "1-young"
    for leftover in (old, young):
        leftover.write_bytes(b"half a payl")
    os.utime(old, (1.0, 1.0))
    Blobs(tmp_path)
    assert leftovers(tmp_path) == [young]


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "0" * 65])
async def test_only_a_digest_becomes_a_path(blobs: Blobs, digest: str) -> None:
    """Anything but 64 lower-case hexadecimal digits is refused before the file system is touched."""
    with pytest.raises(StoreFailed, match="64 lower-case"):
        blobs.path(digest)
    with pytest.raises(StoreFailed, match="64 lower-case"):
        await blobs.has(digest)


def test_a_full_disk_is_said_in_one_sentence() -> None:
    """The kernel's "no space left" becomes what to do about it, and can be tried again."""
    try:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
    except OSError as error:
        failed = disk_failed(error, "keep a blob")
    assert str(failed) == ("could not keep a blob: the disk is full; free space or point RLM_DATA_DIR at a larger disk")
    assert failed.may_be_retried


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A blob store cannot be opened where a file is in the way, and the message says where."""
    (tmp_path / "blobs").write_text("in the way")
    with pytest.raises(StoreFailed, match="blobs"):
        Blobs(tmp_path / "blobs")


@given(chunks=st.lists(st.binary(max_size=200), max_size=20))
def test_whatever_streams_in_streams_out(chunks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any split of any payload is kept as the same bytes under the digest of the whole."""
    whole = b"".join(chunks)

    async def there_and_back() -> bytes:
        blobs = Blobs(tmp_path_factory.getbasetemp() / "any")
        ref = await blobs.put_stream(pieces(*chunks), limit_bytes=len(whole))
        assert ref == await blobs.put(whole)
        return b"".join([piece async for piece in blobs.stream(ref, 7)])

    assert anyio.run(there_and_back) == whole
