"""Collecting blobs beside those who put them."""

import os
import threading
from pathlib import Path

import pytest

from service.loop.values import BlobRef
from service.store.blob_collection import collect
from service.store.blobs import Blobs

pytestmark = pytest.mark.anyio

LONG_AGO = 1_000_000.0
"""Earlier than anything that is put by now."""
NOW = 2_000_000.0


def grow_old(blobs: Blobs, *refs: BlobRef) -> None:
    for ref in refs:
        os.utime(blobs.path(ref.sha256), (LONG_AGO, LONG_AGO))


async def test_only_what_is_old_and_unreferenced_goes(tmp_path: Path) -> None:
    """A payload that is referenced, or that was put or found again lately, stays; the rest goes, and is counted."""
    blobs = Blobs(tmp_path)
    referenced, again, batched, old, new = [await blobs.put(name) for name in (b"r", b"a", b"b", b"old", b"new")]
    grow_old(blobs, referenced, again, batched, old)
    assert await blobs.put(b"a") == again
    with blobs.batch() as batch:
        assert batch.add(b"b") == batched
    found = await blobs.collect({referenced.sha256}.__contains__, untouched_since=NOW)
    assert (found.blobs, found.size_bytes) == (1, 3)
    for ref in (referenced, again, batched, new):
        assert await blobs.has(ref.sha256)
    assert not await blobs.has(old.sha256)
    assert list((tmp_path / "unfinished").iterdir()) == []


async def test_a_collector_that_was_killed_takes_nothing_along(tmp_path: Path) -> None:
    """What it had moved away and not removed yet is back in its place when the store is opened again."""
    ref = await Blobs(tmp_path).put(b"moved")
    Blobs(tmp_path).path(ref.sha256).rename(tmp_path / "unfinished" / f"collected-{ref.sha256}")
    assert await Blobs(tmp_path).read(ref, 100) == b"moved"


def collect_all(directory: Path) -> None:
    collect(directory / "sha256", directory / "unfinished", lambda _: False, untouched_since=NOW)


async def test_a_payload_that_is_put_again_meanwhile_is_there_afterwards(tmp_path: Path) -> None:
    """However putting and collecting of one payload interleave, it is there once it was put."""
    blobs = Blobs(tmp_path)
    ref = await blobs.put(b"contended")
    for _ in range(200):
        grow_old(blobs, ref)
        collecting = threading.Thread(target=collect_all, args=(tmp_path,))
        collecting.start()
        with blobs.writer() as writer:
            writer.write(b"contended")
            writer.commit("text")
        collecting.join()
        assert blobs.path(ref.sha256).read_bytes() == b"contended"
