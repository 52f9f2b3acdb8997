"""`--sandbox docker` and what `doctor` says of Docker, as processes."""

import json
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.machine import DOCKER_HOST, SANDBOX_IMAGE
from tests.sandboxes.docker_machine import build_image, containers_of, engine, launcher_process

SCRIPTED = ("--model", "scripted/root", "--sub-model", "scripted/sub")


@pytest.fixture(scope="module")
def with_docker() -> Iterator[CommandLine]:
    """A command line whose Docker is the tests' engine; where the path is short, for the launcher's sockets."""
    build_image()
    directory = Path(tempfile.mkdtemp(prefix="rlm-cli-docker-"))
    lines = [f"line {number} of nothing much" for number in range(20_000)]
    lines[13_131] = "The magic number is 8472093"
    (directory / "haystack.txt").write_text("\n".join(lines))
    settings = {"RLM_DOCKER_HOST": DOCKER_HOST, "RLM_DOCKER_IMAGE": SANDBOX_IMAGE}
    yield CommandLine(directory=directory, settings=settings)
    shutil.rmtree(directory)


def ask(command_line: CommandLine, *more: str) -> tuple[str, str]:
    done = command_line.run("ask", "What is the magic number?", "-c", "haystack.txt", *SCRIPTED, *more)
    assert done.code == 0, done.err
    return done.out.decode(), done.err


@pytest.mark.needs_docker
def test_a_question_is_answered_in_a_container(with_docker: CommandLine) -> None:
    """The main job with --sandbox docker: answer on stdout, level on stderr, and nothing is left on the machine."""
    answer, told = ask(with_docker, "--sandbox", "docker")
    assert "8472093" in answer
    assert "isolation docker/runc" in told
    assert list((with_docker.directory / "data/sessions").iterdir()) == []
    assert list((with_docker.directory / "data").glob("launcher-*")) == []
    with engine() as client:
        assert containers_of(client, with_docker.directory / "data") == []


@pytest.mark.needs_docker
@pytest.mark.needs_gvisor
def test_gvisor_is_a_setting_away(with_docker: CommandLine) -> None:
    """RLM_SANDBOX and RLM_DOCKER_RUNTIME choose gVisor, and the run says so."""
    settings = {**with_docker.settings, "RLM_SANDBOX": "docker", "RLM_DOCKER_RUNTIME": "runsc"}
    answer, told = ask(replace(with_docker, settings=settings))
    assert "8472093" in answer
    assert "isolation docker/runsc" in told


@pytest.mark.needs_docker
def test_a_launcher_that_runs_already_is_used(with_docker: CommandLine) -> None:
    """With RLM_LAUNCHER_SOCKET the service starts none of its own and needs no Docker socket."""
    data = with_docker.directory / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    with launcher_process(data):
        settings = {"RLM_LAUNCHER_SOCKET": str(data / "launcher.sock"), "RLM_DOCKER_IMAGE": SANDBOX_IMAGE}
        settings["RLM_DOCKER_HOST"] = "unix:///nonexistent"
        answer, told = ask(replace(with_docker, settings=settings), "--sandbox", "docker")
    assert "8472093" in answer
    assert "isolation docker/runc" in told


@pytest.mark.needs_docker
@pytest.mark.takes_long
def test_doctor_tells_what_docker_has_and_lacks(with_docker: CommandLine) -> None:
    """With all there: ok. Without the image: missing, and the command that makes it; chosen all the same: broken."""

    def found(settings: dict[str, str]) -> dict[str, dict[str, str]]:
        done = replace(with_docker, settings={**with_docker.settings, **settings}).run("doctor", "--json")
        return {finding["subject"]: finding for finding in json.loads(done.out)}

    assert found({})["docker"]["state"] in ("ok", "warning")
    lacking = found({"RLM_DOCKER_IMAGE": "nobody/has:this"})
    assert lacking["docker"]["state"] == "missing"
    assert "make_sandbox_image.sh nobody/has:this" in lacking["docker"]["details"][0]
    assert lacking["sandbox"]["state"] == "ok"
    assert "make it anew" not in str(lacking)
    chosen = found({"RLM_DOCKER_IMAGE": "nobody/has:this", "RLM_SANDBOX": "docker"})
    assert chosen["sandbox"]["state"] == "broken"
    assert "make_sandbox_image.sh nobody/has:this" in chosen["sandbox"]["text"]


class OfAnotherRelease(socketserver.StreamRequestHandler):
    """A launcher that speaks otherwise."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b'{"kind": "of another release"}\n')


def test_a_launcher_that_cannot_be_understood_breaks_nothing_else(command_line: CommandLine) -> None:
    """Where sandboxes are processes, a launcher of another release is missing like none at all."""
    path = command_line.directory / "other.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), OfAnotherRelease) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            done = replace(command_line, settings={"RLM_LAUNCHER_SOCKET": str(path)}).run("doctor", "--json")
        finally:
            server.shutdown()
    (docker,) = [each for each in json.loads(done.out) if each["subject"] == "docker"]
    assert (docker["state"], done.code) == ("missing", 0)
    assert "the same release" in docker["text"]


@pytest.mark.takes_long
def test_without_docker_it_is_said(command_line: CommandLine) -> None:
    """No engine: doctor calls Docker missing and the rest fine; a run that asks for it is refused with what to do."""
    without = replace(command_line, settings={"RLM_DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    done = without.run("doctor", "--json")
    assert done.code == 0
    findings = {finding["subject"]: finding for finding in json.loads(done.out)}
    assert findings["docker"]["state"] == "missing"
    assert "RLM_DOCKER_HOST" in findings["docker"]["text"]
    (command_line.directory / "small.txt").write_text("The magic number is 1")
    asked = without.run("ask", "q", "-c", "small.txt", *SCRIPTED, "--sandbox", "docker", "-q")
    assert asked.code != 0
    assert "start Docker" in asked.err


def test_a_sandbox_that_is_none_is_refused_at_once(command_line: CommandLine) -> None:
    """--sandbox takes process and docker, and says so."""
    (command_line.directory / "small.txt").write_text("x")
    done = command_line.run("ask", "q", "-c", "small.txt", *SCRIPTED, "--sandbox", "vm")
    assert "process or docker" in done.complaint
