"""Serves the gateway on its unix socket."""

import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp

from service.gateway.bounds import BoundedProtocol, ConnectionBounds, Peers
from service.sandboxes.socket_path import short_path
from service.store.errors import disk_failed

STOP_DEADLINE_S = 10
BACKLOG = 1024
ACCEPTED_AT_ONCE = 16
"""Connections that are taken in before everything else has its turn: whoever connects and hangs up without end costs
its neighbours a moment, not seconds."""
DEFAULT_BOUNDS = ConnectionBounds()
_PREFIX, _SUFFIX = "gateway-", ".sock"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to whoever owns the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # asyncio takes the queue's length for how many it may accept at once


@asynccontextmanager
async def serve_gateway(
    app: ASGIApp, directory: Path, *, bounds: ConnectionBounds = DEFAULT_BOUNDS
) -> AsyncIterator[Path]:
    """Serve while the block runs; yields the socket's path, `directory/gateway-….sock`.

    Every sandbox runs as a user of its own and reaches the socket through its session directory, so the socket itself
    admits everybody; `directory` (0700) is what keeps others on this machine away, and the grant what counts.

    Raises:
        StoreFailed: the disk is full, read-only or denied.
    """
    # Replicas in containers share the directory and have the same pid.
    path = directory / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        _clear_dead(directory)
        listening = _bind(path)
    except OSError as exc:
        raise disk_failed(exc, f"open the gateway's socket in {directory}") from exc
    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, bounds=bounds, peers=Peers()),  # type: ignore[arg-type]  # made, never looked at
        backlog=ACCEPTED_AT_ONCE,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=STOP_DEADLINE_S,
    )
    server = _Server(config)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listening])
            try:
                yield path
            finally:
                server.should_exit = True
    finally:
        if server.started:
            # It does so itself unless it was cancelled: then the loop would go on watching a descriptor of others.
            for accepting in server.servers:
                accepting.close()
        listening.close()
        path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """Under its name stands a socket that is listened at, or none."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unready = path.with_name(f".{path.name}")
    with short_path(unready.parent, unready.name) as short:
        listening.bind(short)
    unready.chmod(0o666)
    listening.listen(BACKLOG)
    listening.setblocking(False)
    unready.rename(path)
    return listening


def _clear_dead(directory: Path) -> None:
    """Remove the sockets of replicas that were killed: nobody listens there."""
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial, short_path(path.parent, path.name) as short:
            trial.setblocking(False)  # one whose queue is full is alive
            try:
                trial.connect(short)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
