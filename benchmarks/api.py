"""What the REST API costs: a run and a cell over it against the same inside the process, followers, and uploads."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from benchmarks.cpu import cpu_seconds
from benchmarks.duels import CONTEXT, QUESTION, TURNS_ANSWER
from benchmarks.material import MB, write_text
from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from benchmarks.rows import Row, row_of
from benchmarks.served import Served
from benchmarks.service_side import WrongAnswer
from benchmarks.worker import Worker, milliseconds
from service.ids import RunId
from service.loop.events import CancelRequested
from service.runs.session_use.direct_cells import DirectCells
from service.runs.session_use.sessions import SessionDesk
from service.runs.session_use.values import CellAsked, SessionChange

FOLLOWERS = 1000
KB = 1000
SETTLE_S = 2.0
"""Until what a start or a connection leads to is over."""
UPLOAD_BYTES = 1 << 30
NEVER = "echo-600000"
"""A root LM that thinks for longer than anybody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiEffort:
    """How many rounds, and for how long followers are watched doing nothing."""

    runs: int
    cells: int
    followed: int
    idle_s: float
    uploads: int


FULL = ApiEffort(runs=15, cells=200, followed=3, idle_s=20.0, uploads=3)
QUICK = ApiEffort(runs=2, cells=10, followed=1, idle_s=5.0, uploads=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Our side behind its API, a client in a process of its own, and a bare process."""

    served: Served
    client: Worker
    bare: Worker
    scratch: Path
    effort: ApiEffort

    async def row(self, name: str, unit: str) -> Row:
        """Measure one benchmark."""
        measure: dict[str, Callable[[str, str], Awaitable[Row]]] = {
            "api_run_overhead": self._run_overhead,
            "api_cell_overhead": self._cell_overhead,
            "sse_idle_followers": self._followers_delay,
            "sse_idle_followers_memory": self._followers_memory,
            "sse_idle_followers_cpu": self._followers_cpu,
            "upload": self._upload,
            "upload_memory": self._upload_memory,
        }
        return await measure[name](name, unit)

    async def _ask(self, do: str, **arguments: object) -> list[float]:
        """What the client measured, in milliseconds."""
        return await self.client.samples(do, port=self.served.port, key=self.served.key, **arguments)

    async def _run_overhead(self, name: str, unit: str) -> Row:
        """Text stored, run submitted and waited for, answer read; turn about, one round of each before."""
        side = self.served.side
        models = {"root_model": "bench/turns-5", "sub_model": "bench/echo-0"}
        asked = {"question": QUESTION, **models, "limits": {"depth": 0, "cost_usd": None}}
        over_rest: list[float] = []
        inside: list[float] = []
        for number in range(self.effort.runs + 1):
            await side.calm()
            theirs = await self._ask("run", asked=asked, context=CONTEXT, answer=TURNS_ANSWER)
            await side.calm()
            seconds, answer = await side.run("turns-5", "echo-0", CONTEXT, QUESTION)
            if answer != TURNS_ANSWER:
                raise WrongAnswer(f"expected the answer {TURNS_ANSWER!r}, found {answer!r}")
            if number:
                over_rest += theirs
                inside.append(milliseconds(seconds))
        return row_of(name, unit, over_rest, inside)

    async def _cell_overhead(self, name: str, unit: str) -> Row:
        """Direct cells of one session, over REST and inside the process."""
        runs = self.served.side.service.runs
        desk = SessionDesk(runs)
        cells = DirectCells(runs, desk)
        session_id = (await desk.open(SessionChange())).session_id
        over_rest: list[float] = []
        inside: list[float] = []
        for number in range(5 + 1):
            count = self.effort.cells // 5
            theirs = await self._ask("cells", session_id=session_id, count=count)
            ours = []
            for at in range(count):
                started = time.perf_counter()
                done = await cells.done(await cells.start(session_id, CellAsked(code=f"print({at})")))
                ours.append(milliseconds(time.perf_counter() - started))
                if done.result is None or done.result.stdout.head.strip() != str(at):
                    raise WrongAnswer(f"expected a cell to print {at}, found {done}")
            if number:
                over_rest += theirs
                inside += ours
        await desk.close(session_id)
        return row_of(name, unit, over_rest, inside)

    async def _followers_delay(self, name: str, unit: str) -> Row:
        """From the time that an event bears until the last of all followers was told of it; other: until a sole one."""
        of_all = [await self._told_after(FOLLOWERS) for _ in range(self.effort.followed)]
        of_one = [await self._told_after(1) for _ in range(self.effort.followed)]
        return row_of(name, unit, of_all, of_one)

    async def _told_after(self, followers: int) -> float:
        """Milliseconds from a run's cancellation until the last follower knew."""
        run_id = await self.served.side.begin(NEVER, NEVER, CONTEXT, QUESTION)
        await self._follow(run_id, followers)
        await self._cancel(run_id)
        recorded = await self.served.side.service.runs.rooms.events_of(run_id)
        at = next(each.event.at for each in recorded if isinstance(each.event, CancelRequested))
        told = await self.client.call("heard", event="CancelRequested")
        await self.client.call("heard", event="RunFinished")
        await self.client.call("unfollow")
        if len(told) != followers:
            raise WrongAnswer(f"expected {followers} followers to be told, found {len(told)}")
        return milliseconds(max(told) - at)

    async def _followers_memory(self, name: str, unit: str) -> Row:
        """What the service's process grows by for each follower, the first time that so many come. Floor: what a bare
        asyncio server grows by for a connection that says nothing."""
        run_id = await self.served.side.begin(NEVER, NEVER, CONTEXT, QUESTION)
        before = resident_bytes()
        await self._follow(run_id, FOLLOWERS)
        await anyio.sleep(SETTLE_S)
        ours = (resident_bytes() - before) / FOLLOWERS / KB
        await self.client.call("unfollow")
        await self._cancel(run_id)
        floor = await self.bare.call("idle_connections", count=FOLLOWERS)
        return row_of(name, unit, [ours], [floor / FOLLOWERS / KB], n=FOLLOWERS)

    async def _followers_cpu(self, name: str, unit: str) -> Row:
        """CPU of service and store in a second in which nothing happens, keep-alives included. Other: without them."""
        run_id = await self.served.side.begin(NEVER, NEVER, CONTEXT, QUESTION)
        alone = await self._idle_cpu()
        await self._follow(run_id, FOLLOWERS)
        watched = await self._idle_cpu()
        await self.client.call("unfollow")
        await self._cancel(run_id)
        return row_of(name, unit, [watched], [alone], n=FOLLOWERS)

    async def _idle_cpu(self) -> float:
        """Milliseconds in a second."""
        await anyio.sleep(SETTLE_S)
        pids = (os.getpid(), await self.served.side.store_pid())
        before, started = sum(cpu_seconds(pid) for pid in pids), time.perf_counter()
        await anyio.sleep(self.effort.idle_s)
        used, seconds = sum(cpu_seconds(pid) for pid in pids) - before, time.perf_counter() - started
        return milliseconds(used) / seconds

    async def _upload(self, name: str, unit: str) -> Row:
        """One request with all of it, until it is stored. Floor: copied, hashed, forced to disk."""
        ours, floor = [], []
        for number in range(self.effort.uploads):
            path = self._file(number)
            (sent_ms,) = await self._ask("upload", path=str(path), size_bytes=UPLOAD_BYTES)
            ours.append(UPLOAD_BYTES / MB / (sent_ms / 1000))
            (seconds,) = await self.bare.call(
                "copy_and_hash", count=1, source=str(path), target=str(self.scratch / "copied")
            )
            floor.append(UPLOAD_BYTES / MB / seconds)
            path.unlink()
        return row_of(name, unit, ours, floor)

    async def _upload_memory(self, name: str, unit: str) -> Row:
        """The most memory that the service's process had during an upload. Other: what it had before it."""
        path = self._file(self.effort.uploads)
        before = resident_bytes()
        restart_peak()
        await self._ask("upload", path=str(path), size_bytes=UPLOAD_BYTES)
        peak = peak_bytes()
        path.unlink()
        return row_of(name, unit, [peak / MB], [before / MB])

    def _file(self, number: int) -> Path:
        """Of other content each time: what is stored already is stored at once."""
        path = write_text(self.scratch / f"upload-{number}.txt", UPLOAD_BYTES)
        with path.open("r+b") as file:
            file.write(b"%012d" % (number + 1))
        return path

    async def _follow(self, run_id: RunId, count: int) -> None:
        await self.client.call("follow", port=self.served.port, key=self.served.key, run_id=run_id, count=count)

    async def _cancel(self, run_id: RunId) -> None:
        """Returns when it has ended."""
        runs = self.served.side.service.runs
        await runs.cancel(run_id)
        await runs.rooms.journal.wait_until_finished(run_id)
