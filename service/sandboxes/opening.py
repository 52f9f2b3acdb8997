"""Opens a sandbox: directory, listener, process, first dial. From then on `Sandbox.kill` closes all of it."""

from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from service.ids import SandboxId, new_id
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.directory import create_session_directory
from service.sandboxes.link import Link
from service.sandboxes.listener import Listener, open_listener
from service.sandboxes.patience import DEFAULT_PATIENCE, Patience
from service.sandboxes.port import Process, Provider, SandboxStartFailed, Template
from service.sandboxes.sandbox import Sandbox, SandboxParts

DIAL_DEADLINE_S = 30.0
"""From the start of the process to both lanes dialled; cold, on a busy machine."""


async def open_sandbox(
    tasks: anyio.abc.TaskGroup,
    provider: Provider,
    template: Template,
    *,
    sessions: Path,
    gateway_socket: Path | None,
    hash_seed: int,
    patience: Patience = DEFAULT_PATIENCE,
) -> Sandbox:
    """A sandbox that is up and dialled, unclaimed. The caller kills it; its listener runs in `tasks` until then.

    Cancelling this, or its failure, leaves nothing behind.

    Raises:
        SandboxRefused: this machine cannot isolate code at a permitted level.
        SandboxStartFailed: it did not come up.
        StoreFailed: the disk does not take its directory.
    """
    isolation = await provider.isolation()
    sandbox_id = SandboxId(new_id("sbx"))
    directory = create_session_directory(sessions, sandbox_id)
    listener: Listener | None = None
    try:
        if gateway_socket is not None:
            directory.link_gateway(gateway_socket)
        listener = open_listener(sandbox_id, directory)
        process = await provider.start(sandbox_id, template, directory.path, hash_seed)
    except BaseException:
        with anyio.CancelScope(shield=True):
            if listener is not None:
                await listener.close()
            await anyio.to_thread.run_sync(directory.remove)
        raise
    tasks.start_soon(listener.serve, process.dialler_uid)
    link = Link(listener)
    sandbox = Sandbox(
        sandbox_id=sandbox_id,
        template=template,
        isolation=isolation,
        hash_seed=hash_seed,
        parts=SandboxParts(directory=directory, listener=listener, link=link, process=process),
        patience=patience,
    )
    try:
        failure = await _wait_until_up(link, process)
        if failure is not None:
            raise SandboxStartFailed(failure, data={"sandbox": sandbox_id})
    except BaseException:
        await sandbox.kill()
        raise
    return sandbox


async def _wait_until_up(link: Link, process: Process) -> str | None:
    """Until both lanes are dialled, or what happened instead."""
    failures: list[str] = []

    async def watch() -> None:
        failures.append(f"a sandbox ended before it had dialled: {await process.wait()}")
        race.cancel_scope.cancel()

    async with anyio.create_task_group() as race:
        race.start_soon(watch)
        try:
            await link.wait_until_dialled(DIAL_DEADLINE_S)
        except TimeoutError:
            failures.append(f"a sandbox had not dialled {DIAL_DEADLINE_S:g} s after its start")
        except ProtocolBroken:
            failures.append("a sandbox was refused at its listener before it was up; the log says why")
        race.cancel_scope.cancel()
    return failures[0] if failures else None
