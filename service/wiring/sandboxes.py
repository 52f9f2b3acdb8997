"""What starts sandboxes here, as the settings say."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_never

from service.sandboxes.docker_launcher import Launcher, open_launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.port import Provider
from service.sandboxes.process_provider import ProcessProvider
from service.settings import Settings
from service.wiring.data_directory import sessions_directory


@asynccontextmanager
async def open_provider(settings: Settings) -> AsyncIterator[Provider]:
    """What starts sandboxes here, and what it needs for that.

    Raises:
        SandboxStartFailed: the launcher did not come up.
    """
    match settings.sandbox:
        case "process":
            yield ProcessProvider(settings.data_directory / "runtime", allow_unsafe=settings.unsafe_no_sandbox)
        case "docker":
            async with open_docker_launcher(settings) as launcher:
                yield DockerProvider(
                    launcher,
                    sessions=sessions_directory(settings),
                    image=settings.docker_image,
                    runtime=settings.docker_runtime,
                    trust_runc=settings.trust_runc,
                )
        case _:
            assert_never(settings.sandbox)


@asynccontextmanager
async def open_docker_launcher(settings: Settings) -> AsyncIterator[Launcher]:
    """The launcher that runs already, else one of our own for the time of the block."""
    if settings.launcher_socket is not None:
        yield Launcher(settings.launcher_socket)
        return
    async with open_launcher(
        socket_path=settings.data_directory / f"launcher-{os.getpid()}.sock",
        sessions=sessions_directory(settings),
        image=settings.docker_image,
        docker_host=settings.docker_host,
    ) as launcher:
        yield launcher
