"""Contexts over HTTP: inline, streamed, in parts; shown, listed, deleted."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.web.bodies import NATIVE_BODY_BYTES, UnsupportedMediaType
from service.web.documents import text_chunks
from tests.runs.playing import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"text": "tä"}, {"type": "str", "length": 2, "unit": "characters", "size_bytes": 3}),
        ({"texts": ["a", "b"]}, {"type": "list", "length": 2, "unit": "items"}),
        ({"value": {"a": [1, 2.5, None]}}, {"type": "dict", "length": 1, "unit": "keys"}),
        ({"value": None}, {"type": "NoneType", "length": 0}),
    ],
)
async def test_what_fits_into_a_request_is_stored_from_it(
    it: Served, content: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Text, a list of texts and JSON become what they are; the reply says where the context is shown."""
    reply = await it.client.post("/v1/contexts", json={"name": "given", **content})
    assert reply.status_code == 201, reply.text
    assert expected.items() <= reply.json().items()
    assert (await it.client.get(reply.headers["location"])).json() == reply.json()


@pytest.mark.parametrize("content", [{}, {"text": "a", "texts": ["b"]}, {"text": None}, {"text": "a", "more": 1}])
async def test_a_context_is_exactly_one_content(it: Served, content: dict[str, Any]) -> None:
    """None, two, null or something unknown is refused, and the refusal does not repeat what was sent."""
    reply = await it.client.post("/v1/contexts", json=content)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")


async def test_a_stream_of_any_type_is_the_context_itself(it: Served) -> None:
    """Chunk by chunk, with the kind in the query; equal content under an equal name is one context."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b'{"n":%d}\n' % number

    query = {"name": "numbers", "kind": "json_lines"}
    first = await it.client.post("/v1/contexts", content=lines(), params=query, headers=TEXT)
    assert first.status_code == 201, first.text
    assert (first.json()["kind"], first.json()["length"]) == ("json_lines", 1000)
    again = await it.client.post("/v1/contexts", content=lines(), params=query, headers=TEXT)
    assert again.json() == first.json()


async def test_a_range_of_a_context_is_served_or_refused_like_everything_else(it: Served) -> None:
    """Behind the end is our one refusal, which says how much there is; a range that is none is of no effect; and one of
    what the client has the tag of is served."""
    url = f"/v1/contexts/{await it.stored('0123456789')}/content"
    for asked in ({}, {"if-range": (await it.client.get(url)).headers["etag"]}):
        beyond = await it.client.get(url, headers={"range": "bytes=10-", **asked})
        assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == "bytes */10"
        part = await it.client.get(url, headers={"range": "bytes=7-", **asked})
        assert (part.status_code, part.text) == (206, "789")
    for whole in ({"range": "bytes=x"}, {"range": "bytes=5-2"}, {"range": "bytes=7-", "if-range": '"other"'}):
        reply = await it.client.get(url, headers=whole)
        assert (reply.status_code, reply.text) == (200, "0123456789"), whole


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"])
async def test_a_form_is_no_context(it: Served, kind: str) -> None:
    """What curl calls a form because nobody told it a type was meant as JSON: nothing is stored, and the refusal says
    which types there are."""
    async with it.as_other_tenant() as client:
        reply = await client.post("/v1/contexts", content=b'{"open":true}', headers={"content-type": kind})
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
        assert "application/json" in reply.json()["detail"]
        assert (await client.get("/v1/contexts")).json()["contexts"] == []


async def test_a_json_document_is_told_how_it_is_stored(it: Served) -> None:
    """`kind` or `name` beside a JSON body is refused, not ignored, with what works: a stream of another type, which is
    what the sentence says, and what takes more values than a body of JSON may have."""
    documents = {"json": b'[{"id": 7}]', "json_lines": b'{"id": 7}\n'}
    for kind, content in documents.items():
        refused = await it.client.post(f"/v1/contexts?kind={kind}", content=content, headers=JSON)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        assert "kind=json_lines with content-type: application/jsonl, or POST /v1/uploads" in refused.json()["detail"]
        assert refused.json()["data"] == {"param": "kind"}
    assert (await it.client.post("/v1/contexts?name=n", json={"text": "t"})).json()["data"] == {"param": "name"}
    for kind, media in (("json", "application/octet-stream"), ("json_lines", "application/jsonl")):
        headers = {"content-type": media}
        taken = await it.client.post(f"/v1/contexts?kind={kind}", content=documents[kind], headers=headers)
        assert (taken.status_code, taken.json()["type"], taken.json()["length"]) == (201, "list", 1)
    large = await it.client.post("/v1/contexts", content=b"[" * (NATIVE_BODY_BYTES + 1), headers=JSON)
    assert (large.status_code, large.json()["data"]["upload"]) == (413, "POST /v1/uploads")
    assert "kind=json_lines" in large.json()["detail"]


@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b"text", "application/pdf"),
        (b"text", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"%PDF-1.4 all of it ASCII", "application/octet-stream"),
        (b"PK\x03\x04 all of it ASCII", "text/plain"),
        (b"%PDF-", "text/plain"),
    ],
)
async def test_a_document_is_no_text(it: Served, content: bytes, media: str) -> None:
    """A PDF or an Office document, by what it says or how it begins, is refused with what to do, as a context, a part,
    an upload and a file, and nothing of it is there."""
    opened = f"/v1/contexts/{(await it.client.post('/v1/contexts', json={'open': True})).json()['context_id']}"
    upload = (await it.client.post("/v1/uploads", json={"size_bytes": len(content)})).json()["upload_id"]
    headers = {"content-type": media, "upload-offset": "0"}
    before = (await it.client.get("/v1/contexts")).json()["contexts"]
    for method, place in (
        ("POST", "/v1/contexts"),
        ("PUT", f"{opened}/parts/p"),
        ("PATCH", f"/v1/uploads/{upload}"),
    ):
        reply = await it.client.request(method, place, content=content, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type"), place
        assert "extract the text first (`rlm-service contexts put` reads it)" in reply.json()["detail"]
    if content != b"text":
        as_file = await it.client.post("/v1/files", files={"file": ("a.txt", content)}, data={"purpose": "user_data"})
        assert as_file.status_code == 415
    assert (await it.client.get(opened)).json()["length"] == 0
    assert (await it.client.get(f"/v1/uploads/{upload}")).json()["offset"] == 0
    assert (await it.client.get("/v1/contexts")).json()["contexts"] == before


async def test_what_only_begins_like_a_document_is_text() -> None:
    """Whatever pieces it comes in, all of it is given on, and a document is known before anything is."""
    for pieces in ((b"%PD", b"", b"F", b"!rest"), (b"%PDF",), (b"PK\x03", b"\x05"), (b"a",), ()):
        assert b"".join([piece async for piece in text_chunks(_given(*pieces))]) == b"".join(pieces)
    given = text_chunks(_given(b"P", b"K\x03", b"\x04"))
    with pytest.raises(UnsupportedMediaType):
        await anext(given)


async def _given(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_form_is_nothing_that_is_kept(it: Served) -> None:
    """`curl -d @file` strips line ends, so a part, a piece of an upload, a file and a variable of a session that come
    as a form are refused like a whole context, and none is there afterwards; with another type each is taken."""
    context = f"/v1/contexts/{(await it.client.post('/v1/contexts', json={'open': True})).json()['context_id']}"
    upload = f"/v1/uploads/{(await it.client.post('/v1/uploads', json={'size_bytes': 8})).json()['upload_id']}"
    session = (await it.client.post("/v1/sessions", json={})).headers["location"]
    places = {
        f"{context}/parts/p": ("PUT", 200),
        upload: ("PATCH", 200),
        f"{session}/files/f": ("PUT", 201),
        f"{session}/variables/v": ("PUT", 204),
    }
    form = {"content-type": "application/x-www-form-urlencoded", "upload-offset": "0"}
    for place, (method, _) in places.items():
        reply = await it.client.request(method, place, content=b"one two ", headers=form)
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type"), place
        assert "--data-binary" in reply.json()["detail"]
    assert (await it.client.get(context)).json()["length"] == 0
    assert (await it.client.get(upload)).json()["offset"] == 0
    assert (await it.client.get(f"{session}/files")).json()["files"] == []
    assert (await it.client.get(f"{session}/variables")).json()["variables"] == []
    for place, (method, status) in places.items():
        reply = await it.client.request(method, place, content=b"one\ntwo\n", headers=form | TEXT)
        assert reply.status_code == status, reply.text


async def test_what_is_no_text_is_refused_with_the_place(it: Served) -> None:
    """Bytes that are not UTF-8, JSON lines that are none and an empty body say where, and nothing is kept."""
    async with it.as_other_tenant() as client:
        for content, kind in ((b"ok\xff", "text"), (b"", "text"), (b"{}\n{\n", "json_lines"), (b"[1,", "json")):
            reply = await client.post("/v1/contexts", content=content, params={"kind": kind}, headers=TEXT)
            assert (reply.status_code, reply.json()["code"]) == (400, "bad_request"), kind
        assert (await client.get("/v1/contexts")).json()["contexts"] == []


async def test_only_line_ends_cost_what_they_are_long(it: Served) -> None:
    """Megabytes of empty lines are taken as text and refused as JSON lines of nothing, without a copy for each."""
    data = b"\n" * (4 << 20)
    kept = await it.client.post("/v1/contexts", content=data, headers=TEXT)
    assert kept.json()["length"] == len(data)
    refused = await it.client.post("/v1/contexts", content=data, headers=TEXT, params={"kind": "json_lines"})
    assert refused.status_code == 400


async def test_parts_come_one_by_one_and_a_run_has_them_all(it: Served) -> None:
    """An open context takes parts, replaces one of the same name in its place, and is sealed into a dict; then it takes
    no more, and sealing it again changes nothing."""
    opened = (await it.client.post("/v1/contexts", json={"name": "sources", "open": True})).json()
    place = f"/v1/contexts/{opened['context_id']}"
    assert opened["status"] == "open"
    for name, content in (("a/one.txt", b"old"), ("two.txt", b""), ("a/one.txt", b"one")):
        reply = await it.client.put(f"{place}/parts/{name}", content=content)
        assert (reply.status_code, reply.json()["size_bytes"]) == (200, len(content)), reply.text
    run = {"question": "?", "contexts": [{"context_id": opened["context_id"]}], "root_model": ROOT}
    early = await it.client.post("/v1/runs", json=run)
    assert (early.status_code, early.json()["code"]) == (409, "context_open")
    assert (await it.client.get(place)).json()["parts"] == 2
    sealed = (await it.client.post(f"{place}/seal")).json()
    assert sealed["context_id"] == opened["context_id"]
    assert (sealed["status"], sealed["type"], sealed["length"], sealed["size_bytes"]) == ("sealed", "dict", 2, 3)
    assert (await it.client.post(f"{place}/seal")).json() == sealed
    late = await it.client.put(f"{place}/parts/three.txt", content=b"3")
    assert (late.status_code, late.json()["code"]) == (409, "context_sealed")
    ended = (await it.client.post("/v1/runs", json=run, headers={"prefer": "wait=60"})).json()
    assert ended["answer"]["text"] == "2"


async def test_a_part_arrives_as_it_was_sent_or_not_at_all(it: Served) -> None:
    """With `content-digest` a changed byte is found, and the part is not there."""
    opened = (await it.client.post("/v1/contexts", json={"open": True})).json()
    place = f"/v1/contexts/{opened['context_id']}"
    digest = base64.b64encode(hashlib.sha256(b"sent").digest()).decode()
    header = {"content-digest": f"sha-256=:{digest}:, unknown=:AA==:"}
    assert (await it.client.put(f"{place}/parts/p", content=b"sent", headers=header)).status_code == 200
    changed = await it.client.put(f"{place}/parts/q", content=b"semt", headers=header)
    assert (changed.status_code, changed.json()["code"]) == (422, "digest_mismatch")
    unusable = await it.client.put(f"{place}/parts/q", content=b"x", headers={"content-digest": "sha-256=:?:"})
    assert unusable.status_code == 400
    assert (await it.client.get(place)).json()["parts"] == 1
    empty = (await it.client.post("/v1/contexts", json={"open": True})).json()
    assert (await it.client.post(f"/v1/contexts/{empty['context_id']}/seal")).status_code == 400


async def test_contexts_are_listed_page_by_page_and_deleted(it: Served) -> None:
    """The newest first, once each; what is deleted is gone, open ones too."""
    async with it.as_other_tenant() as client:
        made = [await it.stored(f"text {number}", client) for number in range(3)]
        first = (await client.get("/v1/contexts", params={"limit": 2})).json()
        rest = (await client.get("/v1/contexts", params={"limit": 2, "cursor": first["next_cursor"]})).json()
        assert [each["context_id"] for each in first["contexts"] + rest["contexts"]] == made[::-1]
        assert rest["next_cursor"] is None
        opened = (await client.post("/v1/contexts", json={"open": True})).json()["context_id"]
        for context_id in (made[0], opened):
            assert (await client.delete(f"/v1/contexts/{context_id}")).status_code == 204
            assert (await client.delete(f"/v1/contexts/{context_id}")).status_code == 404
            assert (await client.get(f"/v1/contexts/{context_id}")).status_code == 404


async def test_contexts_of_another_tenant_are_not_there(it: Served) -> None:
    """Whatever is tried with the id of a foreign context, open or sealed, is told what an id that nobody has is told,
    and changes nothing."""
    opened = (await it.client.post("/v1/contexts", json={"open": True})).json()["context_id"]
    sealed = await it.stored("ours")
    nobody = "ctx_" + "0" * 32
    async with it.as_other_tenant() as client:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/seal"), ("PUT", "/parts/x")):
            replies = [await client.request(method, f"/v1/contexts/{each}{path}") for each in (opened, sealed, nobody)]
            assert [reply.status_code for reply in replies] == [404, 404, 404]
            bodies = [
                json.dumps(reply.json()).replace(each, "ID").replace(reply.headers["x-request-id"], "REQUEST")
                for reply, each in zip(replies, (opened, sealed, nobody), strict=True)
            ]
            assert bodies[0] == bodies[1] == bodies[2]
    assert (await it.client.get(f"/v1/contexts/{opened}")).json()["parts"] == 0
    assert (await it.client.get(f"/v1/contexts/{sealed}")).status_code == 200
