"""Our side: the real service, opened as the command line opens it, on a data directory of its own."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from service.contexts.values import Context
from service.ids import CellId, RunId
from service.loop.events import RunFinished
from service.loop.values import AnswerSource, CellStatus, ContextBinding, Limits
from service.runs.sessions.bindings import BindsContexts, Wanted
from service.runs.values import RunRequest
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.values import Beginning
from service.settings import read_settings
from service.wiring.service import Service, open_service

Backend = Literal["docker", "process"]

CALM_WITHIN_S = 120.0
SETTLE_S = 0.25
"""A sandbox that has just come up goes on importing for a moment; one that is kept warm has long done so."""
CELL_LIMIT_S = 600.0
ANSWER_BYTES = 1 << 20
_POLL_S = 0.002
_PASSED_ON = ("DOCKER_", "RLM_SANDBOX", "RLM_DOCKER", "RLM_LAUNCHER")
"""Settings that say where sandboxes come from. All others are the defaults: an operator's store is none of ours."""

_MODELS = """
[models."bench/{name}"]
upstream = "{name}"
base_url = "{url}"
window_tokens = 200000
max_output_tokens = 8192
input_usd_per_million = "0.10"
output_usd_per_million = "0.40"
"""
PLAYED = ("echo-0", "echo-100", "echo-600000", "turns-5", "batch-1000", "calls-2", "calls-10")


class BackendAbsent(Exception):
    """This machine, or this version, has no such sandboxes; the text says why."""


class WrongAnswer(Exception):
    """What was measured did not do what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The service with what benchmarks do with it. Times are in seconds."""

    service: Service
    backend: Backend

    async def calm(self) -> None:
        """Until the pool is as full as it shall be and nothing is being started: what comes next is measured alone."""
        pool = self.service.pool
        with anyio.fail_after(CALM_WITHIN_S):
            while True:
                state = pool.state
                if not state.acquired and not state.starting and len(state.warm) == state.warm_wanted:
                    break
                await anyio.sleep(_POLL_S)
        await anyio.sleep(SETTLE_S)

    async def store_pid(self) -> int:
        """The process of its store."""
        facts = await self.service.store.read("INFO", "server")
        assert isinstance(facts, bytes), "INFO is a text"
        (line,) = (line for line in facts.decode().splitlines() if line.startswith("process_id:"))
        return int(line.partition(":")[2])

    async def ready(self) -> float:
        """From asking for a sandbox to the result of its first cell."""
        started = time.perf_counter()
        sandbox = await self.service.pool.acquire()
        try:
            await claim(sandbox)
            await run_cell(sandbox, "print(6 * 7)", "42")
            return time.perf_counter() - started
        finally:
            await self.service.pool.release(sandbox)

    @asynccontextmanager
    async def session(self, context: Context | None = None) -> AsyncIterator[Sandbox]:
        """A claimed sandbox, with the context bound in it."""
        sandbox = await self.service.pool.acquire()
        try:
            await claim(sandbox, None if context is None else await self.beginning(context))
            yield sandbox
        finally:
            await self.service.pool.release(sandbox)

    async def beginning(self, context: Context) -> Beginning:
        """What a run over this context binds."""
        wanted = Wanted(contexts=(ContextBinding(context_id=context.context_id),), tools=(), is_child=False)
        bound = await BindsContexts(self.service.contexts).bound(wanted)
        return Beginning(bindings=bound.bindings, files=bound.files, starts_run=True)

    async def run(self, root_model: str, sub_model: str, context: str, question: str) -> tuple[float, str]:
        """A whole run over a text that has to be taken in first; its seconds and its answer."""
        started = time.perf_counter()
        run_id = await self.begin(root_model, sub_model, context, question)
        async for recorded in self.service.runs.follow(run_id):
            event = recorded.event
            if not isinstance(event, RunFinished):
                continue
            if event.answer is None or event.answer_source is not AnswerSource.SUBMITTED:
                raise WrongAnswer(f"run {run_id} ended without a submitted answer: {event.stop_reason} {event.message}")
            answer = (await self.service.blobs.read(event.answer, ANSWER_BYTES)).decode()
            return time.perf_counter() - started, answer
        raise WrongAnswer(f"run {run_id} never finished")

    async def run_unwatched(self, root_model: str, sub_model: str, context: str, question: str) -> str:
        """The answer of a whole run that nobody follows while it goes on: reading its events would cost, too."""
        runs = self.service.runs
        run_id = await self.begin(root_model, sub_model, context, question)
        ended = runs.end_of(run_id)
        assert ended is not None, "this replica drives it"
        await ended.wait()
        view = await runs.show(run_id)
        if view.answer_source is not AnswerSource.SUBMITTED:
            raise WrongAnswer(f"run {run_id} ended without a submitted answer: {view.stop_reason} {view.message}")
        return b"".join([chunk async for chunk in runs.answer_chunks(run_id)]).decode()

    async def begin(self, root_model: str, sub_model: str, context: str, question: str) -> RunId:
        """A run over a text, on its way."""
        runs = self.service.runs
        kept = await self.service.contexts.put_text("context", pieces(context))
        run_id = await runs.submit(
            RunRequest(
                question=question,
                contexts=(ContextBinding(context_id=kept.context_id),),
                root_model=f"bench/{root_model}",
                sub_model=f"bench/{sub_model}",
                limits=Limits(depth=0),
            )
        )
        runs.start(run_id)
        return run_id


@asynccontextmanager
async def open_side(
    backend: Backend,
    *,
    model_url: str,
    scratch: Path,
    slots: int = 8,
    warm: int = 4,
    memory_mb: int = 2048,
    runtime: str | None = None,
) -> AsyncIterator[Side]:
    """The service on this backend.

    Raises:
        BackendAbsent: it would not be on this backend.
    """
    await anyio.Path(scratch).mkdir(parents=True, exist_ok=True)
    models = scratch / "models.toml"
    await anyio.Path(models).write_text("".join(_MODELS.format(name=name, url=model_url) for name in PLAYED))
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    if "DOCKER_HOST" in os.environ:
        environment.setdefault("RLM_DOCKER_HOST", os.environ["DOCKER_HOST"])  # both sides on one engine
    environment |= {
        "HOME": str(scratch),
        "RLM_DATA_DIR": str(scratch / "data"),
        "RLM_CONFIG": str(models),
        "RLM_SANDBOX": backend,
        "RLM_SANDBOX_SLOTS": str(slots),
        "RLM_WARM_SANDBOXES": str(warm),
        "RLM_SANDBOX_MEMORY_MB": str(memory_mb),
    }
    if runtime is not None:
        environment["RLM_DOCKER_RUNTIME"] = runtime
    async with open_service(read_settings(environment)) as service:
        if service.provider.name != backend:
            raise BackendAbsent(f"this version has no {backend} sandboxes")
        await service.provider.isolation()
        yield Side(service=service, backend=backend)


async def claim(sandbox: Sandbox, beginning: Beginning | None = None) -> None:
    await sandbox.claim(generation=1, grant="benchmark", random_seed=1, beginning=beginning)


async def run_cell(sandbox: Sandbox, code: str, expected: str) -> float:
    """One cell that prints one line; its seconds."""
    cell_id = CellId(f"cell_{time.monotonic_ns()}")
    started = time.perf_counter()
    result = await sandbox.run_cell(cell_id, code, active_limit_s=CELL_LIMIT_S, wall_limit_s=CELL_LIMIT_S)
    seconds = time.perf_counter() - started
    if result.status is not CellStatus.OK or result.stdout.head.strip() != expected:
        raise WrongAnswer(f"expected a cell to print {expected!r}, found {result}")
    return seconds


async def pieces(text: str) -> AsyncIterator[bytes]:
    """A small text as whoever stores it wants it."""
    yield text.encode()
