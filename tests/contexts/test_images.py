"""Images: large texts once more as CPython holds them, made at ingest and never more often than needed."""

import codecs
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.protocol import LIST_ENTRY, LIST_ENTRY_ENCODINGS, ImageEncoding
from service.contexts.images import LARGEST_IMAGE_BYTES, LEAST_MAPPED_BYTES, LEAST_WRITTEN_BYTES, Images, is_imaged
from service.contexts.redis_contexts import Contexts
from service.contexts.scans import TextScan
from service.contexts.text_widths import WIDTHS, narrowest
from service.contexts.values import LinkedPart, TextImage
from service.loop.values import BlobRef
from service.store.errors import StoreFailed
from service.store.keys import Keys
from tests.store_fixture import Stored

WIDEST: dict[ImageEncoding, str] = {"ascii": "~", "latin-1": "ÿ", "utf-16-le": "€", "utf-32-le": "\U0001f600"}
ENCODINGS: tuple[ImageEncoding, ...] = ("ascii", "latin-1", "utf-16-le", "utf-32-le")
_BOUNDS = {0x80: "ascii", 0x100: "latin-1", 0x10000: "utf-16-le", 0x110000: "utf-32-le"}


@pytest.fixture
async def contexts(stored: Stored) -> Contexts:
    return Contexts(stored.store, stored.blobs, stored.tenant)


def file(directory: Path, text: str) -> Path:
    path = directory / "text"
    path.write_bytes(text.encode())
    return path


def kept_blobs(stored: Stored) -> set[str]:
    """Digests of everything in the blob store, each with its file's inode: written again, it would have another."""
    parent = stored.blobs.path("0" * 64).parent.parent
    return {f"{path.name} {path.stat().st_ino}" for path in parent.glob("??/*")}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.lists(st.integers(0, 200)))
def test_the_narrowest_encoding_is_found_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    """The width that CPython would use shows from the widest character, whatever pieces the bytes arrive in."""
    content = text.encode()
    scan = TextScan("t")
    places = [0, *sorted(cut for cut in cuts if cut < len(content)), len(content)]
    for start, end in pairwise(places):
        scan.feed(content[start:end])
    assert scan.finish().length == len(text)
    widest = max(map(ord, text), default=0)
    assert scan.encoding == next(encoding for bound, encoding in _BOUNDS.items() if widest < bound)


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
@pytest.mark.anyio
async def test_a_large_text_is_kept_a_second_time_in_its_narrowest_encoding(
    contexts: Contexts, stored: Stored, tmp_path: Path, encoding: ImageEncoding
) -> None:
    """The image holds the same characters, nothing else, and is linked beside the original."""
    text = f"über alles, {WIDEST[encoding]}\r\n" * 300_000
    context = await contexts.put_text("t", file(tmp_path, text))
    (part,) = context.parts
    assert part.image is not None
    assert (part.image.encoding, part.image.length) == (encoding, len(text))
    links = contexts.links(context)
    assert links[part.sha256].read_bytes() == text.encode()
    assert links[part.image.sha256].read_bytes() == text.encode(encoding)
    assert links[part.image.sha256].stat().st_mode & 0o777 == 0o444
    expected = LinkedPart(part="t", link=part.sha256, size_bytes=part.size_bytes, image=part.image)
    assert contexts.linked_parts(context) == (expected,)
    assert await contexts.get(context.context_id) == context


@pytest.mark.anyio
async def test_ascii_is_its_own_image(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """One file serves as original and as image, from a size on at which mapping pays."""
    text = "plain" * LEAST_MAPPED_BYTES
    (part,) = (await contexts.put_text("t", file(tmp_path, text))).parts
    assert part.image == TextImage(sha256=part.sha256, encoding="ascii", length=len(text))
    assert len(kept_blobs(stored)) == 1


@pytest.mark.parametrize(
    ("size_bytes", "length", "encoding", "expected"),
    [
        (LEAST_MAPPED_BYTES - 1, LEAST_MAPPED_BYTES - 1, "ascii", False),
        (LEAST_MAPPED_BYTES, LEAST_MAPPED_BYTES, "ascii", True),
        (1 << 40, 1 << 40, "ascii", True),
        (LEAST_WRITTEN_BYTES - 1, LEAST_WRITTEN_BYTES - 2, "latin-1", False),
        (LEAST_WRITTEN_BYTES, LEAST_WRITTEN_BYTES - 1, "latin-1", True),
        (LARGEST_IMAGE_BYTES + 1, LARGEST_IMAGE_BYTES, "latin-1", True),
        (LARGEST_IMAGE_BYTES * 2, LARGEST_IMAGE_BYTES // 2 + 1, "utf-16-le", False),
        (1 << 30, (1 << 30) - 3, "utf-32-le", True),
        ((1 << 30) + 4, (1 << 30) + 1, "utf-32-le", False),
    ],
)
def test_which_texts_get_an_image(size_bytes: int, length: int, encoding: ImageEncoding, expected: bool) -> None:
    """From a least size to a largest image, and 1 GiB of text with an emoji is within."""
    assert is_imaged(size_bytes, length, encoding) is expected


@pytest.mark.anyio
async def test_a_small_text_has_none(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """Below the sizes at which it pays there is one file and no image, for one text and for many."""
    text = await contexts.put_text("t", file(tmp_path, "größe" * 1000))
    assert text.parts[0].image is None
    wide = tmp_path / "wide"
    wide.write_bytes(("€" * LEAST_WRITTEN_BYTES).encode())
    named = await contexts.put_named_texts("n", [("small", file(tmp_path, "x")), ("wide", wide)])
    images = [part.image for part in named.parts]
    assert images[0] is None
    assert images[1] is not None
    assert len(kept_blobs(stored)) == 4


@pytest.mark.anyio
async def test_a_text_stored_again_is_not_written_again(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """Under another name, or as a part, the same text has the same image, and no file is touched."""
    path = file(tmp_path, "größe" * 300_000)
    (first,) = (await contexts.put_text("a", path)).parts
    before = kept_blobs(stored)
    (second,) = (await contexts.put_text("b", path)).parts
    (third,) = (await contexts.put_named_texts("c", [("a", path)])).parts
    assert first.image == second.image == third.image is not None
    assert kept_blobs(stored) == before


@pytest.mark.anyio
async def test_a_lost_image_is_made_again(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """Where the file of a known image is gone, storing the text once more brings it back."""
    text = "größe" * 300_000
    (part,) = (await contexts.put_text("a", file(tmp_path, text))).parts
    assert part.image is not None
    stored.blobs.path(part.image.sha256).unlink()
    await contexts.put_text("b", file(tmp_path, text))
    assert stored.blobs.path(part.image.sha256).read_bytes() == text.encode("latin-1")


@pytest.mark.anyio
async def test_a_list_of_long_strings_gets_one_image(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """A large JSON document of nothing but long strings is kept a second time, every text at its place."""
    texts = [f"{number} {WIDEST[encoding]} " + "word " * 20_000 for number in range(5) for encoding in ENCODINGS]
    texts += ["", "\ud800 alone"]
    context = await contexts.put_json("docs", file(tmp_path, json.dumps(texts)))
    (part,) = context.parts
    assert part.list_image is not None
    assert (part.list_image.count, context.type_name, context.length) == (len(texts), "list", len(texts))
    content = contexts.links(context)[part.list_image.sha256].read_bytes()
    assert len(content) == part.list_image.size_bytes
    entries = list(LIST_ENTRY.iter_unpack(content[: LIST_ENTRY.size * len(texts)]))
    found = []
    for offset, length, number in entries:
        encoding = LIST_ENTRY_ENCODINGS[number]
        width = WIDTHS[encoding]
        assert offset % 8 == 0
        assert content[offset + length * width :][:width] == bytes(width)
        found.append(content[offset : offset + length * width].decode(encoding, "surrogatepass"))
    assert found == texts
    assert [narrowest(text) for text in texts] == [LIST_ENTRY_ENCODINGS[number] for _, _, number in entries]
    before = kept_blobs(stored)
    assert await contexts.put_json("docs", file(tmp_path, json.dumps(texts))) == context
    assert kept_blobs(stored) == before


@pytest.mark.parametrize(
    "value",
    [["short"] * 200_000, ["long " * 300_000, 1], {"long": "long " * 300_000}, "long " * 300_000, ["long " * 1000]],
    ids=["short strings", "not only strings", "a dict", "a string", "a small document"],
)
@pytest.mark.anyio
async def test_other_json_has_no_image(contexts: Contexts, stored: Stored, tmp_path: Path, value: object) -> None:
    """What is not a large list of nothing but long strings is parsed in the sandbox."""
    (part,) = (await contexts.put_json("v", file(tmp_path, json.dumps(value)))).parts
    assert part.list_image is None
    assert len(kept_blobs(stored)) == 1


@pytest.mark.parametrize("damage", [b"\xff", "€".encode()[:2], "é".encode()])
@pytest.mark.anyio
async def test_an_original_that_is_damaged_makes_no_image(stored: Stored, tmp_path: Path, damage: bytes) -> None:
    """What is on disk is not the text that was scanned: the store says so, and keeps nothing of the attempt."""
    content = ("é" * LEAST_WRITTEN_BYTES).encode() + damage
    path = tmp_path / "text"
    path.write_bytes(content)
    ref = await stored.blobs.put_file(path)
    before = kept_blobs(stored)
    images = Images(stored.store, stored.blobs, Keys(stored.tenant))
    with pytest.raises(StoreFailed, match="no longer the text"):
        await images.of(BlobRef(sha256=ref.sha256, size_bytes=ref.size_bytes), LEAST_WRITTEN_BYTES, "latin-1")
    assert kept_blobs(stored) == before


def test_every_encoding_is_one_that_python_knows() -> None:
    """The names on the wire are names of codecs that write no byte order mark."""
    for encoding in ENCODINGS:
        assert codecs.encode("a", encoding) in (b"a", b"a\0", b"a\0\0\0")
