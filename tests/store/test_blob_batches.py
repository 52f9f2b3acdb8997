"""Many small payloads at once."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import BlobRef
from service.store.blob_batches import MOST_PENDING
from service.store.blobs import Blobs

pytestmark = pytest.mark.anyio


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


async def test_a_batch_keeps_what_single_writes_would(blobs: Blobs, tmp_path: Path) -> None:
    """The same references, the same read-only files, equal payloads once, and nothing unfinished is left."""
    payloads = [b"", b"one", b"two", b"one"]
    with blobs.batch() as batch:
        refs = [batch.add(payload) for payload in payloads]
        batch.commit()
    assert refs == [await blobs.put(payload) for payload in payloads]
    assert [await blobs.read(ref, 10) for ref in refs] == payloads
    assert stat.S_IMODE(blobs.path(refs[1].sha256).stat().st_mode) == 0o444
    assert os.listdir(tmp_path / "unfinished") == []


async def test_what_is_not_committed_is_not_kept(blobs: Blobs, tmp_path: Path) -> None:
    """Whoever gives up in the middle leaves neither payloads nor temporary files."""
    with blobs.batch() as batch:
        ref = batch.add(b"half")
    assert not await blobs.has(ref.sha256)
    assert os.listdir(tmp_path / "unfinished") == []


async def test_a_large_batch_is_put_away_on_the_way(blobs: Blobs, tmp_path: Path) -> None:
    """No more than the bound wait for their names at any time."""
    with blobs.batch() as batch:
        for number in range(MOST_PENDING + 10):
            batch.add(b"%d" % number)
        assert len(os.listdir(tmp_path / "unfinished")) == 10
        batch.commit()


@given(st.lists(st.one_of(st.binary(max_size=3), st.none()), max_size=20))
async def test_any_order_of_adds_and_commits_keeps_everything(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | None]
) -> None:
    """None is a commit: whatever was added before the last one can be read."""
    blobs = Blobs(tmp_path_factory.mktemp("batch"))
    refs: dict[bytes, BlobRef] = {}
    with blobs.batch() as batch:
        for step in [*steps, None]:
            if step is None:
                batch.commit()
            else:
                refs[step] = batch.add(step)
    for payload, ref in refs.items():
        assert await blobs.read(ref, 3) == payload
