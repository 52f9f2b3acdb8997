"""Ours against the reference library: the same work, the same model over HTTP, turn about on the same machine."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from benchmarks.material import MB, write_text
from benchmarks.rows import Row, row_of
from benchmarks.service_side import Side, WrongAnswer, run_cell
from benchmarks.worker import Worker, milliseconds

QUESTION = "How many words stand at the beginning of the context?"
CONTEXT = "one two three four five six seven eight nine ten\n"
TURNS_ANSWER = "10 words in 5 turns"
BATCH_ITEMS = 1000
IN_FLIGHT = 4
"""Runs in flight at once on either side where runs per second are counted: twice the cores of a small machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    ready_rounds: int
    cell_rounds: int
    cells_a_round: int
    batch_rounds: int
    run_rounds: int
    warm_up_s: float
    window_s: float


FULL = Effort(
    ready_rounds=7, cell_rounds=5, cells_a_round=10, batch_rounds=5, run_rounds=7, warm_up_s=10.0, window_s=60.0
)
QUICK = Effort(
    ready_rounds=2, cell_rounds=2, cells_a_round=3, batch_rounds=1, run_rounds=2, warm_up_s=3.0, window_s=5.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Both sides on one backend."""

    ours: Side
    reference: Worker
    scratch: Path
    effort: Effort

    async def row(self, name: str, unit: str) -> Row:
        """Measure one benchmark."""
        match name.removesuffix(f"_{self.ours.backend}").split("_"):
            case ["sandbox", "ready"]:
                return await self._turn_about(name, unit, self.effort.ready_rounds, self._our_ready, self._their_ready)
            case ["cell", size]:
                return await self._cells(name, unit, int(size.removesuffix("mb")) * MB or 1)
            case ["batch", _, latency]:
                model = f"echo-{latency.removesuffix('ms')}"
                return await self._turn_about(
                    name,
                    unit,
                    self.effort.batch_rounds,
                    lambda: self._our_batch(model),
                    lambda: self._their_batch(model),
                )
            case ["run", *_]:
                return await self._turn_about(name, unit, self.effort.run_rounds, self._our_run, self._their_run)
            case ["runs", *_]:
                return await self._runs_per_second(name, unit)
        raise ValueError(f"no benchmark of both sides is named {name}")

    async def _turn_about(
        self,
        name: str,
        unit: str,
        rounds: int,
        our_turn: Callable[[], Awaitable[list[float]]],
        their_turn: Callable[[], Awaitable[list[float]]],
    ) -> Row:
        """A, B, A, B …: whatever else the machine does meets both. One round before is not counted."""
        ours: list[float] = []
        other: list[float] = []
        for number in range(rounds + 1):
            await self.ours.calm()
            mine = await our_turn()
            await self.ours.calm()
            theirs = await their_turn()
            if number:
                ours += mine
                other += theirs
        return row_of(name, unit, ours, other)

    async def _our_ready(self) -> list[float]:
        return [milliseconds(await self.ours.ready())]

    async def _their_ready(self) -> list[float]:
        return await self.reference.samples("ready", environment=self.ours.backend)

    async def _cells(self, name: str, unit: str, size_bytes: int) -> Row:
        path = write_text(self.scratch / f"{name}.txt", size_bytes)
        context = await self.ours.service.contexts.put_text(path.name, path)
        count = self.effort.cells_a_round
        async with self._both_sessions(path) as _, self.ours.session(context) as sandbox:
            ours: list[float] = []
            other: list[float] = []
            for number in range(self.effort.cell_rounds + 1):
                mine = [milliseconds(await run_cell(sandbox, f"print({at})", str(at))) for at in range(count)]
                theirs = await self.reference.samples("cells", count=count if number else 1)
                if number:
                    ours += mine
                    other += theirs
        path.unlink()
        return row_of(name, unit, ours, other)

    @asynccontextmanager
    async def _both_sessions(self, path: Path) -> AsyncIterator[None]:
        await self.reference.call("open_session", environment=self.ours.backend, context=str(path))
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.reference.call("close_session")

    async def _our_batch(self, sub_model: str) -> list[float]:
        _, answer = await self.ours.run(f"batch-{BATCH_ITEMS}", sub_model, CONTEXT, QUESTION)
        return [_batch_ms(answer)]

    async def _their_batch(self, sub_model: str) -> list[float]:
        return [_batch_ms((await self._their_whole_run(f"batch-{BATCH_ITEMS}", sub_model))[1])]

    async def _our_run(self) -> list[float]:
        seconds, answer = await self.ours.run("turns-5", "echo-0", CONTEXT, QUESTION)
        _check(answer)
        return [milliseconds(seconds)]

    async def _their_run(self) -> list[float]:
        seconds, answer = await self._their_whole_run("turns-5", "echo-0")
        _check(answer)
        return [milliseconds(seconds)]

    async def _their_whole_run(self, root_model: str, sub_model: str) -> tuple[float, str]:
        result = await self.reference.call(
            "run",
            environment=self.ours.backend,
            root_model=root_model,
            sub_model=sub_model,
            context=CONTEXT,
            question=QUESTION,
        )
        return result["seconds"], result["answer"]

    async def _runs_per_second(self, name: str, unit: str) -> Row:
        """One long window a side: a pool that is full at its start is empty long before it counts."""
        effort = self.effort
        mine = await our_runs_in(self.ours, warm_up_s=effort.warm_up_s, window_s=effort.window_s)
        await self.ours.calm()
        theirs = await self.reference.call(
            "runs_for",
            deadline_s=effort.warm_up_s + effort.window_s + 300,
            environment=self.ours.backend,
            root_model="turns-5",
            sub_model="echo-0",
            context=CONTEXT,
            question=QUESTION,
            answer=TURNS_ANSWER,
            in_flight=IN_FLIGHT,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
        )
        return row_of(name, unit, [mine / effort.window_s], [theirs / effort.window_s], n=mine)


async def our_runs_in(side: Side, *, warm_up_s: float, window_s: float) -> int:
    """How many runs end within the window, with `IN_FLIGHT` in flight all the time, after a warm-up."""
    begins = anyio.current_time() + warm_up_s
    ends = begins + window_s
    counted = 0

    async def keep_running() -> None:
        nonlocal counted
        while anyio.current_time() < ends:
            _check((await side.run("turns-5", "echo-0", CONTEXT, QUESTION))[1])
            counted += begins <= anyio.current_time() < ends
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(keep_running)
    return counted


def _check(answer: str) -> None:
    if answer != TURNS_ANSWER:
        raise WrongAnswer(f"expected the answer {TURNS_ANSWER!r}, found {answer!r}")


def _batch_ms(answer: str) -> float:
    """What the cell that made the batch says: seconds, how many replies were wrong, length of the context."""
    seconds, wrong, length = answer.split()
    if int(wrong) or int(length) != len(CONTEXT):
        raise WrongAnswer(f"expected a batch without a wrong reply, found {answer!r}")
    return milliseconds(float(seconds))
