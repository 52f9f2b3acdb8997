"""The command line of the launcher."""

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import anyio
import structlog
from pydantic import TypeAdapter, ValidationError

from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.containers import Containers
from service.sandboxes.launcher.engine import Engine
from service.sandboxes.launcher.protocol import ImageName, Runtime
from service.sandboxes.launcher.server import Server, open_socket, raise_open_file_limit
from service.sandboxes.launcher.staging import PLACE
from service.sandboxes.port import Template

READY = "launcher listens"
"""The first line on stdout, once callers can connect."""
LAST_DEADLINE_S = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    socket: Path
    sessions: Path
    bounds: Bounds
    docker_host: str | None
    client_uid: int
    stage: Path
    until_stdin_closes: bool


def main(arguments: list[str]) -> int:
    """The exit code."""
    options = read_options(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    raise_open_file_limit()
    anyio.run(run, options)
    return 0


def read_options(arguments: list[str]) -> Options:
    """Exits with a sentence where they cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m service.sandboxes.launcher",
        description="Starts sandboxes as containers for a service that must not hold the Docker socket itself.",
    )
    parser.add_argument("--socket", type=Path, required=True, help="where to listen (a unix socket)")
    parser.add_argument(
        "--sessions", type=Path, required=True, help="the directory of session directories: DATA/sessions"
    )
    parser.add_argument(
        "--image", action="append", required=True, dest="images", help="an image that may be started; repeatable"
    )
    parser.add_argument(
        "--runtime",
        action="append",
        dest="runtimes",
        choices=get_args(Runtime),
        help="a runtime that may be used; repeatable (default: both)",
    )
    for option, of in (
        ("--max-memory-mb", "the most memory of one sandbox's kernel (default: what is asked for)"),
        ("--max-tmp-mb", "the largest /tmp of one sandbox (default: as --max-memory-mb)"),
        ("--max-sandboxes", "the most sandboxes at once (default: what is asked for)"),
    ):
        parser.add_argument(option, type=_positive, help=of)
    parser.add_argument("--docker-host", help="the engine, such as unix:///run/docker.sock (the default)")
    parser.add_argument(
        "--client-uid", type=int, default=os.geteuid(), help="the one uid that may speak to it (default: its own)"
    )
    parser.add_argument(
        "--stage",
        type=Path,
        default=PLACE,
        help="where session directories are mounted for the engine, at the same path for both, if the client has "
        f"another uid (default: {PLACE})",
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with the process at the other end, and its sandboxes too"
    )
    found = parser.parse_args(arguments)
    for image in found.images:
        try:
            TypeAdapter(ImageName).validate_python(image)
        except ValidationError:
            parser.error(f"--image: expected the name of an image, found {image!r}")
    if not found.socket.parent.is_dir():
        parser.error(f"--socket: the directory {found.socket.parent} does not exist")
    return Options(
        socket=found.socket.absolute(),
        sessions=found.sessions.resolve(),
        bounds=Bounds(
            images=tuple(found.images),
            runtimes=tuple(found.runtimes or get_args(Runtime)),
            memory_bytes=found.max_memory_mb and found.max_memory_mb << 20,
            tmp_bytes=_most_tmp_bytes(found.max_tmp_mb, found.max_memory_mb),
            sandboxes=found.max_sandboxes,
        ),
        docker_host=found.docker_host,
        client_uid=found.client_uid,
        stage=found.stage.absolute(),
        until_stdin_closes=found.until_stdin_closes,
    )


def _most_tmp_bytes(tmp_mb: int | None, memory_mb: int | None) -> int | None:
    """A `/tmp` is memory: where only that is bounded, it bounds both, but for what every sandbox asks for."""
    if tmp_mb is None and memory_mb is not None:
        return max(memory_mb << 20, Template().tmp_bytes)
    return tmp_mb and tmp_mb << 20


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


async def run(options: Options) -> None:
    """Serve until a signal, or until stdin closes. Where stdin counts, the sandboxes leased here end with the launcher;
    else they run on, and one that is started anew takes them up."""
    engine = Engine(options.docker_host)
    containers = Containers(
        engine,
        sessions=options.sessions,
        bounds=options.bounds,
        client_uid=options.client_uid,
        stage=options.stage,
    )
    server = Server(containers, client_uid=options.client_uid)
    try:
        async with (
            open_socket(options.socket, options.client_uid) as listening,
            engine.endings(containers.label) as endings,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(containers.follow, endings)
            tasks.start_soon(containers.keep_reconciling)
            tasks.start_soon(server.serve, listening)
            tasks.start_soon(_end_on_signal, tasks.cancel_scope)
            if options.until_stdin_closes:
                tasks.start_soon(_end_with_stdin, tasks.cancel_scope)
            sys.stdout.write(READY + "\n")
            sys.stdout.flush()
    finally:  # also where a fault of ours ends it
        if options.until_stdin_closes:
            with anyio.move_on_after(LAST_DEADLINE_S, shield=True):
                await containers.kill_ours()
        containers.close()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _end_with_stdin(scope: anyio.CancelScope) -> None:
    """Nothing is ever sent; that it can be read means that it was closed."""
    await anyio.wait_readable(sys.stdin.fileno())
    scope.cancel()
