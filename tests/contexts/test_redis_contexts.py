"""Contexts: payloads in, byte-exact, with the facts that a root LM is shown."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.contexts.json_parsing import PARSED_IN_A_THREAD_BYTES
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context, LinkedPart, Part
from service.errors import BadRequest, NotFound
from service.ids import ContextId, TenantId, new_id
from service.loop.values import PREVIEW_CHARS
from tests.store_fixture import Stored
from tests.stored_files import put_path

pytestmark = pytest.mark.anyio


@pytest.fixture
async def contexts(stored: Stored) -> Contexts:
    return Contexts(stored.store, stored.blobs, stored.tenant)


def file(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def shown(context: Context) -> tuple[str, int, str, str]:
    return context.type_name, context.length, context.unit, context.preview


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_text_is_kept_byte_for_byte(contexts: Contexts, tmp_path: Path) -> None:
    """A byte order mark, CRLF and every character come back exactly as they went in."""
    content = "\ufeffgröße\r\nend\r".encode()
    context = await put_path(contexts, file(tmp_path, "notes.csv", content))
    digest = hashlib.sha256(content).hexdigest()
    assert context.parts == (Part(name="notes.csv", sha256=digest, size_bytes=len(content)),)
    assert (context.kind, context.name, context.size_bytes) == ("text", "notes.csv", len(content))
    assert shown(context) == ("str", 12, "characters", "\ufeffgröße\r\nend\r")
    assert contexts.links(context)[digest].read_bytes() == content
    assert await contexts.get(context.context_id) == context


async def test_a_stream_is_as_good_as_a_file(contexts: Contexts, tmp_path: Path) -> None:
    """What arrives in pieces is the same context as the file of it, and has no size of its own."""
    streamed = await contexts.put_text("a", pieces(b"x" * 3_000_000, "ö".encode()[:1], "ö".encode()[1:]))
    assert shown(streamed) == ("str", 3_000_001, "characters", "x" * PREVIEW_CHARS)
    assert await contexts.put_text("a", file(tmp_path, "a", b"x" * 3_000_000 + "ö".encode())) == streamed


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"a": 1, "b": [2]}', ("dict", 2, "keys", '{"a": 1, "b": [2]}')),
        ("[1, 2, 3]", ("list", 3, "items", "[1, 2, 3]")),
        ('"größe"', ("str", 5, "characters", '"größe"')),
        ("17", ("int", 0, "items", "17")),
    ],
)
async def test_json_is_shown_by_its_type_and_length(
    contexts: Contexts, tmp_path: Path, document: str, expected: tuple[str, int, str, str]
) -> None:
    """A JSON document is shown as the value it becomes."""
    assert shown(await put_path(contexts, file(tmp_path, "d.json", document.encode()))) == expected


async def test_large_json_is_parsed_elsewhere_with_the_same_result(contexts: Contexts, tmp_path: Path) -> None:
    """A document above the threshold, good or broken, gives what a small one gives."""
    values = [{"n": number} for number in range(200_000)]
    document = json.dumps(values).encode()
    assert len(document) > PARSED_IN_A_THREAD_BYTES
    context = await put_path(contexts, file(tmp_path, "large.json", document))
    assert shown(context) == ("list", 200_000, "items", document[:PREVIEW_CHARS].decode())
    with pytest.raises(BadRequest, match=r"broken\.json: is not JSON at line 1, column \d+"):
        await put_path(contexts, file(tmp_path, "broken.json", document[:-1]))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"{'a': 1}", r"a\.json: is not JSON at line 1, column 2"),
        ("a.json", b"[NaN]", r"a\.json: holds NaN"),
        ("a.json", b'"\xff"', r"a\.json: is not UTF-8 at byte 1"),
        ("a.json", b"\xef\xbb\xbf{}", r"a\.json: is not JSON"),
        ("a.json", b"[" * 100_000, r"a\.json: is nested too deeply"),
        ("a.json", b"1" * 5000, r"a\.json: "),
        ("a.ndjson", b"1\n2\nx", r"a\.ndjson: .* line 3 is not JSON"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: expected some content"),
        ("a.txt", b"", r"a\.txt: expected some content"),
        ("a.json", b"", r"a\.json: is not JSON"),
        (
            "a.png",
            b"\x89PNG\r\n\x1a\n\0",
            r"a\.png: expected text in UTF-8, found bytes that are not UTF-8 at byte 0|NUL",
        ),
    ],
)
async def test_what_cannot_be_used_is_refused_in_one_sentence(
    contexts: Contexts, stored: Stored, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    """A bad payload is the caller's to change, is named, and leaves neither record nor blob."""
    with pytest.raises(BadRequest, match=f"^{sentence}"):
        await put_path(contexts, file(tmp_path, name, content))
    assert await contexts.list() == []
    assert not await stored.blobs.has(hashlib.sha256(content).hexdigest())


async def test_a_file_that_is_not_there_is_named(contexts: Contexts, tmp_path: Path) -> None:
    """A missing file or a directory is the caller's mistake, not the store's."""
    with pytest.raises(BadRequest, match=r"gone\.txt"):
        await put_path(contexts, tmp_path / "gone.txt")
    with pytest.raises(BadRequest):
        await put_path(contexts, tmp_path)


async def test_several_texts_become_one_context(contexts: Contexts, tmp_path: Path) -> None:
    """Named texts keep their order, equal ones share one file, and one empty text among others is allowed."""
    one, two, empty = file(tmp_path, "1", b"one"), file(tmp_path, "2", b"two"), file(tmp_path, "3", b"")
    context = await contexts.put_named_texts("docs", [("b/1.txt", one), ("a.txt", two), ("c", one), ("d", empty)])
    assert [part.name for part in context.parts] == ["b/1.txt", "a.txt", "c", "d"]
    preview = '{"b/1.txt": "one", "a.txt": "two", "c": "one", "d": ""}'
    assert shown(context) == ("dict", 4, "keys", preview)
    linked = contexts.linked_parts(context)
    assert linked[0] == LinkedPart(part="b/1.txt", link=hashlib.sha256(b"one").hexdigest(), size_bytes=3)
    assert linked[0].link == linked[2].link
    links = contexts.links(context)
    assert {part.part: links[part.link].read_bytes() for part in linked} == {
        "b/1.txt": b"one",
        "a.txt": b"two",
        "c": b"one",
        "d": b"",
    }


async def test_named_texts_must_be_told_apart_and_be_texts(contexts: Contexts, tmp_path: Path) -> None:
    """No parts, one name twice, a binary part, only empty parts: each is refused."""
    text, binary, empty = file(tmp_path, "t", b"t"), file(tmp_path, "b", b"\xff"), file(tmp_path, "e", b"")
    with pytest.raises(BadRequest, match="expected 1 to"):
        await contexts.put_named_texts("n", [])
    with pytest.raises(BadRequest, match="two parts are named 'a'"):
        await contexts.put_named_texts("n", [("a", text), ("a", text)])
    with pytest.raises(BadRequest, match="bad one: expected text in UTF-8"):
        await contexts.put_named_texts("n", [("a", text), ("bad one", binary)])
    with pytest.raises(BadRequest, match="expected some content"):
        await contexts.put_named_texts("n", [("a", empty), ("b", empty)])
    with pytest.raises(BadRequest, match="printable"):
        await contexts.put_named_texts("n", [("a\nb", text)])


async def test_the_same_file_put_twice_is_one_context(contexts: Contexts, tmp_path: Path) -> None:
    """Same name and content: the same context; another name or kind: another one, over the same blob."""
    path = file(tmp_path, "a.jsonl", b"1\n2\n")
    first = await put_path(contexts, path)
    assert await put_path(contexts, path) == first
    as_text = await contexts.put_text("a.jsonl", path)
    renamed = await put_path(contexts, path, name="b")
    assert len({first.context_id, as_text.context_id, renamed.context_id}) == 3
    assert {context.parts[0].sha256 for context in (first, as_text, renamed)} == {first.parts[0].sha256}


async def test_contexts_are_listed_newest_first_and_forgotten_on_request(contexts: Contexts, tmp_path: Path) -> None:
    """Pages join without gap or overlap; a deleted context is gone and can be put again as a new one."""
    put = [await contexts.put_text(f"t{number}", file(tmp_path, "t", b"text %d" % number)) for number in range(5)]
    newest_first = sorted(put, key=lambda context: context.context_id, reverse=True)
    page = await contexts.list(limit=2)
    assert page == newest_first[:2]
    assert await contexts.list(before=page[-1].context_id) == newest_first[2:]
    await contexts.delete(put[0].context_id)
    with pytest.raises(NotFound):
        await contexts.get(put[0].context_id)
    with pytest.raises(NotFound):
        await contexts.delete(put[0].context_id)
    again = await contexts.put_text("t0", file(tmp_path, "t", b"text 0"))
    assert again.context_id != put[0].context_id
    assert await contexts.get(again.context_id) == again


async def test_tenants_do_not_see_each_others_contexts(contexts: Contexts, stored: Stored, tmp_path: Path) -> None:
    """Another tenant finds neither the record nor an echo of it: equal content gets an id of its own."""
    path = file(tmp_path, "t", b"text")
    mine = await put_path(contexts, path)
    other = Contexts(stored.store, stored.blobs, TenantId(new_id("ten")))
    with pytest.raises(NotFound):
        await other.get(mine.context_id)
    assert await other.list() == []
    assert (await put_path(other, path)).context_id != mine.context_id
    with pytest.raises(NotFound):
        await contexts.get(ContextId("ctx_unknown"))


async def test_a_context_of_many_parts_has_a_record_of_any_size(contexts: Contexts, tmp_path: Path) -> None:
    """A thousand parts are kept, listed and read like one."""
    path = file(tmp_path, "t", b"text")
    context = await contexts.put_named_texts("many", [(f"part {number}", path) for number in range(1000)])
    assert await contexts.get(context.context_id) == context
    assert await contexts.list() == [context]
    assert len(context.preview) == PREVIEW_CHARS
