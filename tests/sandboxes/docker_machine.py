"""What the Docker tests share: the image of this checkout, and a launcher in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE

BUILD_DEADLINE_S = 600


def build_image() -> None:
    """Of this checkout's `sandbox_image`; a second when nothing changed."""
    words = ["sh", "deploy/make_sandbox_image.sh", SANDBOX_IMAGE]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=dict(os.environ, DOCKER_HOST=DOCKER_HOST),
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"


@contextmanager
def engine() -> Iterator[docker.APIClient]:
    """The engine itself, to look at what the launcher did."""
    client = docker.APIClient(base_url=DOCKER_HOST, version="auto")
    try:
        yield client
    finally:
        client.close()


@contextmanager
def launcher_process(data: Path, *more: str, docker_host: str = DOCKER_HOST) -> Iterator["subprocess.Popen[bytes]"]:
    """A launcher for `data/sessions` at `data/launcher.sock`; its sandboxes end with the block."""
    words = [sys.executable, "-P", "-m", "service.sandboxes.launcher", "--until-stdin-closes", "--image", SANDBOX_IMAGE]
    words += ["--socket", str(data / "launcher.sock"), "--sessions", str(data / "sessions")]
    words += ["--docker-host", docker_host, *more]
    (data / "sessions").mkdir(exist_ok=True)
    with (
        (data / "launcher.log").open("ab") as log,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"launcher listens\n", (data / "launcher.log").read_text()
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(60)


def empty(data: Path) -> None:
    """Remove what a test left, but not what the launcher uses."""
    for path in data.iterdir():
        if path.name in ("sessions", "launcher.sock", "launcher.log"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def containers_of(client: docker.APIClient, data: Path) -> list[dict[str, Any]]:
    """All containers, ended ones too, that belong to `data/sessions`."""
    found: list[dict[str, Any]] = client.containers(
        all=True, filters={"label": [f"rlm.sessions={(data / 'sessions').resolve()}"]}
    )
    return found
