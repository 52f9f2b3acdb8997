"""Contexts beside whoever collects blobs: what is missing is made again, or said to be missing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.contexts.redis_contexts import Contexts
from service.store.errors import StoreFailed
from tests.store_fixture import Stored
from tests.stored_files import put_path

pytestmark = pytest.mark.anyio


def contexts_of(stored: Stored) -> Contexts:
    return Contexts(stored.store, stored.blobs, stored.tenant)


async def text() -> AsyncIterator[bytes]:
    yield ("ä" * 600_000).encode()


async def test_a_missing_image_of_a_text_is_made_from_it(stored: Stored) -> None:
    """The same bytes are there again; nothing happens to an image that is there, and none to a text that is its own."""
    contexts = contexts_of(stored)
    context = await contexts.put_text("big", text())
    (part,) = context.parts
    assert part.image is not None
    path = stored.blobs.path(part.image.sha256)
    image = path.read_bytes()
    path.unlink()
    await contexts.mend_images(context)
    assert path.read_bytes() == image
    inode = path.stat().st_ino
    await contexts.mend_images(context)
    assert path.stat().st_ino == inode


async def test_a_missing_image_of_a_list_is_made_from_it(stored: Stored, tmp_path: Path) -> None:
    """Likewise for a large list of strings."""
    source = tmp_path / "texts.json"
    source.write_text(json.dumps(["long text " * 100] * 1500))
    contexts = contexts_of(stored)
    context = await put_path(contexts, source)
    (part,) = context.parts
    assert part.list_image is not None
    path = stored.blobs.path(part.list_image.sha256)
    image = path.read_bytes()
    path.unlink()
    await contexts.mend_images(context)
    assert path.read_bytes() == image


async def test_an_image_of_a_damaged_text_is_not_made(stored: Stored) -> None:
    """What would not be the image of the text that was stored is refused, and the sentence says what to do."""
    contexts = contexts_of(stored)
    context = await contexts.put_text("big", text())
    (part,) = context.parts
    assert part.image is not None
    stored.blobs.path(part.image.sha256).unlink()
    original = stored.blobs.path(part.sha256)
    original.unlink()
    original.write_text("ö" * 600_000)
    with pytest.raises(StoreFailed, match="restore it"):
        await contexts.mend_images(context)


async def test_a_part_that_was_collected_meanwhile_is_told(stored: Stored) -> None:
    """A context whose first part went while its last one came is not kept, and the sentence says to store it again."""

    async def first() -> AsyncIterator[bytes]:
        yield b"the first"

    async def last() -> AsyncIterator[bytes]:
        (payload,) = stored.blobs.path("0" * 64).parent.parent.glob("*/*")
        payload.unlink()
        yield b"the last"

    contexts = contexts_of(stored)
    with pytest.raises(StoreFailed, match="store it again"):
        await contexts.put_named_texts("both", [("first", first()), ("last", last())])
    assert await contexts.list() == []
