"""Models and files as OpenAI's clients know them."""

from pathlib import Path

import pytest

from tests.runs.playing import ROOT, SUB
from tests.web.serving import served

pytestmark = pytest.mark.anyio


async def test_models_are_profiles_as_far_as_the_key_may_name_them(tmp_path: Path) -> None:
    """A list in both shapes in use, one by one, and nothing that the key cannot name."""
    async with served(tmp_path) as it:
        listed = (await it.client.get("/v1/models")).json()
        names = [each["id"] for each in listed["data"]]
        assert names == ["rlm/auto", "rlm/deep", "rlm/default", "rlm/fast"]
        assert (listed["first_id"], listed["has_more"]) == ("rlm/auto", False)
        for name in (*names, f"direct/{SUB}"):
            assert (await it.client.get(f"/v1/models/{name}")).json()["id"] == name
        assert (await it.client.get("/v1/models/rlm/none")).status_code == 404
        async with it.client_with(await it.secret(models=("rlm/fast",))) as client:
            assert [each["id"] for each in (await client.get("/v1/models")).json()["data"]] == ["rlm/fast"]
            assert (await client.get("/v1/models/rlm/deep")).status_code == 404


async def test_a_model_is_listed_for_a_key_that_allows_what_it_stands_for(tmp_path: Path) -> None:
    """A name is shown by the rule by which it can be asked: it is on the key's list, or all models behind it are."""
    async with served(tmp_path) as it:
        async with it.client_with(await it.secret(models=("openai/*",))) as client:
            listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
            assert listed == ["rlm/auto", "rlm/deep", "rlm/default", "rlm/fast"]
            for name in ("rlm/default", f"direct/{SUB}"):
                assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
                body = {"model": name, "messages": [{"role": "user", "content": "How long?"}]}
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        async with it.client_with(await it.secret(models=(ROOT,))) as client:
            listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
            assert listed == ["rlm/auto"], "small questions to it need no model of sub-calls"
            body = {"model": "rlm/default", "messages": [{"role": "user", "content": "How long?"}]}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 403


async def test_a_file_is_a_context(tmp_path: Path) -> None:
    """Stored from a form, listed, read back byte for byte, asked about, deleted; never anybody else's."""
    text = "first\r\n--not the boundary\r\n" * 5_000
    async with served(tmp_path) as it:
        files = {"file": ("notes.txt", text.encode())}
        stored = (await it.client.post("/v1/files", files=files, data={"purpose": "assistants"})).json()
        assert (stored["object"], stored["filename"], stored["bytes"]) == ("file", "notes.txt", len(text))
        path = f"/v1/files/{stored['id']}"
        assert (await it.client.get(path)).json() == stored
        assert (await it.client.get(f"{path}/content")).text == text
        assert (await it.client.get("/v1/files")).json()["data"] == [stored]
        part = {"type": "file", "file": {"file_id": stored["id"]}}
        asks = {"role": "user", "content": [part, {"type": "text", "text": "How long?"}]}
        reply = await it.client.post("/v1/chat/completions", json={"model": "rlm/default", "messages": [asks]})
        assert reply.json()["choices"][0]["message"]["content"] == str(len(text))
        async with it.as_other_tenant() as other:
            assert (await other.get(path)).status_code == 404
            assert (await other.delete(path)).status_code == 404
        assert (await it.client.delete(path)).json() == {"id": stored["id"], "object": "file", "deleted": True}
        assert (await it.client.get(path)).status_code == 404


async def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    """A form that breaks off, has no file, no names or endless headers."""
    async with served(tmp_path) as it:
        form = {"content-type": "multipart/form-data; boundary=x"}
        head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for body in (b"", b"--x--", head + b"text", b"--x\r\n\r\ntext\r\n--x--", b"--x\r\n" + b"a" * 9000):
            reply = await it.client.post("/v1/files", content=body, headers=form)
            assert reply.status_code == 400, body[:20]
        assert (await it.client.post("/v1/files", json={})).status_code == 415
        reply = await it.client.post("/v1/files", content=head + b"text\r\n--x--\r\n", headers=form)
        assert (reply.status_code, reply.json()["bytes"]) == (200, 4)
