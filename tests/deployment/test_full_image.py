"""The sandbox image with packages, built where no package index is in reach."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from service.sandboxes.docker_launcher import Launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.pool import open_pool
from tests.deployment.images import FULL_IMAGE, OPERATORS_PACKAGE, build_full_image
from tests.sandboxes.contract import SMALL, printed
from tests.sandboxes.docker_machine import launcher_process

pytestmark = [pytest.mark.needs_docker, pytest.mark.takes_long, pytest.mark.anyio, pytest.mark.timeout(900)]

USE = f"""
import numpy, pandas, bs4, lxml.etree, networkx, orjson, rapidfuzz, regex, tabulate, yaml, dateutil
import {OPERATORS_PACKAGE.replace("-", "_")}
table = pandas.DataFrame({{"a": numpy.arange(1000), "b": numpy.arange(1000) % 7}})
print(int(table.groupby("b").a.sum().max()), regex.findall(r"\\p{{Lu}}", "aBc"))
"""


async def test_cells_use_the_packages_of_the_full_image_and_the_operators_own() -> None:
    """A sandbox of it is claimed, and numpy, pandas and the others work inside, offline and read-only as ever."""
    build_full_image()
    data = Path(tempfile.mkdtemp(prefix="rlm-full-"))
    try:
        os.chmod(data, 0o755)
        with launcher_process(data, "--image", FULL_IMAGE):
            provider = DockerProvider(
                Launcher(data / "launcher.sock"), sessions=data / "sessions", image=FULL_IMAGE, runtime="runc"
            )
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=None, slots=1, warm=0, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                assert await printed(sandbox, USE) == "71786 ['B']\n"
                await pool.release(sandbox)
    finally:
        shutil.rmtree(data)
