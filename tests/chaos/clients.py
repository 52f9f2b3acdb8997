"""Clients: submit runs, follow them through every failure, and say what they saw.

A client does what the documentation asks of one: it sends an `Idempotency-Key`, sends a request again that got no
answer or one that may be retried, and goes on following behind the last event that it has.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from tests.chaos.plays import LOOKS, NOTES, Play
from tests.chaos.upstream import ROOT, SUB

_RETRIED = frozenset({409, 429, 500, 502, 503})
PATIENCE_S = 240.0
"""Of one client with one run, faults and all: several of them may strike one run after the other."""


class Refused(Exception):
    """A request was answered with what no client can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a client saw of one run, to its end or to the end of its patience."""

    play: Play
    run_id: str | None = None
    session_id: str | None = None
    stop_reason: str | None = None
    answer: str | None = None
    complaint: str = ""
    """What no client should have to see."""


@dataclass(eq=False)
class Client:
    """Of one address, with one key."""

    http: httpx.AsyncClient
    forgives: bool = True
    """Whether requests that failed are sent again; else they are complaints at once."""
    patience_s: float = PATIENCE_S
    requests: int = 0
    complaints: list[str] = field(default_factory=list)

    async def play(self, play: Play, session_id: str | None = None) -> Seen:
        """Submit the run and follow it to its end."""
        run_id = None
        try:
            with anyio.fail_after(self.patience_s):
                stored = await self._send("POST", "/v1/contexts", {"text": play.context}, key=f"{play.tag}-context")
                body: dict[str, object] = {
                    "question": play.question,
                    "contexts": [{"context_id": stored["context_id"]}],
                    "root_model": ROOT,
                    "sub_model": SUB,
                }
                if session_id is not None:
                    body["session_id"] = session_id
                run_id = (await self._send("POST", "/v1/runs", body, key=play.tag))["run_id"]
                gap = await self._follow(run_id)
                shown = await self._send("GET", f"/v1/runs/{run_id}")
        except (TimeoutError, Refused) as exc:
            what = "patience is at its end" if isinstance(exc, TimeoutError) else str(exc)
            return Seen(play=play, run_id=run_id, session_id=session_id, complaint=what)
        answer = shown["answer"]
        return Seen(
            play=play,
            run_id=run_id,
            session_id=session_id,
            stop_reason=shown["stop_reason"],
            answer=None if answer is None else answer["text"],
            complaint=gap,
        )

    async def play_session(self, name: str) -> list[Seen]:
        """Runs of one session one after the other, and a cell of its own at last."""
        plays = [Play(kind="session", tag=f"{name}r{n}", session=name, index=n) for n in range(NOTES)]
        try:
            with anyio.fail_after(self.patience_s):
                session_id = (await self._send("POST", "/v1/sessions", {"name": name}, key=name))["session_id"]
        except (TimeoutError, Refused) as exc:
            return [Seen(play=plays[0], complaint=f"no session: {exc}")]
        seen: list[Seen] = []
        for play in plays:
            seen.append(await self.play(play, session_id))
            if seen[-1].complaint:
                return seen
        return [*seen, await self._look(session_id, Play(kind="cell", tag=f"{name}cell", session=name))]

    async def _look(self, session_id: str, play: Play) -> Seen:
        """What a cell of the session's own finds of that which its runs have left; then the session is closed."""
        path = f"/v1/sessions/{session_id}"
        try:
            with anyio.fail_after(self.patience_s):
                cell = await self._send("POST", f"{path}/cells", {"code": LOOKS}, key=session_id)
                await self._send("DELETE", path)
        except (TimeoutError, Refused) as exc:
            return Seen(play=play, session_id=session_id, complaint=f"direct cell: {exc!r}")
        return Seen(
            play=play,
            run_id=cell["run_id"],
            session_id=session_id,
            stop_reason=cell["stop_reason"],
            answer=cell["stdout"]["head"].removesuffix("\n"),
        )

    async def _follow(self, run_id: str) -> str:
        """Take in every event up to the last; what was wrong with their order, if anything."""
        last = 0
        while True:
            try:
                async with aclosing(self._events(run_id, last)) as events:
                    async for seq, name in events:
                        if seq != last + 1:
                            return f"event {seq} of {run_id} came behind event {last}"
                        last = seq
                        if name == "RunFinished":
                            return ""
            except httpx.TransportError:
                pass  # a stream may break: it goes on behind the last event
            await anyio.sleep(0.1)

    async def _events(self, run_id: str, after: int) -> AsyncGenerator[tuple[int, str], None]:
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        self.requests += 1
        async with self.http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as reply:
            if reply.status_code != 200:
                await reply.aread()
                self._refused(f"GET events: {reply.status_code} {reply.text[:200]}")
                return
            seq = 0
            async for line in reply.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seq = int(value)
                elif name == "event" and seq:
                    yield seq, value

    async def _send(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> Any:
        """Raises `Refused`."""
        headers = {} if key is None else {"idempotency-key": key}
        pause_s = 0.1
        while True:
            self.requests += 1
            try:
                reply = await self.http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as exc:
                self._refused(f"{method} {path}: {exc!r}")
            else:
                if reply.is_success:
                    return json.loads(reply.content) if reply.content else None
                if method == "DELETE" and reply.status_code == 404:
                    return None
                self._refused(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
                if reply.status_code not in _RETRIED:
                    raise Refused(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
            await anyio.sleep(pause_s)
            pause_s = min(1.0, 2 * pause_s)

    def _refused(self, what: str) -> None:
        if not self.forgives:
            self.complaints.append(what)
