"""Sessions over HTTP: an execution service with variables and files."""

import base64
import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests.runs.playing import SUB, repl
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio


async def opened(it: Served, **given: object) -> str:
    reply = await it.client.post("/v1/sessions", json=given)
    assert reply.status_code == 201, reply.text
    location: str = reply.headers["location"]
    assert (await it.client.get(location)).json() == reply.json()
    return location


async def test_a_cell_answers_with_what_it_printed_and_raised(it: Served) -> None:
    """JSON with both streams, the new variables and what was raised; the cell's own run is named and can be shown."""
    session = await opened(it, name="n", metadata={"k": "v"})
    reply = await it.client.post(
        f"{session}/cells", json={"code": "import sys\nx = 6 * 7\nprint('é', file=sys.stderr)\nx"}
    )
    assert reply.status_code == 200, reply.text
    cell = reply.json()
    assert (cell["status"], cell["stdout"]["head"], cell["stderr"]["head"]) == ("ok", "42\n", "é\n")
    assert (cell["stop_reason"], cell["variables"]) == ("cell_done", ["sys", "x"])
    assert cell["run_id"] == reply.headers["x-rlm-run-id"]
    assert (await it.client.get(f"/v1/runs/{cell['run_id']}")).json()["stop_reason"] == "cell_done"
    raised = (await it.client.post(f"{session}/cells", json={"code": "x / 0"})).json()["raised"]
    assert raised["type"] == "ZeroDivisionError"
    shown = (await it.client.get(session)).json()
    assert (shown["state"], shown["generation"], shown["name"]) == ("ready", 1, "n")


async def test_a_cell_streams_what_it_prints(it: Served) -> None:
    """Events `stdout` and `stderr` while the cell runs, which a file that is put meanwhile ends, then `result`."""
    session = await opened(it)
    code = (
        "import os, tempfile, time\nprint('one', flush=True)\n"
        "while not os.path.exists(tempfile.gettempdir() + '/go'): time.sleep(0.01)\nprint('two')"
    )
    events: list[tuple[str, dict[str, object]]] = []
    headers = {"accept": "text/event-stream"}
    async with it.client.stream("POST", f"{session}/cells", json={"code": code}, headers=headers) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
                if len(events) == 1:
                    assert (await it.client.put(f"{session}/files/go", content=b"")).status_code == 201
    assert events[0] == ("stdout", {"text": "one\n", "missed_bytes": 0})
    assert "".join(str(data["text"]) for name, data in events if name == "stdout") == "one\ntwo\n"
    assert (events[-1][0], events[-1][1]["status"]) == ("result", "ok")


async def test_the_caller_of_a_cell_hears_what_a_rebuild_lost(it: Served) -> None:
    """A cell that ends the interpreter answers with the variables that are gone and the cells that ended otherwise."""
    session = await opened(it)
    code = "import os\nprint(os.urandom(8).hex())\nx = 1"
    made = (await it.client.post(f"{session}/cells", json={"code": code})).json()
    assert (made["missing"], made["diverged"], made["missing_files"], made["message"]) == ([], [], [], "")
    died = (await it.client.post(f"{session}/cells", json={"code": "os._exit(3)"})).json()
    assert (died["namespace_lost"], died["missing"], died["missing_files"]) == (True, ["os", "x"], [])
    assert [cell.partition(".")[0] for cell in died["diverged"]] == [made["run_id"]]
    assert "2 variables are missing, 1 earlier cells did not end as before" in died["message"]


async def test_a_repeated_cell_runs_once(it: Served) -> None:
    """The same request under the same Idempotency-Key gets the first one's result, and the code runs once."""
    session = await opened(it)
    body, headers = {"code": "x = globals().get('x', 0) + 1\nx"}, {"idempotency-key": "k1"}
    first, second = [await it.client.post(f"{session}/cells", json=body, headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    assert first.json()["stdout"]["head"] == "1\n"
    assert second.headers["idempotent-replayed"] == "true"


async def test_one_idempotency_key_in_two_sessions_is_two_requests(it: Served) -> None:
    """The same key and body to another session runs the code there, and does not answer with the first one's run."""
    body, headers = {"code": "marker"}, {"idempotency-key": "k2"}
    for name in ("one", "two"):
        session = await opened(it)
        await it.client.post(f"{session}/cells", json={"code": f"marker = '{name}'"})
        reply = await it.client.post(f"{session}/cells", json=body, headers=headers)
        assert "idempotent-replayed" not in reply.headers
        assert reply.json()["stdout"]["head"] == f"'{name}'\n"


async def test_a_sub_call_of_a_cell_is_charged(it: Served) -> None:
    """A cell's `llm_query` goes to the session's model, and the answer says what it cost."""
    session = await opened(it, sub_model=SUB)
    cell = (await it.client.post(f"{session}/cells", json={"code": "print(llm_query('hello'))"})).json()
    assert cell["stdout"]["head"] == "hello\n"
    assert cell["spent"]["nano_usd"] > 0


async def test_a_session_that_names_no_model_uses_the_operators(it: Served) -> None:
    """Without a `sub_model` a cell's `llm_query` goes to the operator's default, and is paid."""
    session = await opened(it)
    cell = (await it.client.post(f"{session}/cells", json={"code": "print(llm_query('hello'))"})).json()
    assert cell["stdout"]["head"] == "hello\n"
    assert cell["spent"]["nano_usd"] > 0
    assert (await it.client.get(f"/v1/runs/{cell['run_id']}")).json()["sub_model"] == SUB


async def test_a_key_without_the_default_model_gets_no_sub_calls(it: Served) -> None:
    """Where the key's allow-list lacks the operator's default, `llm_query` of a session that names no model is refused
    with what to do, whatever model it asks for, nothing is asked or paid, and the cell goes on."""
    asked = len(it.model.sub_requests)
    async with it.client_with(await it.secret(models=("other/*",))) as client:
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        code = (
            "one = llm_query('hello')\nmany = llm_query_batched(['a', 'b'], model='scripted/sub')\n"
            "print([a.ok for a in (one, *many)], one)"
        )
        cell = (await client.post(f"{session}/cells", json={"code": code})).json()
    assert cell["stdout"]["head"].startswith("[False, False, False]"), cell
    assert "this session has no sub_model: name one when you make it, or PATCH it" in cell["stdout"]["head"]
    assert (cell["status"], cell["spent"]["nano_usd"]) == ("ok", 0)
    assert len(it.model.sub_requests) == asked


async def test_contexts_are_attached(it: Served) -> None:
    """A context given with a cell is there under its name, for later cells too."""
    session = await opened(it)
    contexts = [{"context_id": await it.stored("four"), "variable": "given"}]
    await it.client.post(f"{session}/cells", json={"code": "", "contexts": contexts})
    cell = (await it.client.post(f"{session}/cells", json={"code": "given, context"})).json()
    assert cell["stdout"]["head"] == "('four', 'four')\n"


async def test_variables_are_written_and_read(it: Served) -> None:
    """Text and JSON go in and come out; lists name types and sizes; what cannot be had is told with a status."""
    variables = f"{await opened(it)}/variables"
    assert (await it.client.put(f"{variables}/rows", json=[{"a": 1}])).status_code == 204
    text = {"content-type": "text/plain"}
    assert (await it.client.put(f"{variables}/note", content="né\r\n".encode(), headers=text)).status_code == 204
    assert (await it.client.get(variables)).json() == {
        "variables": [{"name": "note", "type": "str", "size": 4}, {"name": "rows", "type": "list", "size": 1}]
    }
    assert (await it.client.get(f"{variables}/rows")).json() == [{"a": 1}]
    assert (await it.client.get(f"{variables}/note?as=text")).content == "né\r\n".encode()
    assert (await it.client.get(f"{variables}/none")).status_code == 404
    assert (await it.client.get(f"{variables}/note?limit_bytes=2")).status_code == 413
    assert (
        await it.client.put(f"{variables}/rows", content=b"{", headers={"content-type": "application/json"})
    ).status_code == 422
    assert (await it.client.put(f"{variables}/llm_query", json=1)).status_code == 400


async def test_a_variable_without_json_is_told_to_be_read_as_text(it: Served) -> None:
    """What JSON cannot say is refused with the form that does."""
    session = await opened(it)
    assert (await it.client.post(f"{session}/cells", json={"code": "o = {1, 2}"})).status_code == 200
    refused = await it.client.get(f"{session}/variables/o")
    assert (refused.status_code, refused.json()["code"]) == (422, "value_unserialisable")
    assert "try ?as=text" in refused.json()["detail"]
    assert (await it.client.get(f"{session}/variables/o?as=text")).text == "{1, 2}"


async def test_files_are_put_read_in_part_listed_and_deleted(it: Served) -> None:
    """Bytes come back as they were, whole or by range; hostile paths and missing files are refused."""
    files = f"{await opened(it)}/files"
    content = bytes(range(256)) * 8192
    put = await it.client.put(f"{files}/in/data%0A.bin", content=content)
    assert put.json() == {
        "path": "in/data\n.bin",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert (await it.client.get(files)).json() == {
        "files": [{"path": "in/data\n.bin", "size_bytes": len(content)}],
        "is_complete": True,
    }
    read = await it.client.get(f"{files}/in/data%0A.bin")
    assert (read.content, read.headers["content-length"]) == (content, str(len(content)))
    part = await it.client.get(f"{files}/in/data%0A.bin", headers={"range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, content[-5:])
    assert part.headers["content-range"] == f"bytes {len(content) - 5}-{len(content) - 1}/{len(content)}"
    beyond = await it.client.get(f"{files}/in/data%0A.bin", headers={"range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    resumed = {"range": "bytes=5-", "if-range": read.headers["etag"]}
    rest = await it.client.get(f"{files}/in/data%0A.bin", headers=resumed)
    assert (rest.status_code, rest.content) == (206, content[5:])
    digest = base64.b64encode(hashlib.sha256(b"sent").digest()).decode()
    header = {"content-digest": f"sha-256=:{digest}:"}
    changed = await it.client.put(f"{files}/in/data%0A.bin", content=b"came", headers=header)
    assert (changed.status_code, changed.json()["code"]) == (422, "digest_mismatch")
    assert (await it.client.get(f"{files}/in/data%0A.bin", headers=resumed)).content == content[5:]
    assert (await it.client.put(f"{files}/in/data%0A.bin", content=b"sent", headers=header)).status_code == 201
    assert (await it.client.get(f"{files}/in/data%0A.bin", headers=resumed)).content == b"sent"
    assert (await it.client.delete(f"{files}/in/data%0A.bin")).status_code == 204
    assert (await it.client.get(f"{files}/in/data%0A.bin")).status_code == 404
    for path in ("%2e%2e/x", "a/%2e%2e/b", "/etc/passwd", "x" * 300, "%00"):
        assert (await it.client.get(f"{files}/{path}")).status_code == 400, path
        assert (await it.client.put(f"{files}/{path}", content=b"x")).status_code == 400, path
    assert (await it.client.get(f"{files}/in")).status_code == 409


async def test_a_session_is_interrupted_restarted_paused_and_closed(it: Served) -> None:
    """Each does what it says, as the session's state shows."""
    session = await opened(it)
    await it.client.post(f"{session}/cells", json={"code": "x = 1"})
    code, headers = "print('on', flush=True)\nwhile True: pass", {"accept": "text/event-stream"}
    async with it.client.stream("POST", f"{session}/cells", json={"code": code}, headers=headers) as reply:
        async for line in reply.aiter_lines():
            if "on" in line:
                assert (await it.client.post(f"{session}/interrupt")).status_code == 202
            if "stop_reason" in line:
                result = json.loads(line.removeprefix("data: "))
    assert (result["stop_reason"], result["raised"]["type"]) == ("cancelled", "KeyboardInterrupt")
    assert (await it.client.post(f"{session}/cells", json={"code": "x"})).json()["stdout"]["head"] == "1\n"
    assert (await it.client.post(f"{session}/restart")).status_code == 200
    assert (await it.client.get(f"{session}/variables")).json() == {"variables": []}
    assert (await it.client.post(f"{session}/pause")).json()["state"] == "paused"
    refused = await it.client.post(f"{session}/cells", json={"code": "1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "session_paused")
    assert (await it.client.post(f"{session}/resume")).json()["state"] == "idle"
    changed = await it.client.patch(session, json={"name": "other", "budget_usd": "2.5"})
    assert (changed.json()["name"], changed.json()["budget"]["usd"]) == ("other", "2.50")
    assert (await it.client.delete(session)).status_code == 204
    assert (await it.client.get(session)).json()["state"] == "closed"
    assert (await it.client.post(f"{session}/cells", json={"code": "1"})).status_code == 400


async def test_a_runs_artifacts_are_its_sessions_files(tmp_path: Path) -> None:
    """What code of a run wrote into its session's working directory is listed with the run; without one, nothing is."""
    writes = repl(
        "import tempfile\nwith open(tempfile.gettempdir() + '/out.csv', 'w') as f: f.write('1,2')\nFINAL('x')"
    )
    async with served(tmp_path, writes) as it:
        session_id = (await opened(it)).rpartition("/")[2]
        for more, files in (({"session_id": session_id}, [{"path": "out.csv", "size_bytes": 3}]), ({}, [])):
            wait = {"prefer": "wait=60"}
            run = (await it.client.post("/v1/runs", json=await it.submission(**more), headers=wait)).json()
            assert run["stop_reason"] == "answered", run
            found = (await it.client.get(f"/v1/runs/{run['run_id']}/artifacts")).json()
            assert found == {"session_id": run["session_id"], "files": files, "is_complete": True}


async def test_sessions_are_listed_page_by_page(it: Served) -> None:
    """Newest first, each once."""
    async with it.as_other_tenant() as client:
        made = [(await client.post("/v1/sessions", json={})).json()["session_id"] for _ in range(3)]
        first = (await client.get("/v1/sessions?limit=2")).json()
        second = (await client.get("/v1/sessions", params={"limit": 2, "cursor": first["next_cursor"]})).json()
        found = [each["session_id"] for each in first["sessions"] + second["sessions"]]
        assert found == made[::-1]
        assert second["next_cursor"] is None


async def test_another_tenant_finds_nothing(it: Served) -> None:
    """Every route of somebody else's session is 404, in the words of an id that nobody has."""
    async with it.as_other_tenant() as other:
        mine, nobody = await opened(it), "/v1/sessions/ses_" + "0" * 32

        async def ask(session: str) -> list[tuple[int, str]]:
            replies: list[httpx.Response] = [
                await other.get(session),
                await other.patch(session, json={"name": "x"}),
                await other.post(f"{session}/cells", json={"code": "1"}),
                *[await other.post(f"{session}/{act}") for act in ("interrupt", "restart", "pause", "resume")],
                await other.get(f"{session}/variables"),
                await other.get(f"{session}/variables/x"),
                await other.put(f"{session}/variables/x", json=1),
                await other.get(f"{session}/files"),
                await other.get(f"{session}/files/x"),
                await other.put(f"{session}/files/x", content=b"x"),
                await other.delete(f"{session}/files/x"),
                await other.delete(session),
            ]
            return [(r.status_code, r.json()["detail"].replace(session.rpartition("/")[2], "")) for r in replies]

        found = await ask(mine)
        assert found == await ask(nobody)
        assert {status for status, _ in found} == {404}
        assert (await it.client.get(mine)).json()["state"] == "idle"
