"""The sandboxes of one directory of sessions, as containers: started, ended, found again."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from service.sandboxes.docker_profile import ContainerTemplate, container_profile
from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.cgroups import usage_of
from service.sandboxes.launcher.engine import Endings, Engine, EngineFacts, EngineFailed, FoundImage
from service.sandboxes.launcher.held import Held, HeldSandboxes, Refused
from service.sandboxes.launcher.orphans import orphans_among
from service.sandboxes.launcher.owners import is_same_owner, owner_of
from service.sandboxes.launcher.protocol import StartRequest
from service.sandboxes.launcher.reconciling import FoundContainer, pause_s, to_remove
from service.sandboxes.launcher.staging import PLACE, NotStaged, Stage, check_seen, opened_session
from service.sandboxes.launcher.uids import MAPPED_UIDS, OWN_UIDS, Uids
from service.sandboxes.launcher.usage import Usage

RECONCILE_INTERVAL_S = 30.0
ENGINE_LOOKS_EVERY_S = 1.0
"""At a container, when it is asked what that uses."""
_log = structlog.get_logger(__name__)


class Containers:
    """All sandboxes under `sessions`."""

    def __init__(
        self,
        engine: Engine,
        *,
        sessions: Path,
        bounds: Bounds,
        client_uid: int,
        stage: Path = PLACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`client_uid` is who may write to `sessions`, and so put anything there at any moment; `stage` is where the
        engine finds what was looked at."""
        self._engine = engine
        self._client_uid = client_uid
        self._sessions = sessions
        self._bounds = bounds
        self._stage = None if client_uid == os.geteuid() else Stage(stage)
        """One of our own uid may do all that we may: nothing is to be kept from it."""
        self._now = now
        self._has_reconciled = False
        self._held = HeldSandboxes(now=now, on_end=self._release_uid)
        self._starting: set[str] = set()
        self._locks: dict[str, anyio.Lock] = {}
        """One of start and kill at a time for a sandbox, so that a kill leaves nothing that was about to start."""
        self._one_reconciling = anyio.Lock()
        """A sandbox is taken up once."""
        self._uids: Uids | None = None

    @property
    def label(self) -> str:
        return str(self._sessions)

    async def capabilities(self) -> tuple[EngineFacts, list[tuple[str, FoundImage | None]]]:
        """The engine, and each permitted image, as far as it is there."""
        facts = await self._engine.facts()
        return facts, [(image, await self._engine.image(image)) for image in self._bounds.images]

    async def start(self, request: StartRequest) -> Held:
        """Create and start the container of a sandbox. Raises `Refused`, `EngineFailed`."""
        self._check_bounds(request)
        if self._bounds.sandboxes is not None and not self._has_reconciled:
            await self.reconcile()  # those of an earlier launcher count too
        async with self._lock(request.sandbox_id):
            if request.sandbox_id in self._held:
                raise Refused(f"sandbox {request.sandbox_id} was started already")
            self._check_bounds(request)
            self._starting.add(request.sandbox_id)
            try:
                with opened_session(self._sessions, request.sandbox_id, self._client_uid) as session:
                    return await self._start_staged(request, session)
            except NotStaged as exc:
                raise Refused(str(exc)) from exc
            finally:
                self._starting.discard(request.sandbox_id)

    async def kill(self, sandbox_id: str, owner: str) -> None:
        """End the owner's and wait until it is gone. Idempotent; another's is left alone. Raises `EngineFailed`."""
        async with self._lock(sandbox_id):
            await self._end(sandbox_id, owner)

    async def reap(self, sandbox_id: str) -> None:
        """End it whoever started it, if its owner is dead. Idempotent. Raises `Refused`, `EngineFailed`."""
        async with self._lock(sandbox_id):
            held = self._held.get(sandbox_id)
            is_leased = held is not None and held.leases > 0
            if is_leased or not await anyio.to_thread.run_sync(
                orphans_among, self._sessions, [sandbox_id], self._client_uid
            ):
                raise Refused(f"sandbox {sandbox_id} is not reaped: its owner lives")
            await self._end(sandbox_id, None)

    async def pause(self, sandbox_id: str, owner: str) -> None:
        await self._engine.pause(self._held.of(sandbox_id, owner).container_id)

    async def unpause(self, sandbox_id: str, owner: str) -> None:
        """Also one that an earlier launcher started; no error if it is not paused. Raises `Refused`, `EngineFailed`."""
        await self._engine.unpause((await self._found(sandbox_id, owner)).container_id)

    async def usage(self, sandbox_id: str, owner: str) -> Usage:
        """From Linux's own files; where they cannot be seen, from the engine, which looks once a second.

        Raises:
            Refused, EngineFailed
        """
        held = self._held.of(sandbox_id, owner)
        if (found := await anyio.to_thread.run_sync(usage_of, held.pid, held.container_id)) is not None:
            return found
        if held.usage is None or self._now() >= held.usage_at + ENGINE_LOOKS_EVERY_S:
            held.usage = await self._engine.usage(held.container_id)
            held.usage_at = self._now()
        return held.usage

    def held(self, sandbox_id: str, owner: str) -> Held:
        """See `HeldSandboxes.of`."""
        return self._held.of(sandbox_id, owner)

    @contextmanager
    def leased(self, held: Held) -> Iterator[None]:
        """Somebody holds it inside the block."""
        held.leases += 1
        try:
            yield
        finally:
            held.leases -= 1

    async def keep_reconciling(self) -> None:
        """At once, then every `RECONCILE_INTERVAL_S` and at each deadline, until cancelled."""
        failures = 0
        while True:
            try:
                await self.reconcile()
                failures = 0
            except EngineFailed as exc:
                failures += 1
                _log.warning("docker_reconciling_failed", reason=exc.reason)
            # A deadline that is past already, of what could not be removed, would let this run without a pause.
            await anyio.sleep(pause_s(failures))
            if not failures:
                with anyio.move_on_after(RECONCILE_INTERVAL_S):
                    await self._held.wait_for_deadline()

    async def reconcile(self) -> None:
        """Take up what runs and is not known yet, remove what must go. Raises `EngineFailed`."""
        async with self._one_reconciling:
            known = list(self._held)  # before the engine is asked: what starts meanwhile is not missing
            found = await self._engine.found(self.label)
            ids = [container.sandbox_id for container in found]
            orphans = await anyio.to_thread.run_sync(orphans_among, self._sessions, ids, self._client_uid)
            doomed = to_remove(found, starting=frozenset(self._starting), orphans=orphans, now_s=self._now())
            for container in found:
                try:
                    await (self._remove(container) if container in doomed else self._take_up(container))
                except EngineFailed as exc:
                    if exc.fault.is_of_engine:
                        raise
                    # One that has vanished meanwhile, or that the engine cannot handle, must not keep the others.
                    _log.warning("sandbox_not_reconciled", sandbox_id=container.sandbox_id[:64], reason=exc.reason)
            there = {container.container_id for container in found}
            for held in known:
                if held.container_id not in there:
                    self._held.forget(held, exit_status=255)
            self._has_reconciled = True

    async def attach(self, sandbox_id: str, owner: str) -> Held:
        """The owner's that runs, also if an earlier launcher started it. Raises `Refused`, `EngineFailed`."""
        held = await self._found(sandbox_id, owner)
        held.is_ours = True
        return held

    async def follow(self, endings: Endings) -> None:
        """Note what ends, and take it away. Runs until the endings are closed."""
        while True:
            try:
                ending = await endings.next()
                if ending is None:
                    await self.reconcile()
                    continue
                held = next((held for held in self._held if held.container_id == ending.container_id), None)
                if held is not None:
                    self._held.forget(held, exit_status=ending.exit_status)
                    await self._engine.remove(held.container_id)
            except anyio.EndOfStream:
                return
            except EngineFailed as exc:
                _log.warning("docker_following_failed", reason=exc.reason)

    def close(self) -> None:
        """Once nothing starts any more."""
        if self._stage is not None:
            self._stage.close()

    async def kill_ours(self) -> None:
        """All that was leased here; what fails is left to the next launcher."""
        for held in list(self._held):
            if not held.is_ours:
                continue
            try:
                await self.kill(held.sandbox_id, held.owner)
            except EngineFailed as exc:
                _log.error("sandbox_not_killed", sandbox_id=held.sandbox_id, reason=exc.reason)

    async def _found(self, sandbox_id: str, owner: str) -> Held:
        """The owner's that runs, whichever launcher started it. Raises `Refused`, `EngineFailed`."""
        if sandbox_id not in self._held:
            await self.reconcile()
        return self._held.of(sandbox_id, owner)

    async def _end(self, sandbox_id: str, owner: str | None) -> None:
        """The owner's, or whoever's. Inside its lock."""
        held = self._held.get(sandbox_id)
        if held is not None:
            if owner is None or is_same_owner(held.owner, owner):
                await self._engine.remove(held.container_id)
                self._held.forget(held, exit_status=137)
            return
        # Unknown here, but perhaps there: the launcher may have been started anew in between.
        for container in await self._engine.found(self.label):
            if container.sandbox_id == sandbox_id and (owner is None or is_same_owner(container.owner, owner)):
                await self._engine.remove(container.container_id)

    def _check_bounds(self, request: StartRequest) -> None:
        refusal = self._bounds.refusal(request, sandboxes=len(self._held.ids | self._starting))
        if refusal is not None:
            raise Refused(refusal)

    async def _start_staged(self, request: StartRequest, session: int) -> Held:
        """Raises `NotStaged` besides."""
        if self._stage is None:
            return await self._start(request, self._sessions / request.sandbox_id)
        with self._stage.mounted(session) as path:
            held = await self._start(request, path)
            try:
                check_seen(held.pid, session)
            except NotStaged:
                with anyio.CancelScope(shield=True):
                    await self._engine.remove(held.container_id)
                    self._held.forget(held, exit_status=255)
                raise
            return held

    async def _start(self, request: StartRequest, session: Path) -> Held:
        uids = await self._usable_uids()
        try:
            uid = uids.take()
        except LookupError:
            raise Refused("every uid for sandboxes is taken") from None
        deadline_s = int(self._now()) + request.life_s
        owner = owner_of(request.owner_key)
        profile = container_profile(
            ContainerTemplate(
                session=session,
                sessions_label=self.label,
                owner_label=owner,
                uid=uid,
                deadline_s=deadline_s,
                **request.model_dump(exclude={"op", "life_s", "owner_key"}),
            )
        )
        try:
            container_id = await self._engine.create(f"rlm-{request.sandbox_id}", profile)
        except BaseException:
            uids.release(uid)
            raise
        held = Held(
            sandbox_id=request.sandbox_id,
            container_id=container_id,
            pid=0,
            uid=uid,
            deadline_s=deadline_s,
            owner=owner,
            is_ours=True,
        )
        self._held.add(held)
        try:
            held.pid = await self._engine.start(container_id)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._engine.remove(container_id)
                self._held.forget(held, exit_status=255)
            raise
        _log.info("sandbox_started", sandbox_id=request.sandbox_id, runtime=request.runtime, uid=uid)
        return held

    async def _usable_uids(self) -> Uids:
        if self._uids is None:
            facts = await self._engine.facts()
            if self._uids is None:
                self._uids = Uids(OWN_UIDS if facts.own_uids else MAPPED_UIDS)
                for held in self._held:
                    if held.uid is not None:
                        self._uids.hold(held.uid)
        return self._uids

    def _release_uid(self, held: Held) -> None:
        if self._uids is not None and held.uid is not None:
            self._uids.release(held.uid)

    async def _take_up(self, container: FoundContainer) -> None:
        """One that an earlier launcher started; its owner lives and will attach."""
        if container.sandbox_id in self._held or container.sandbox_id in self._starting:
            return
        uids = await self._usable_uids()
        pid = await self._engine.pid(container.container_id)
        if container.uid is not None:
            uids.hold(container.uid)
        self._held.add(
            Held(
                sandbox_id=container.sandbox_id,
                container_id=container.container_id,
                pid=pid,
                uid=container.uid,
                deadline_s=container.deadline_s,
                owner=container.owner,
                is_ours=False,
            )
        )
        _log.info("sandbox_taken_up", sandbox_id=container.sandbox_id)

    async def _remove(self, container: FoundContainer) -> None:
        await self._engine.remove(container.container_id)
        held = self._held.get(container.sandbox_id)
        if held is not None and held.container_id == container.container_id:
            self._held.forget(held, exit_status=137)
        _log.info("sandbox_container_removed", sandbox_id=container.sandbox_id, ran=container.runs)

    def _lock(self, sandbox_id: str) -> anyio.Lock:
        idle = [name for name, lock in self._locks.items() if not lock.statistics().locked and name != sandbox_id]
        for name in idle:
            del self._locks[name]
        return self._locks.setdefault(sandbox_id, anyio.Lock())

    def __repr__(self) -> str:
        return f"<Containers of {self._sessions}: {len(self._held)} held, {len(self._starting)} starting>"
