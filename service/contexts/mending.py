"""Mending: images that are missing (a backup may leave them out) are made anew from what they are images of."""

from collections.abc import Iterator, Sequence

from service.contexts.images import Images, image_bytes
from service.contexts.json_parsing import facts_of
from service.contexts.values import Context, Part, TextListImage
from service.loop.values import BlobRef
from service.store.blobs import Blobs
from service.store.errors import StoreFailed


async def mend_images(blobs: Blobs, images: Images, context: Context) -> None:
    """See `Contexts.mend_images`."""
    originals = {part.sha256 for part in context.parts}
    wanted = [payload for payload in payloads_of(context.parts) if payload[0] not in originals]
    missing = set(await blobs.touch(wanted)) if wanted else set[str]()
    for part in context.parts:
        if part.image is not None and part.image.sha256 in missing:
            await images.mend(BlobRef(sha256=part.sha256, size_bytes=part.size_bytes), part.image)
        if part.list_image is not None and part.list_image.sha256 in missing:
            await _mend_list(blobs, part, part.list_image)


def payloads_of(parts: Sequence[Part]) -> Iterator[tuple[str, int]]:
    """All that a context of these parts refers to, with sizes; an image that is the original itself comes once."""
    for part in parts:
        yield part.sha256, part.size_bytes
        if part.image is not None and part.image.sha256 != part.sha256:
            yield part.image.sha256, image_bytes(part.image)
        if part.list_image is not None:
            yield part.list_image.sha256, part.list_image.size_bytes


async def _mend_list(blobs: Blobs, part: Part, wanted: TextListImage) -> None:
    with blobs.writer() as image:
        found = await facts_of(blobs.path(part.sha256), part.size_bytes, blobs, image)
        if not found.problem and found.image_bytes:
            kept = await blobs.in_thread(lambda: image.commit("text"))
            if kept.sha256 == wanted.sha256:
                return
    raise StoreFailed(f"blob {part.sha256} is no longer the list that was stored; restore it")
