"""Collecting blobs beside those who put them."""

import os
from itertools import combinations
from pathlib import Path

import pytest

from service.loop.values import BlobRef
from service.store.blob_collection import SHARDS, remove, touch_if_kept, untouched
from service.store.blobs import Blobs
from tests.store.stepping import Stepped, pause, paused_before

pytestmark = pytest.mark.anyio

LONG_AGO = 1_000_000.0
"""Earlier than anything that is put by now."""
NOW = 2_000_000.0


def grow_old(blobs: Blobs, *refs: BlobRef) -> None:
    for ref in refs:
        os.utime(blobs.path(ref.sha256), (LONG_AGO, LONG_AGO))


async def test_only_what_is_old_goes(tmp_path: Path) -> None:
    """Of the payloads that are to go, those that were put or found again lately stay; the rest goes, and is counted."""
    blobs = Blobs(tmp_path)
    asked = [await blobs.put(name) for name in (b"a", b"t", b"b", b"old", b"new")]
    again, touched, batched, old, new = asked
    unasked = await blobs.put(b"unasked")
    grow_old(blobs, again, touched, batched, old, unasked)
    assert await blobs.put(b"a") == again
    assert await blobs.touch([(touched.sha256, None), (old.sha256, 99), ("0" * 64, None)]) == [old.sha256, "0" * 64]
    with blobs.batch() as batch:
        assert batch.add(b"b") == batched
    found = await blobs.remove([ref.sha256 for ref in asked], untouched_since=NOW)
    assert (found.blobs, found.size_bytes) == (1, 3)
    for ref in (again, touched, batched, new, unasked):
        assert await blobs.has(ref.sha256)
    assert not await blobs.has(old.sha256)
    assert list((tmp_path / "unfinished").iterdir()) == []


async def test_what_nobody_touched_is_found_by_its_shard(tmp_path: Path) -> None:
    """Old payloads are told by shard, others and files that are no payloads are not."""
    blobs = Blobs(tmp_path)
    old, new = await blobs.put(b"old"), await blobs.put(b"new")
    grow_old(blobs, old)
    (blobs.path(old.sha256).parent / "stray").touch()
    os.utime(blobs.path(old.sha256).parent / "stray", (LONG_AGO, LONG_AGO))
    assert (await blobs.untouched(old.sha256[:2], since=NOW)).digests == [old.sha256]
    assert new.sha256 not in untouched(tmp_path / "sha256", new.sha256[:2], since=NOW).digests
    found = [shard for shard in SHARDS if untouched(tmp_path / "sha256", shard, since=NOW).digests]
    assert found == [old.sha256[:2]]


async def test_a_collector_that_was_killed_takes_nothing_along(tmp_path: Path) -> None:
    """What it had moved away and not removed yet is back in its place when the store is opened again, however old."""
    blobs = Blobs(tmp_path)
    ref = await blobs.put(b"moved")
    grow_old(blobs, ref)
    blobs.path(ref.sha256).rename(tmp_path / "unfinished" / f"collected-{ref.sha256}-1-ab")
    assert await Blobs(tmp_path).read(ref, 100) == b"moved"
    assert await blobs.untouched(ref.sha256[:2], since=NOW) == ([], 1)


_utime = os.utime


def utime_in_its_two_steps(path: Path | str, times: tuple[float, float] | None = None) -> None:
    """Finds the file by its name, then sets its time: as the operating system does it, with others between."""
    pause()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        pause()
        _utime(descriptor, times)
    finally:
        os.close(descriptor)


def test_a_payload_that_is_put_again_meanwhile_is_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the steps of putting and of collecting one payload interleave, it is there once it was put."""
    blobs = Blobs(tmp_path)
    aside = tmp_path / "unfinished"
    with blobs.writer() as writer:
        writer.write(b"contended")
        ref = writer.commit("text")
    target = blobs.path(ref.sha256)
    kept: list[bool] = []
    removed: list[int] = []

    def put() -> None:
        kept.append(touch_if_kept(target, ref.size_bytes))
        if not kept[-1]:
            with blobs.writer() as writer:
                writer.write(b"contended")
                writer.commit("text")

    def collect() -> None:
        removed.append(remove(tmp_path / "sha256", aside, [ref.sha256], untouched_since=NOW).blobs)

    monkeypatch.setattr(os, "utime", utime_in_its_two_steps)
    for name in ("stat", "rename", "unlink"):
        monkeypatch.setattr(Path, name, paused_before(getattr(Path, name)))
    for turns in combinations(range(11), 6):
        _utime(target, (LONG_AGO, LONG_AGO))
        putter, collector = Stepped(put), Stepped(collect)
        for number in range(11):
            (putter if number in turns else collector).step()
        putter.finish()
        collector.finish()
        assert target.read_bytes() == b"contended", f"lost where putting had the turns {turns}"
        assert target.stat().st_mtime >= NOW, f"still old where putting had the turns {turns}"
        assert list(aside.iterdir()) == []
    assert {*zip(kept, removed, strict=True)} == {(True, 0), (False, 1), (False, 0)}
