"""Events of a run: a stream that can be taken up again, and pages."""

import gc
import json
import os
import tracemalloc
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from service.journal.redis_journal import Journal
from service.loop.events import SandboxLost
from service.web import event_streams
from service.web.event_streams import follow
from service.web.rooms import Drain
from tests.journal.runs import submitted
from tests.runs.playing import repl
from tests.store_fixture import Stored, store_directory, stored  # noqa: F401
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

STREAM = {"accept": "text/event-stream"}


def parsed(text: str) -> list[dict[str, str]]:
    """The fields of each event of a stream; comments under the empty name."""
    events = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in filter(None, block.split("\n")):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        if fields:
            events.append(fields)
    return events


async def ended_run(it: Served) -> str:
    reply = await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=60"})
    assert reply.status_code == 200, reply.text
    run_id: str = reply.json()["run_id"]
    return run_id


async def test_a_stream_tells_every_event_from_the_first_to_the_last_and_ends(it: Served) -> None:
    """Numbers as ids, types as names, the event as JSON; `RunFinished` is the last."""
    run_id = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
    reply = await it.client.get(f"/v1/runs/{run_id}/events", headers=STREAM)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [event for event in parsed(reply.text) if "data" in event]
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["event"], events[-1]["event"]) == ("RunSubmitted", "RunFinished")
    for event in events:
        data = json.loads(event["data"])
        assert (data["seq"], data["type"]) == (int(event["id"]), event["event"])


async def test_a_broken_stream_goes_on_behind_the_last_event_that_came(it: Served) -> None:
    """`Last-Event-ID`, or `after`, gives what follows and nothing twice; behind the end there is nothing to come back
    for."""
    run_id = await ended_run(it)
    url = f"/v1/runs/{run_id}/events"
    whole = [event for event in parsed((await it.client.get(url, headers=STREAM)).text) if "data" in event]
    rest = await it.client.get(url, headers=STREAM | {"last-event-id": "2"})
    assert [event for event in parsed(rest.text) if "data" in event] == whole[2:]
    assert (await it.client.get(url, headers=STREAM, params={"after": 2})).text == rest.text
    over = await it.client.get(url, headers=STREAM | {"last-event-id": whole[-1]["id"]})
    assert (over.status_code, over.content) == (204, b"")
    for hostile in ("x", "-1", "9" * 19, "²", str(int(whole[-1]["id"]) + 1)):
        reply = await it.client.get(
            url, headers=[(b"accept", b"text/event-stream"), (b"last-event-id", hostile.encode())]
        )
        assert reply.status_code == 400, hostile


async def test_pages_hold_the_same_events_as_the_stream(it: Served) -> None:
    """Page by page with `after`, as many as `limit` says; the last one says that it is."""
    url = f"/v1/runs/{await ended_run(it)}/events"
    whole = [event for event in parsed((await it.client.get(url, headers=STREAM)).text) if "data" in event]
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next_after": 0, "is_complete": False}
    while not page["is_complete"]:
        page = (await it.client.get(url, params={"after": page["next_after"], "limit": 2})).json()
        assert 1 <= len(page["events"]) <= 2
        found += page["events"]
    assert found == [json.loads(event["data"]) for event in whole]


async def test_a_page_behind_the_last_event_says_that_there_is_no_more(it: Served) -> None:
    """Whoever has the last event and asks again, as pollers do, is told that the run is complete."""
    run_id = await ended_run(it)
    last = (await it.client.get(f"/v1/runs/{run_id}/events", params={"limit": 500})).json()
    for after in (last["next_after"], last["next_after"] + 1):
        page = (await it.client.get(f"/v1/runs/{run_id}/events", params={"after": after})).json()
        assert page == {"events": [], "next_after": after, "is_complete": True}


async def test_the_first_byte_comes_at_once_and_pings_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that has nothing to tell begins with a comment and says ever again that it is alive."""
    monkeypatch.setattr(event_streams, "PING_S", 0.05)
    forever = repl("import time\nwhile True:\n    time.sleep(0.01)")
    async with served(tmp_path, forever) as it:
        run_id = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
        pings = 0
        async with it.client.stream("GET", f"/v1/runs/{run_id}/events", headers=STREAM) as stream:
            chunks = stream.aiter_text()
            assert (await anext(chunks)).startswith(f": events of {run_id}\n")
            while pings < 2:
                pings += (await anext(chunks)).count(": ping")
        await it.client.post(f"/v1/runs/{run_id}/cancel")


async def test_streams_end_when_the_replica_leaves_and_waits_come_back(tmp_path: Path) -> None:
    """Draining ends every open stream between two events, and answers whoever waits for a run's end."""
    forever = repl("import time\nwhile True:\n    time.sleep(0.01)")
    async with served(tmp_path, forever) as it:
        run_id = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
        await it.model.was_asked.wait()
        async with it.client.stream("GET", f"/v1/runs/{run_id}/events", headers=STREAM) as stream:
            chunks = stream.aiter_text()
            await anext(chunks)
            it.rooms.drain.begin()
            rest = "".join([chunk async for chunk in chunks])
        assert "RunFinished" not in rest
        waited = await it.client.get(f"/v1/runs/{run_id}", params={"wait": 60})
        assert waited.json()["status"] == "running"
        assert (await it.client.get("/readyz")).status_code == 503
        assert (await it.client.get("/livez")).status_code == 200


async def test_a_full_disk_is_told_by_readiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that could keep nothing asks to be sent nothing, and says why; with room it is ready again."""
    look = os.statvfs
    async with served(tmp_path) as it:

        def full(path: str | Path) -> os.statvfs_result:
            found = list(look(path))
            found[4] = 0  # blocks left
            return os.statvfs_result(found)

        async def told(status: int) -> object:
            with anyio.fail_after(60):
                while (reply := await it.client.get("/readyz")).status_code != status:
                    await anyio.lowlevel.checkpoint()
            return reply.json()["reason"]

        monkeypatch.setattr(os, "statvfs", full)
        assert await told(503) == "there is no room left on the disk of the data directory"
        monkeypatch.undo()
        assert await told(200) is None


async def test_the_events_of_a_run_that_there_is_not_are_not_found(it: Served) -> None:
    """Before anything is streamed: a 404 with the usual body, for a stream as for a page."""
    url = f"/v1/runs/run_{'0' * 32}/events"
    for headers in (STREAM, {}):
        reply: httpx.Response = await it.client.get(url, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("is_slow", [False, True])
async def test_followers_hold_little_however_much_they_have_been_told(
    stored: Stored,  # noqa: F811
    is_slow: bool,
) -> None:
    """Of a run with megabytes of events: idle ones next to nothing, and those that read nothing more no more than some
    events at a time."""
    journal, run = Journal(stored.store, stored.blobs, stored.tenant), submitted()
    epoch, events, at_once = await journal.open_run(run), 200, 12
    for _ in range(events):
        await journal.append(run.run_id, epoch, SandboxLost(at=1.0, message="x" * 12_000))

    async def follow_one(was_told: anyio.Event) -> None:
        async with aclosing(follow(journal, run.run_id, 0, Drain(lambda: None))) as pieces:
            seen = 0
            async for piece in pieces:
                seen += piece.count(b"event: SandboxLost")
                if seen == events or (is_slow and seen):
                    was_told.set()
                if is_slow and seen:
                    await anyio.sleep_forever()
                del piece

    async def held_with_more(followers: anyio.abc.TaskGroup) -> int:
        for was_told in [anyio.Event() for _ in range(at_once)]:
            followers.start_soon(follow_one, was_told)
            await was_told.wait()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        with anyio.fail_after(120):
            async with anyio.create_task_group() as followers:
                before = await held_with_more(followers)  # connections to the store have their buffers now
                held = (await held_with_more(followers) - before) / at_once
                followers.cancel_scope.cancel()
    finally:
        tracemalloc.stop()
    assert held < (2_000_000 if is_slow else 100_000), held
