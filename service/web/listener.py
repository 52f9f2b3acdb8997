"""The public listener. It is never the gateway's: a sandbox reaches one of them, a client the other."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp

from service.errors import BadRequest
from service.web.connections import KEEP_ALIVE_S, MAX_HEAD_BYTES, protocol_for

BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where to listen and how to end."""

    host: str
    port: int
    named: str = "RLM_HOST and RLM_PORT"
    """The settings of these two, for messages."""
    most_connections: int
    drain_s: float
    """How long requests may go on once the listener was told to end."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to whoever owns the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_public(
    app: ASGIApp, listening: Listening, *, before_end: Callable[[], None], urgent: anyio.Event | None = None
) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address, such as `http://127.0.0.1:8000`.

    On leaving it, no connection is accepted any more, `before_end` is called so that open streams end themselves, and
    requests under way have `drain_s` to end, or until `urgent` is set, before they are broken off.

    Raises:
        BadRequest: it cannot listen there; the message names the settings.
    """
    listener = await _bind(listening)
    config = uvicorn.Config(
        app,
        http=protocol_for(listening.most_connections),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # `boundary` says what failed; this would be a traceback for each client that goes
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=None,
    )
    server = _Server(config)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve_until_ended, server, listener, tasks.cancel_scope)
            try:
                yield _address(listener)
            finally:
                before_end()
                server.should_exit = True
                # uvicorn counts the deadline from here; it takes whole seconds.
                config.timeout_graceful_shutdown = int(listening.drain_s)
                tasks.start_soon(_break_off_when_urgent, server, urgent or anyio.Event())
    finally:
        listener.close()


async def _serve_until_ended(server: _Server, listener: socket.socket, others: anyio.CancelScope) -> None:
    await server.serve([listener])
    others.cancel()


async def _break_off_when_urgent(server: _Server, urgent: anyio.Event) -> None:
    await urgent.wait()
    # uvicorn waits for these two, and looks ten times a second whether any is left.
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    for task in list(server.server_state.tasks):
        task.cancel()


async def _bind(listening: Listening) -> socket.socket:
    try:
        found = await anyio.to_thread.run_sync(
            lambda: socket.getaddrinfo(listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise _cannot_listen(listening, exc) from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        with contextlib.suppress(OSError):
            listener.close()
        raise _cannot_listen(listening, exc) from exc
    return listener


def _cannot_listen(listening: Listening, exc: OSError) -> BadRequest:
    return BadRequest(
        f"cannot listen at {listening.host} port {listening.port} ({exc.strerror or exc}): set {listening.named} "
        "to an address of this machine and a port that is free"
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
