"""The launcher without an engine: what it refuses, and that it goes on."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import anyio
import anyio.to_thread
import pytest

from service.ids import SandboxId
from service.sandboxes.directory import create_session_directory
from service.sandboxes.docker_launcher import Launcher, Lease, open_launcher
from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.containers import ENGINE_LOOKS_EVERY_S, Containers
from service.sandboxes.launcher.engine import Engine
from service.sandboxes.launcher.held import Refused
from service.sandboxes.launcher.owners import owner_of
from service.sandboxes.launcher.program import read_options
from service.sandboxes.launcher.protocol import (
    MAX_LINE_BYTES,
    KillRequest,
    StartedReply,
    StartRequest,
)
from service.sandboxes.launcher.server import open_socket
from service.sandboxes.launcher.wire import receive_line, send_message
from service.sandboxes.port import SandboxRefused, SandboxStartFailed
from service.sandboxes.stream import UnixStream, accept
from tests.machine import ROOT, SANDBOX_IMAGE
from tests.sandboxes.docker_machine import launcher_process
from tests.sandboxes.launcher_clients import ask, children, place_for_launcher, told_by_proc
from tests.sandboxes.scripted_engine import scripted_engine
from tests.sandboxes.test_launcher_requests import GOOD


@pytest.fixture
def data() -> Iterator[Path]:
    with place_for_launcher() as path:
        yield path


@pytest.fixture
def idle(data: Path) -> Iterator[Path]:
    """A launcher whose engine does not exist: what it answers, it answers by itself."""
    with launcher_process(data, docker_host=f"unix://{data}/no-engine.sock"):
        yield data


@pytest.mark.anyio
class TestWithoutAnEngine:
    """No Docker is needed to be refused."""

    async def test_an_engine_that_is_not_there_is_said(self, idle: Path) -> None:
        """The refusal says that Docker cannot be reached and which setting is about it."""
        with pytest.raises(SandboxRefused, match="RLM_DOCKER_HOST"):
            await Launcher(idle / "launcher.sock").capabilities()

    async def test_what_is_not_a_request_is_answered_and_nothing_else(self, idle: Path) -> None:
        """Garbage, a foreign shape and an unknown field each get one refusal that does not repeat their content."""
        for line in (
            b"GET / HTTP/1.1\n",
            b"[]\n",
            b'{"op": "exec", "secret": 1}\n',
            json.dumps(GOOD | {"secret": 1}).encode() + b"\n",
        ):
            answer = json.loads(ask(idle / "launcher.sock", line))
            assert (answer["kind"], answer["why"]) == ("refused_reply", "unusable")
            assert "GET" not in answer["message"]

    async def test_floods_end_without_an_answer(self, idle: Path) -> None:
        """More than a line may have, two requests at once, and a half line: the connection closes."""
        kill = KillRequest(sandbox_id="sbx_" + "0" * 32, owner_key="0" * 64).model_dump_json().encode() + b"\n"
        for flood in (b"x" * (2 * MAX_LINE_BYTES), kill + kill):
            assert ask(idle / "launcher.sock", flood) == b""

    async def test_a_directory_that_is_none_of_ours_is_refused(self, idle: Path) -> None:
        """No session directory, a link in its place, or an image that was not permitted: refused."""
        launcher = Launcher(idle / "launcher.sock")
        request = StartRequest(**GOOD | {"image": SANDBOX_IMAGE})
        with pytest.raises(SandboxStartFailed, match="session directory"):
            await launcher.start(request)
        (idle / "sessions" / request.sandbox_id).symlink_to("/etc")
        with pytest.raises(SandboxStartFailed, match="session directory"):
            await launcher.start(request)
        with pytest.raises(SandboxStartFailed, match="may start"):
            await launcher.start(request.model_copy(update={"image": "other"}))

    async def test_a_launcher_that_went_away_is_waited_for(self, data: Path) -> None:
        """A sandbox that is asked for meanwhile is answered by the next launcher; without one ever, at once."""
        launcher = Launcher(data / "launcher.sock", return_deadline_s=600)  # starting one takes as long as it takes
        request = StartRequest(**GOOD | {"image": SANDBOX_IMAGE})
        no_engine = f"unix://{data}/no-engine.sock"
        with pytest.raises(SandboxRefused, match="no launcher answers"):
            await launcher.start(request)
        with launcher_process(data, docker_host=no_engine), pytest.raises(SandboxStartFailed):
            await launcher.start(request)
        answered = anyio.Event()

        async def start() -> None:
            with pytest.raises(SandboxStartFailed, match="session directory"):
                await launcher.start(request)
            answered.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await anyio.wait_all_tasks_blocked()
            with launcher_process(data, docker_host=no_engine), anyio.fail_after(60):
                await answered.wait()

    @pytest.mark.needs_root
    def test_only_the_client_may_speak(self, data: Path) -> None:
        """The socket is the client's, mode 0600; another uid cannot connect, and root, who can, is not listened to."""
        with launcher_process(data, "--client-uid", "65534", docker_host=f"unix://{data}/no-engine.sock"):
            status = (data / "launcher.sock").stat()
            assert (status.st_uid, status.st_mode & 0o777) == (65534, 0o600)
            kill = KillRequest(sandbox_id="sbx_" + "0" * 32, owner_key="0" * 64).model_dump_json() + "\n"
            assert ask(data / "launcher.sock", kill.encode()) == b""
            script = (
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
                "s.sendall(sys.argv[2].encode()); print(s.recv(1000).decode())"
            )
            said = {}
            for uid in ("65534", "65533"):
                words = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "/usr/bin/env", "python3", "-c"]
                words += [script, str(data / "launcher.sock"), kill]
                said[uid] = subprocess.run(
                    words, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
                )
            assert "Docker engine cannot be reached" in said["65534"].stdout, said["65534"].stderr
            assert "Permission" in said["65533"].stderr

    @pytest.mark.parametrize(
        ("words", "most_mb"),
        [
            ([], None),
            (["--max-memory-mb", "2048"], 2048),
            (["--max-memory-mb", "64"], 256),
            (["--max-tmp-mb", "16", "--max-memory-mb", "2048"], 16),
        ],
    )
    def test_tmp_is_bounded_where_memory_is(self, data: Path, words: list[str], most_mb: int | None) -> None:
        """It is memory too; what every sandbox asks for fits always, unless the operator says less."""
        options = read_options(["--socket", str(data / "s"), "--sessions", str(data), "--image", "x", *words])
        assert options.bounds.tmp_bytes == (most_mb and most_mb << 20)

    def test_a_command_line_that_cannot_be_used_is_said(self, data: Path) -> None:
        """An image name that is none, and a socket without its directory, end the program with a sentence."""
        for words, says in (
            (["--image", "-v"], "image"),
            (["--image", "--x"], "image"),
            (["--image", "a", "--socket", "/no/where"], "does not exist"),
            (["--image", "a", "--runtime", "kata"], "--runtime"),
            (["--image", "a", "--max-sandboxes", "0"], "whole number"),
            (["--image", "a", "--max-memory-mb", "1e3"], "whole number"),
        ):
            command = [
                sys.executable,
                "-m",
                "service.sandboxes.launcher",
                "--socket",
                str(data / "s"),
                "--sessions",
                str(data),
            ]
            done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=ROOT)
            assert done.returncode == 2
            assert says in done.stderr

    async def test_the_command_lines_bounds_are_in_force(self, data: Path) -> None:
        """What the operator wrote on the launcher's command line is refused past it, in a sentence."""
        more = ("--runtime", "runsc", "--max-memory-mb", "256", "--max-tmp-mb", "16", "--max-sandboxes", "3")
        with launcher_process(data, *more, docker_host=f"unix://{data}/no-engine.sock"):
            launcher = Launcher(data / "launcher.sock")
            fits = {"image": SANDBOX_IMAGE, "runtime": "runsc", "memory_bytes": 256 << 20, "tmp_bytes": 16 << 20}
            for change, says in (
                ({"runtime": "runc"}, "--runtime"),
                ({"memory_bytes": (256 << 20) + 1}, "--max-memory-mb is 256, found a request for 257 MB"),
                ({"tmp_bytes": 17 << 20}, "--max-tmp-mb"),
            ):
                with pytest.raises(SandboxStartFailed, match=says):
                    await launcher.start(StartRequest(**GOOD | fits | change))
            with pytest.raises(SandboxRefused, match="cannot be reached"):
                await launcher.start(StartRequest(**GOOD | fits))

    def test_a_launcher_out_of_files_goes_on(self, data: Path) -> None:
        """More connections than files may be open do not end it; once they are closed it answers again."""
        with launcher_process(data, docker_host=f"unix://{data}/no-engine.sock") as process:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (24, 24))
            with contextlib.ExitStack() as connections:
                for _ in range(64):
                    connection = connections.enter_context(socket.socket(socket.AF_UNIX))
                    connection.connect(str(data / "launcher.sock"))
                while b"launcher_cannot_accept" not in (data / "launcher.log").read_bytes():
                    assert process.poll() is None
            kill = KillRequest(sandbox_id="sbx_" + "0" * 32, owner_key="0" * 64).model_dump_json().encode() + b"\n"
            assert b"refused_reply" in ask(data / "launcher.sock", kill)
            assert process.poll() is None

    async def test_a_lease_that_was_closed_is_not_taken_up_again(self, data: Path) -> None:
        """Who waits for a lease to end while its launcher is away, and lets go of it, holds no connection to the next
        launcher."""
        path = data / "launcher.sock"
        asked, ended = anyio.Event(), anyio.Event()
        lease: Lease | None = None

        async def serve() -> None:
            while True:
                tasks.start_soon(grant, await accept(listening))

        async def grant(stream: UnixStream) -> None:
            async with stream:
                if b"attach" in await receive_line(stream, 5):
                    asked.set()
                    assert lease is not None
                    lease.close()
                    await send_message(stream, StartedReply(pid=1), 5)
                    with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                        await stream.receive(1)
                    ended.set()
                else:
                    await send_message(stream, StartedReply(pid=1), 5)

        async with open_socket(path, os.geteuid()) as listening, anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            lease = await Launcher(path).start(StartRequest(**GOOD))
            with anyio.fail_after(20):
                assert await lease.ended() is None
                assert asked.is_set()
                await ended.wait()
            tasks.cancel_scope.cancel()

    async def test_a_launcher_that_does_not_come_up_is_told_with_its_last_words(self, data: Path) -> None:
        """What it said before it ended stands in the sentence, because nobody may be reading its log."""
        with pytest.raises(SandboxStartFailed, match=r"did not come up: .*--image: expected the name of an image"):
            async with open_launcher(
                socket_path=data / "l.sock", sessions=data / "sessions", image="No Name!", docker_host=None
            ):
                pytest.fail("it came up")

    async def test_a_child_gets_none_of_our_environment(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The launcher that the service starts sees no key of the service's."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
        before = set(children())
        async with open_launcher(
            socket_path=data / "l.sock", sessions=data / "sessions", image="x", docker_host=f"unix://{data}/none"
        ):
            (child,) = set(children()) - before
            assert b"sk-canary" not in told_by_proc(child, "environ")


class _Forgetful(BaseHTTPRequestHandler):
    """An engine that lists two containers, the first of which is gone when it is asked about."""

    protocol_version = "HTTP/1.0"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        status, answer = 200, b"{}"
        if self.path.endswith("/version"):
            answer = json.dumps({"ApiVersion": "1.41"}).encode()
        elif "/containers/json" in self.path:
            labels = {"rlm.sandbox": GOOD["sandbox_id"], "rlm.deadline": str(1 << 40), "rlm.owner": owner_of("0" * 64)}
            gone = {"Id": "gone", "State": "running", "Labels": labels}
            there = {"Id": "there", "State": "running", "Labels": labels | {"rlm.sandbox": "sbx_" + "1" * 32}}
            answer = json.dumps([gone, there]).encode()
        elif self.path.endswith("/containers/there/json"):
            answer = json.dumps({"State": {"Pid": 7}}).encode()
        elif self.path.endswith("/containers/gone/json"):
            status, answer = 404, b'{"message": "No such container"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.mark.anyio
async def test_a_container_that_vanishes_keeps_no_other_from_being_taken_up(data: Path) -> None:
    """One that ends between the engine's list and the question for its process does not end the pass for all."""
    for digit in "01":
        create_session_directory(data / "sessions", SandboxId("sbx_" + digit * 32))
    with ThreadingUnixStreamServer(str(data / "engine.sock"), _Forgetful) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            containers = Containers(
                Engine(f"unix://{data}/engine.sock"),
                sessions=(data / "sessions"),
                bounds=Bounds(images=("x",)),
                client_uid=os.geteuid(),
            )
            await containers.reconcile()
        finally:
            server.shutdown()
            serving.join()
    assert containers.held("sbx_" + "1" * 32, owner_of("0" * 64)).pid == 7
    for sandbox_id, owner in ((GOOD["sandbox_id"], "0" * 64), ("sbx_" + "1" * 32, "1" * 64)):
        with pytest.raises(Refused):
            containers.held(sandbox_id, owner_of(owner))


@pytest.mark.anyio
async def test_the_engine_is_asked_what_a_container_uses_once_a_second(data: Path) -> None:
    """Where Linux's own files do not tell, whoever asks sooner gets what was told last, and does not wait for more."""
    now = time.time()
    create_session_directory(data / "sessions", SandboxId(GOOD["sandbox_id"]))
    with scripted_engine(data) as scripted:
        docker = Engine(f"unix://{data}/engine.sock")
        containers = Containers(
            docker,
            sessions=data / "sessions",
            bounds=Bounds(images=(GOOD["image"],)),
            client_uid=os.geteuid(),
            now=lambda: now,
        )
        try:
            await containers.start(StartRequest(**GOOD))
            owner = owner_of(GOOD["owner_key"])
            told = [await containers.usage(GOOD["sandbox_id"], owner) for _ in range(3)]
            assert (scripted.measured, {usage.processes for usage in told}) == (1, {3})
            now += ENGINE_LOOKS_EVERY_S
            await containers.usage(GOOD["sandbox_id"], owner)
            assert scripted.measured == 2
        finally:
            containers.close()
            assert docker._found is not None
            docker._found.asking.close()
            docker._found.working.close()
