"""One run of the benchmarks: what this machine has is opened stage by stage, measured row by row, and shown."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from benchmarks import api, duels, floors, gateway, hardships
from benchmarks.catalogue import IDLE_STAGES, Benchmark, Selection, Stage, select, stages
from benchmarks.environments import CACHE, OtherSideAbsent, install
from benchmarks.idle import Idle
from benchmarks.listening import listening
from benchmarks.proxy import REQUIREMENTS as PROXY
from benchmarks.proxy import open_proxy
from benchmarks.reference import REQUIREMENTS as REFERENCE
from benchmarks.reference import open_reference
from benchmarks.reference_image import ImageAbsent, provide_image
from benchmarks.rows import Row, as_line, table
from benchmarks.served import serve_side
from benchmarks.service_side import Backend, BackendAbsent, Side, open_side
from benchmarks.worker import ROOT, Worker, bare_python, started
from service.errors import RlmServiceError, sole_failure

MakeRow = Callable[[str, str], Awaitable[Row]]
BACKENDS: tuple[Backend, ...] = ("docker", "process")
MODEL_START_S = 30.0


class Measuring:
    """Opened once, run once."""

    def __init__(self, only: tuple[str, ...], *, is_quick: bool, scratch: Path) -> None:
        self._only = only
        self._duel_effort = duels.QUICK if is_quick else duels.FULL
        self._floor_effort = floors.QUICK if is_quick else floors.FULL
        self._hard_effort = hardships.QUICK if is_quick else hardships.FULL
        self._gateway_effort = gateway.QUICK if is_quick else gateway.FULL
        self._api_effort = api.QUICK if is_quick else api.FULL
        self._scratch = scratch
        self._rows: list[Row] = []
        self._failures: list[str] = []
        self._reference_python = Path()
        self._proxy_python = Path()
        self._image = ""

    async def run(self) -> int:
        """Everything that was asked for and that this machine has; the exit code."""
        selection = select(self._only, await self._missing())
        async with model_server() as model_url:
            await self._stage("docker", selection, lambda: self._duel("docker", model_url))
            await self._stage("process", selection, lambda: self._duel("process", model_url))
            await self._stage("floors", selection, lambda: self._floors(model_url))
            await self._stage("hardships", selection, lambda: self._hardships(model_url))
            await self._stage("gateway", selection, lambda: self._gateway(model_url))
            await self._stage("api", selection, lambda: self._api(model_url))
            for stage in IDLE_STAGES:
                await self._stage(stage, selection, partial(self._idle, stage, model_url))
        if self._rows:
            sys.stdout.write(f"\n{table(self._rows)}\n")
        for reason in dict.fromkeys(reason for _, reason in selection.absent):
            names = [benchmark.name for benchmark, why in selection.absent if why == reason]
            _say(f"ABSENT  {len(names)} benchmarks ({', '.join(names)}): {reason}")
        for failure in self._failures:
            _say(f"FAILED  {failure}")
        return 1 if self._failures or (self._only and selection.absent) else 0

    async def _missing(self) -> dict[Stage, str]:
        """What this machine lacks, for whole stages; said at once, and again at the end."""
        missing: dict[Stage, str] = {}
        wanted = [backend for backend in BACKENDS if backend in stages(self._only)]
        try:
            if wanted:
                self._reference_python = await anyio.to_thread.run_sync(install, "reference", REFERENCE)
        except OtherSideAbsent as error:
            missing.update({backend: str(error) for backend in wanted})
        for backend in wanted:
            if backend not in missing and (reason := await self._why_no_backend(backend)) is not None:
                missing[backend] = reason
        if "gateway" in stages(self._only):
            try:
                self._proxy_python = await anyio.to_thread.run_sync(install, "proxy", PROXY)
            except OtherSideAbsent as error:
                missing["gateway"] = str(error)
        for stage in set(IDLE_STAGES).intersection(stages(self._only)):
            if (reason := await self._why_not_idle(stage)) is not None:
                missing[stage] = reason
        for stage, reason in missing.items():
            _say(f"ABSENT  every benchmark of {stage}: {reason}")
        return missing

    async def _why_no_backend(self, backend: Backend) -> str | None:
        try:
            if backend == "docker":
                self._image = await anyio.to_thread.run_sync(provide_image)
            scratch = self._scratch / f"probe-{backend}"
            async with open_side(backend, model_url="http://127.0.0.1:9/v1", scratch=scratch, warm=0):
                return None
        except (ImageAbsent, BackendAbsent, RlmServiceError) as error:
            return str(error)

    async def _why_not_idle(self, stage: Stage) -> str | None:
        try:
            async with self._idle_side(stage, "http://127.0.0.1:9/v1"):
                return None
        except (BackendAbsent, RlmServiceError) as error:
            return str(error)

    async def _stage(
        self, stage: Stage, selection: Selection, opened: Callable[[], AbstractAsyncContextManager[MakeRow]]
    ) -> None:
        """One stage's benchmarks; a stage that cannot be opened or closed is a failure of its own."""
        if not selection.of(stage):
            return
        try:
            async with opened() as make_row:
                for benchmark in selection.of(stage):
                    await self._row(benchmark, make_row)
        except Exception as error:  # noqa: BLE001  # a named boundary: what was measured so far is still shown
            self._fail(stage, error)

    async def _row(self, benchmark: Benchmark, make_row: MakeRow) -> None:
        _say(f"{benchmark.name}: {benchmark.what}")
        try:
            row = await make_row(benchmark.name, benchmark.unit)
        except Exception as error:  # noqa: BLE001  # a named boundary: one benchmark's failure must not end the others
            self._fail(benchmark.name, error)
            return
        self._rows.append(row)
        sys.stdout.write(f"{as_line(row)}\n")
        sys.stdout.flush()

    def _fail(self, what: str, error: Exception) -> None:
        cause = sole_failure(error)
        self._failures.append(f"{what}: {type(cause).__name__}: {cause}")
        _say(f"FAILED  {self._failures[-1]}")

    @asynccontextmanager
    async def _duel(self, backend: Backend, model_url: str) -> AsyncIterator[MakeRow]:
        scratch = self._scratch / backend
        async with (
            open_side(backend, model_url=model_url, scratch=scratch / "ours") as ours,
            open_reference(
                self._reference_python, model_url=model_url, image=self._image, scratch=scratch / "reference"
            ) as worker,
        ):
            duel = duels.Duel(ours=ours, reference=worker, scratch=scratch, effort=self._duel_effort)
            yield duel.row

    @asynccontextmanager
    async def _floors(self, model_url: str) -> AsyncIterator[MakeRow]:
        scratch = self._scratch / "floors"
        async with AsyncExitStack() as stack:
            warm = await stack.enter_async_context(
                open_side("process", model_url=model_url, scratch=scratch / "warm", warm=1, memory_mb=4096)
            )
            cold = await stack.enter_async_context(
                open_side(
                    "process",
                    model_url=model_url,
                    scratch=scratch / "cold",
                    slots=floors.SESSIONS + 1,
                    warm=0,
                    memory_mb=4096,
                )
            )
            bare = await stack.enter_async_context(bare_process())
            yield floors.Floors(warm=warm, cold=cold, bare=bare, scratch=scratch, effort=self._floor_effort).row

    @asynccontextmanager
    async def _hardships(self, model_url: str) -> AsyncIterator[MakeRow]:
        slots = hardships.ACTIVE_SESSIONS + 1
        scratch = self._scratch / "hardships"
        async with (
            open_side("process", model_url=model_url, scratch=scratch, slots=slots, warm=0) as side,
            bare_process() as bare,
        ):
            yield hardships.Hardships(side=side, bare=bare, effort=self._hard_effort).row

    @asynccontextmanager
    async def _gateway(self, model_url: str) -> AsyncIterator[MakeRow]:
        scratch = self._scratch / "gateway"
        async with (
            open_side("process", model_url=model_url, scratch=scratch / "ours", warm=1) as side,
            open_proxy(
                self._proxy_python, model_url=model_url, upstream=gateway.UPSTREAM, scratch=scratch / "proxy"
            ) as proxy,
            client_process() as client,
        ):
            yield gateway.Gateways(side=side, proxy=proxy, client=client, effort=self._gateway_effort).row

    @asynccontextmanager
    async def _api(self, model_url: str) -> AsyncIterator[MakeRow]:
        scratch = self._scratch / "api"
        async with (
            open_side("process", model_url=model_url, scratch=scratch) as side,
            serve_side(side) as served,
            client_process() as client,
            bare_process() as bare,
        ):
            yield api.Api(served=served, client=client, bare=bare, scratch=scratch, effort=self._api_effort).row

    @asynccontextmanager
    async def _idle(self, stage: Stage, model_url: str) -> AsyncIterator[MakeRow]:
        async with self._idle_side(stage, model_url) as side, bare_process() as bare:
            yield Idle(side=side, bare=bare).row

    def _idle_side(self, stage: Stage, model_url: str) -> AbstractAsyncContextManager[Side]:
        kind = stage.removeprefix("idle_")
        backend: Backend = "process" if kind == "process" else "docker"
        return open_side(
            backend,
            model_url=model_url,
            scratch=self._scratch / stage,
            warm=0,
            runtime=None if backend == "process" else kind,
        )


def bare_process() -> AbstractAsyncContextManager[Worker]:
    """What measures what the machine itself can do."""
    command = bare_python("benchmarks.floor_worker")
    return started("the bare process", command, {"LANG": "C.UTF-8"}, cwd=ROOT, log=CACHE / "bare.log")


def client_process() -> AbstractAsyncContextManager[Worker]:
    """What asks over HTTP."""
    command = bare_python("benchmarks.client_worker")
    return started("the client", command, {"LANG": "C.UTF-8"}, cwd=ROOT, log=CACHE / "client.log")


@asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    """The scripted model in a process of its own; its base URL."""
    command = bare_python("benchmarks.model_server")
    log = CACHE / "model.log"
    async with listening(command, {"LANG": "C.UTF-8"}, cwd=ROOT, log=log, within_s=MODEL_START_S) as listener:
        yield f"http://127.0.0.1:{listener.port}/v1"


def _say(text: str) -> None:
    sys.stderr.write(f"benchmarks: {text}\n")
    sys.stderr.flush()
