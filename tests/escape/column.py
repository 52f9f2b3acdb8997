"""All rows of one backend."""

import os
import random
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from sandbox_image.protocol import Binding, BindingKind, BoundFile, TextImage
from service.errors import RlmServiceError
from service.ids import CellId
from service.loop.values import CellResult, CellStatus
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Template
from service.sandboxes.processes import descendants
from service.sandboxes.sandbox import Sandbox
from tests import machine
from tests.escape import cells, outside, supervisor
from tests.escape.attack import armed, said
from tests.escape.backends import Backend, open_backend
from tests.escape.case import AFTERWARDS, SANDBOX_GONE, BackendName, Case, Harm, Row
from tests.escape.ground import Ground, descriptors, open_ground, size_on_disk

TEMPLATE = Template(memory_bytes=256 << 20, tmp_bytes=16 << 20, processes=32, open_files=256, file_bytes=8 << 20)
GRANT_PATTERN = "grant-[0-9a-f]{32}"
_SAMPLE = 0.1
"""How many of the heavy attacks a short run takes."""
_MOST_DISK_BYTES = 64 << 20
_CONTEXT = b"begin" + b"." * ((1 << 20) - 8) + b"end"
_AFTERWARDS_LIMIT_S = 20.0
_OF_ONE_MORE_SANDBOX = 32
"""Descriptors, with a few that are in passing."""
_CLOSING_PATIENCE_S = 30.0
_MOVE_IN = Case(name="", code="kept = 'mine'\nopen('mine', 'w').write('mine')", held=frozenset())
_NEXT_DOOR = Case(name="", code="say(kept, open('mine').read(), bound[:5], bound[-3:])", held=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows to run, and in which order."""

    seed: int
    short: bool
    only: str | None = None

    def of(self, cases: Sequence[Case], backend: BackendName) -> list[Case]:
        """Those with sandboxes of their own come last. A short run takes a sample of the heavy ones."""
        dice = random.Random(self.seed)
        chosen = [
            case
            for case in cases
            if backend not in case.absent and (self.only is None or re.search(self.only, case.name))
        ]
        if self.short:
            chosen = [case for case in chosen if not case.is_heavy or dice.random() < _SAMPLE]
        dice.shuffle(chosen)
        return sorted(chosen, key=lambda case: case.harm is Harm.SANDBOX)


def run_column(name: BackendName, cases: Sequence[Case], choice: Choice, *, subverted: bool = False) -> list[Row]:
    """Every chosen attack, and at the end whether anything is left behind."""
    if not (chosen := choice.of(cases, name)):
        return []
    directory = Path(tempfile.mkdtemp(prefix="rlm-escape-"))
    directory.chmod(0o755)
    try:
        with open_backend(name, directory, subverted=subverted) as backend:
            return anyio.run(_rows, backend, chosen)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _rows(backend: Backend, cases: Sequence[Case]) -> list[Row]:
    async with open_ground(backend.directory) as ground:
        return await _Column(backend, ground).rows(cases)


class _Column:
    def __init__(self, backend: Backend, ground: Ground) -> None:
        self._backend = backend
        self._ground = ground
        self._context = backend.directory / "context"
        self._context.write_bytes(_CONTEXT)
        self._context.chmod(0o444)
        self._grants: list[str] = []
        self._cells = 0
        self._neighbour = ""
        self._most_descriptors = 0

    async def rows(self, cases: Sequence[Case]) -> list[Row]:
        rows: list[Row] = []
        await self._backend.provider.isolation()
        ours = {identity.pid for identity in descendants(os.getpid())}
        before = descriptors()
        async with open_pool(
            self._backend.provider,
            sessions=self._backend.sessions,
            gateway_socket=self._ground.gateway_socket,
            slots=3,
            warm=0,
            template=TEMPLATE,
        ) as pool:
            neighbour = await self._acquire(pool)
            self._neighbour = str(neighbour.directory)
            await self._run(neighbour, _MOVE_IN)
            await self._ground.remember()
            self._most_descriptors = sum(descriptors().values()) + _OF_ONE_MORE_SANDBOX
            rows += await self._seen_from_outside(pool, neighbour)
            shared = [case for case in cases if case.harm is not Harm.SANDBOX]
            rows += await self._shared(pool, neighbour, shared)
            for case in cases[len(shared) :]:
                rows += await self._shared(pool, neighbour, [case])
            rows.append(self._gateway_row())
            await pool.release(neighbour)
        rows.append(self._afterwards(before, ours))
        return rows

    async def _seen_from_outside(self, pool: Pool, neighbour: Sandbox) -> list[Row]:
        sandbox = await self._acquire(pool)
        try:
            return outside.rows(self._backend, TEMPLATE, sandbox, neighbour, self._grants)
        finally:
            await pool.release(sandbox)

    async def _shared(self, pool: Pool, neighbour: Sandbox, cases: Sequence[Case]) -> list[Row]:
        """In one sandbox, and in a new one whenever that is lost."""
        rows: list[Row] = []
        sandbox: Sandbox | None = None
        for case in cases:
            if sandbox is None or not sandbox.is_running:
                if sandbox is not None:
                    await pool.release(sandbox)
                sandbox = await self._acquire(pool)
            row, is_usable = await self._row(sandbox, neighbour, case)
            rows.append(row)
            if not is_usable:
                await pool.release(sandbox)
                sandbox = None
        if sandbox is not None:
            await pool.release(sandbox)
        return rows

    async def _acquire(self, pool: Pool) -> Sandbox:
        sandbox = await pool.acquire()
        grant = f"grant-{secrets.token_hex(16)}"
        self._grants.append(grant)
        await sandbox.claim(generation=1, grant=grant, random_seed=1)
        await self._bind(sandbox)
        return sandbox

    async def _bind(self, sandbox: Sandbox) -> None:
        image = TextImage(file="bound.0", encoding="ascii", length=len(_CONTEXT))
        file = BoundFile(part="bound.0", file="bound.0", size_bytes=len(_CONTEXT), image=image)
        binding = Binding(name="bound", kind=BindingKind.TEXT, files=[file])
        await sandbox.bind([binding], {"bound.0": self._context})

    async def _row(self, sandbox: Sandbox, neighbour: Sandbox, case: Case) -> tuple[Row, bool]:
        """The row, and whether the sandbox can be used for another."""
        found: list[str] = []
        harm: list[str] = []
        is_usable = True
        try:
            found += self._words(await self._run(sandbox, case))
            if case.then:
                found += await self._afterwards_of(sandbox, case)
            await sandbox.stats()
            if case.harm is Harm.KERNEL or "killed" in found:
                await sandbox.restart()
                await self._bind(sandbox)
        except RlmServiceError as error:
            found.append(SANDBOX_GONE)
            is_usable = False
            if SANDBOX_GONE not in case.expected(self._backend.name):
                harm.append(f"the sandbox was lost: {error}"[:300])
        harm += await self._ground.harm()
        harm += await self._harm_next_door(neighbour)
        harm += await self._descriptors_kept()
        if harm:
            await self._ground.remember()
        expected = case.expected(self._backend.name)
        held = case.is_whole(found) and set(found) <= expected and not harm
        row = Row(
            case=case.name,
            held=held,
            found=tuple(dict.fromkeys(found)),
            expected=tuple(sorted(expected)),
            harm=tuple(harm),
        )
        return row, is_usable

    async def _afterwards_of(self, sandbox: Sandbox, case: Case) -> list[str]:
        """The second cell has all the time that it needs beside whatever the first one left running."""
        afterwards = replace(case, code=case.then, ends_itself=False, active_limit_s=_AFTERWARDS_LIMIT_S)
        found = self._words(await self._run(sandbox, afterwards))
        if case.takes_next and found[-1] == "killed":
            found = self._words(await self._run(sandbox, afterwards))
        return [f"{AFTERWARDS}{word}" for word in found]

    async def _run(self, sandbox: Sandbox, case: Case) -> CellResult:
        self._cells += 1
        return await sandbox.run_cell(
            CellId(f"run_1.t{self._cells}.b0"),
            armed(case.code, self._given(sandbox), ends_itself=case.ends_itself),
            active_limit_s=case.active_limit_s,
            wall_limit_s=case.active_limit_s + 20,
            grace_s=0.3,
        )

    def _given(self, sandbox: Sandbox) -> Mapping[str, object]:
        session = self._backend.shows_session_at or str(sandbox.directory)
        return {
            **self._ground.given,
            "session": str(sandbox.directory),
            "neighbour": self._neighbour,
            "CONTEXT": f"{session}/contexts/bound.0",
            "TMP": "/tmp" if self._backend.shows_session_at else f"{sandbox.directory}.tmp",
            "GRANT_PATTERN": GRANT_PATTERN,
            "engine_socket": machine.DOCKER_HOST.removeprefix("unix://"),
            "launcher_socket": str(self._backend.directory / "launcher.sock"),
        }

    def _words(self, result: CellResult) -> list[str]:
        told = repr(result)
        if any(grant in told for grant in self._grants):
            return ["grant_shown"]
        words = said(result.stdout.tail or result.stdout.head) or []
        match result.status:
            case CellStatus.OK:
                return words or ["ended"]
            case CellStatus.RAISED:
                name = result.raised.type_name if result.raised else "unknown"
                return [*words, f"raised:{name if name.isidentifier() and len(name) < 60 else 'other'}"]
            case CellStatus.TIMED_OUT:
                return [*words, "timed_out"]
            case CellStatus.KILLED:
                return [*words, "killed"]

    async def _harm_next_door(self, neighbour: Sandbox) -> list[str]:
        """What a sandbox that stands beside all of it has lost: its variables, its files, or the context that both
        have, which is bound to it once more."""
        try:
            await self._bind(neighbour)
            found = self._words(await self._run(neighbour, _NEXT_DOOR))
        except RlmServiceError as error:
            return [f"the sandbox next door was lost: {error}"[:300]]
        context = self._context.stat()
        harm = [] if found == ["mine", "mine", "begin", "end"] else [f"the sandbox next door said {found}"]
        if self._context.read_bytes() != _CONTEXT or context.st_mode & 0o777 != 0o444 or context.st_uid != os.getuid():
            harm.append("the context changed")
        return harm

    async def _descriptors_kept(self) -> list[str]:
        """What is open beyond what one more sandbox needs. What was closed a moment ago may still be on its way out."""
        until = anyio.current_time() + _CLOSING_PATIENCE_S
        while True:
            held = sum(descriptors().values())
            if held <= self._most_descriptors:
                return []
            if anyio.current_time() > until:
                return [f"{held} descriptors are open, where {self._most_descriptors} may be"]
            await anyio.sleep(0.02)

    def _gateway_row(self) -> Row:
        """What came through the one door that there is."""
        harm: set[str] = set()
        for call in self._ground.calls:
            grants = re.findall(GRANT_PATTERN, call.partition(b"\r\n\r\n")[0].decode("latin-1"))
            if len(grants) != 1 or grants[0] not in self._grants:
                harm.add("a call without the grant of one session")
            if b"forged" in call:
                harm.add("a forged call")
        return Row(
            case="calls at the gateway are of their own sessions and cells",
            held=not harm,
            found=("own",),
            expected=("own",),
            harm=tuple(sorted(harm)),
        )

    def _afterwards(self, before: Mapping[str, int], ours: set[int]) -> Row:
        """When all sandboxes have ended."""
        harm = self._backend.left_behind()
        harm += [f"a process {identity.pid}" for identity in descendants(os.getpid()) if identity.pid not in ours]
        now = descriptors()
        harm += [f"{now[kind] - before.get(kind, 0)} more {kind}" for kind in now if now[kind] > before.get(kind, 0)]
        with suppress(OSError):
            if (size := size_on_disk(self._backend.directory)) > _MOST_DISK_BYTES:
                harm.append(f"{size >> 20} MiB on disk")
        log = self._backend.directory / "launcher.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        if any(grant in text for grant in self._grants):
            harm.append("a grant in the launcher's log")
        return Row(
            case="nothing is left behind", held=not harm, found=("clean",), expected=("clean",), harm=tuple(harm)
        )


def run(name: BackendName, choice: Choice) -> list[Row]:
    """Attacks from a cell, then those of a subverted supervisor."""
    rows = run_column(name, cells.ALL, choice)
    subverted = run_column(name, supervisor.CASES, choice, subverted=True)
    return rows + [
        row if row.case.startswith("supervisor: ") else replace(row, case=f"supervisor: {row.case}")
        for row in subverted
    ]
