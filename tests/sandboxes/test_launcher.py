"""The launcher: what it refuses without asking Docker, and what it leaves running and what not."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, get_args

import anyio
import anyio.abc
import anyio.to_thread
import docker
import docker.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.ids import SandboxId, new_id
from service.sandboxes.directory import create_session_directory
from service.sandboxes.docker_launcher import Launcher, Lease, open_launcher
from service.sandboxes.docker_provider import ContainerProcess, DockerProvider
from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.containers import Containers
from service.sandboxes.launcher.engine import Engine
from service.sandboxes.launcher.held import Refused
from service.sandboxes.launcher.owners import owner_of
from service.sandboxes.launcher.protocol import (
    MAX_LINE_BYTES,
    REQUEST,
    AttachRequest,
    KillRequest,
    PauseRequest,
    ReapRequest,
    Request,
    StartedReply,
    StartRequest,
    StatsRequest,
    UnpauseRequest,
)
from service.sandboxes.launcher.reconciling import FoundContainer, pause_s, to_remove
from service.sandboxes.launcher.server import MAX_CONNECTIONS, OTHER_FILES, most_connections
from service.sandboxes.launcher.uids import Uids
from service.sandboxes.launcher.wire import receive_line, send_message
from service.sandboxes.pool import open_pool
from service.sandboxes.port import SandboxRefused, SandboxStartFailed
from service.sandboxes.reaper import reap_orphans
from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE
from tests.sandboxes.contract import SMALL, printed
from tests.sandboxes.docker_machine import build_image, containers_of, engine, launcher_process

GOOD: dict[str, Any] = {
    "op": "start",
    "sandbox_id": "sbx_" + "0" * 32,
    "owner_key": "0" * 64,
    "image": "rlm-sandbox",
    "runtime": "runc",
    "memory_bytes": 512 << 20,
    "tmp_bytes": 32 << 20,
    "processes": 32,
    "open_files": 256,
    "file_bytes": 1 << 20,
    "hash_seed": 0,
    "life_s": 60,
}


@pytest.mark.parametrize(
    "change",
    [
        {"sandbox_id": "sbx_" + "0" * 31 + "/"},
        {"sandbox_id": "../../etc"},
        {"sandbox_id": "sbx_" + "0" * 32 + "\n"},
        {"owner_key": ""},
        {"owner_key": "0" * 63 + "G"},
        {"image": "-v/:/host"},
        {"image": "a b"},
        {"runtime": "kata"},
        {"runtime": "io.containerd.runc.v2"},
        {"memory_bytes": 0},
        {"memory_bytes": "1073741824"},
        {"memory_bytes": True},
        {"processes": -1},
        {"processes": 10**9},
        {"life_s": 10**9},
        {"privileged": True},
        {"mounts": ["/:/host"]},
        {"HostConfig": {"Privileged": True}},
    ],
)
def test_a_template_is_closed(change: dict[str, Any]) -> None:
    """Unknown fields, other types, strange names and values out of range are no request."""
    REQUEST.validate_json(json.dumps(GOOD))
    with pytest.raises(ValidationError):
        REQUEST.validate_json(json.dumps(GOOD | change))


def test_what_may_be_asked_is_pinned() -> None:
    """Every field that a client may send, request by request; one more would be a way around the profile."""
    of_one = {"sandbox_id", "owner_key"}
    limits = {"memory_bytes", "tmp_bytes", "processes", "open_files", "file_bytes", "hash_seed", "life_s"}
    requests = get_args(get_args(Request)[0])
    assert {each.model_fields["op"].default: each.model_fields.keys() - {"op"} for each in requests} == {
        "start": of_one | {"image", "runtime"} | limits,
        **dict.fromkeys(("attach", "kill", "pause", "unpause", "stats"), of_one),
        "reap": {"sandbox_id"},
        "capabilities": set(),
    }
    for each in requests:
        assert (each.model_config["extra"], each.model_config["strict"]) == ("forbid", True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_else_is_a_request(value: Any) -> None:
    """Of all JSON values, none that was not written for the launcher is taken for a request."""
    with pytest.raises(ValidationError):
        REQUEST.validate_json(json.dumps(value))


containers = st.builds(
    FoundContainer,
    container_id=st.uuids().map(str),
    sandbox_id=st.sampled_from("abcd"),
    uid=st.none(),
    owner=st.just(""),
    runs=st.booleans(),
    deadline_s=st.integers(0, 100),
)


@given(
    st.lists(containers),
    st.frozensets(st.sampled_from("abcd")),
    st.frozensets(st.sampled_from("abcd")),
    st.integers(0, 100),
)
def test_what_must_go(found: list[FoundContainer], starting: frozenset[str], orphans: frozenset[str], now: int) -> None:
    """A container stays exactly when it is being started, or runs, has time left and an owner."""
    removed = to_remove(found, starting=starting, orphans=orphans, now_s=now)
    for container in found:
        stays = container.runs and container.deadline_s > now and container.sandbox_id not in orphans
        assert (container in removed) == (not stays and container.sandbox_id not in starting)


@given(st.integers(1, 1 << 40))
def test_connections_leave_files_for_everything_else(open_files: int) -> None:
    """However few files may be open, some connections are served, and not all files are spent on them."""
    most = most_connections(open_files)
    assert 1 <= most <= MAX_CONNECTIONS
    assert most < open_files or open_files == 1
    assert most <= open_files // 2 or most <= open_files - OTHER_FILES or open_files == 1


@given(st.integers(0, 10_000))
def test_an_engine_that_fails_is_left_alone_longer_and_longer(failures: int) -> None:
    """There is always a pause of at least a second, never one of more than half a minute, and none is shorter than the
    one before."""
    assert 1.0 <= pause_s(failures) <= pause_s(failures + 1) <= 30.0


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"images": ("other",)}, "may start other"),
        ({"runtimes": ("runsc",)}, "more --runtime"),
        ({"memory_bytes": 511 << 20}, "--max-memory-mb is 511, found a request for 512 MB"),
        ({"tmp_bytes": 31 << 20}, "--max-tmp-mb"),
        ({"sandboxes": 3}, "--max-sandboxes"),
    ],
)
def test_the_operators_bounds_hold_whatever_the_client_asks(bounds: dict[str, Any], says: str) -> None:
    """What is past a bound is refused by a sentence that names the bound; what just meets it is not."""
    request = StartRequest(**GOOD)
    meets = Bounds(images=("rlm-sandbox",), memory_bytes=512 << 20, tmp_bytes=32 << 20, sandboxes=4)
    assert meets.refusal(request, sandboxes=3) is None
    refusal = Bounds(**{"images": ("rlm-sandbox",)} | bounds).refusal(request, sandboxes=3)
    assert refusal is not None
    assert says in refusal


@given(st.lists(st.booleans(), max_size=60))
def test_no_two_sandboxes_hold_one_uid(takes: list[bool]) -> None:
    """Whatever is taken and released in whatever order, a uid has one holder, and only a full range is refused."""
    uids, held = Uids(range(100, 108)), set[int]()
    for take in takes:
        if take and len(held) == 8:
            with pytest.raises(LookupError):
                uids.take()
        elif take:
            uid = uids.take()
            assert uid not in held
            held.add(uid)
        elif held:
            uids.release(held.pop())


@pytest.fixture
def data() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rlm-launcher-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, onerror=_unless_gone)  # a launcher that outlives a test takes its socket away meanwhile


def _unless_gone(_call: object, _path: str, failure: tuple[type, BaseException, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


@pytest.fixture
def idle(data: Path) -> Iterator[Path]:
    """A launcher whose engine does not exist: what it answers, it answers by itself."""
    with launcher_process(data, docker_host=f"unix://{data}/no-engine.sock"):
        yield data


def ask(path: Path, line: bytes) -> bytes:
    """One line to the launcher, and all that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        try:
            connection.sendall(line)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            return b""
        return answer


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

        async def grant(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                if b"attach" in await receive_line(stream, 5):
                    asked.set()
                    assert lease is not None
                    await lease.close()
                    await send_message(stream, StartedReply(pid=1), 5)
                    with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                        await stream.receive(1)
                    ended.set()
                else:
                    await send_message(stream, StartedReply(pid=1), 5)

        async with (
            await anyio.create_unix_listener(path) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, grant)
            lease = await Launcher(path).start(StartRequest(**GOOD))
            with anyio.fail_after(20):
                assert await lease.ended() is None
                assert asked.is_set()
                await ended.wait()
            tasks.cancel_scope.cancel()

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


@contextlib.contextmanager
def owned_directory(sessions: Path, sandbox_id: str) -> Iterator[None]:
    """A session directory with a living owner."""
    directory = create_session_directory(sessions, SandboxId(sandbox_id))
    try:
        yield
    finally:
        directory.remove()


def told_by_proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed]


def made_by_hand(
    client: docker.APIClient, data: Path, sandbox_id: str, deadline_s: int, sessions: str | None = None
) -> str:
    """A container like the launcher's, that waits."""
    labels = {"rlm.sandbox": sandbox_id, "rlm.sessions": sessions or str((data / "sessions").resolve())}
    labels["rlm.deadline"] = str(deadline_s)
    command = ["-S", "-c", "import signal; signal.pause()"]
    made = client.create_container(
        SANDBOX_IMAGE,
        entrypoint=["/rlm/python"],
        command=command,
        labels=labels,
        network_disabled=True,
        name=f"rlm-{sandbox_id}-{data.name}",
    )
    client.start(made["Id"])
    return str(made["Id"])


@pytest.fixture(scope="module")
def image() -> None:
    build_image()


@pytest.mark.needs_docker
@pytest.mark.usefixtures("image")
class TestLeftBehind:
    """What a launcher that is started anew, or whose callers die, does about what runs."""

    def test_a_start_reconciles(self, data: Path) -> None:
        """What is past its deadline or has no living owner goes; a living owner's and a stranger's stay."""
        alive, dead, late, foreign = (SandboxId(new_id("sbx")) for _ in range(4))
        (data / "sessions").mkdir()
        owned = [create_session_directory(data / "sessions", each) for each in (alive, late)]
        create_session_directory(
            data / "sessions", dead
        )._owner_lock = None  # closed below, as the death of its owner would
        for descriptor in os.listdir("/proc/self/fd"):
            if os.path.realpath(f"/proc/self/fd/{descriptor}") == str((data / "sessions").resolve() / f"{dead}.owner"):
                os.close(int(descriptor))
        later, before = int(time.time()) + 3600, int(time.time()) - 1
        with engine() as client:
            ids = {
                alive: made_by_hand(client, data, alive, later),
                dead: made_by_hand(client, data, dead, later),
                late: made_by_hand(client, data, late, before),
                foreign: made_by_hand(client, data, foreign, before, "/somebody/else"),
            }
            try:
                with launcher_process(data):
                    for gone in (dead, late):
                        wait_until_removed(client, ids[gone])
                    assert client.inspect_container(ids[alive])["State"]["Running"]
                    assert client.inspect_container(ids[foreign])["State"]["Running"]
                # It ends with its stdin, and so does what it leased; this one may be another launcher's.
                assert client.inspect_container(ids[alive])["State"]["Running"]
            finally:
                for left in client.containers(all=True, filters={"name": data.name}):
                    client.remove_container(left["Id"], force=True)
        for directory in owned:
            directory.remove()

    def test_no_container_outlives_a_killed_service(self, data: Path) -> None:
        """kill -9 of the service ends its launcher and its containers."""
        done = subprocess.run(
            [sys.executable, "-c", _HOST, str(data), SANDBOX_IMAGE, DOCKER_HOST],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            cwd=ROOT,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "up" in done.stdout
        with engine() as client:
            for container in containers_of(client, data):
                wait_until_removed(client, container["Id"])
            assert containers_of(client, data) == []

    @pytest.mark.anyio
    async def test_what_a_dead_owner_left_is_reaped(self, data: Path) -> None:
        """Whoever finds a session's owner dead can have its container ended, though it is not his."""
        dead, later = SandboxId(new_id("sbx")), int(time.time()) + 3600
        provider = DockerProvider(
            Launcher(data / "launcher.sock"), sessions=data / "sessions", image=SANDBOX_IMAGE, runtime="runc"
        )
        with launcher_process(data), engine() as client:
            owned = create_session_directory(data / "sessions", dead)
            container_id = made_by_hand(client, data, dead, later)
            assert await reap_orphans(provider, data / "sessions") == 0
            assert owned._owner_lock is not None
            os.close(owned._owner_lock)  # as the death of its owner would
            owned._owner_lock = None
            assert await reap_orphans(provider, data / "sessions") == 1
            wait_until_removed(client, container_id)
            assert containers_of(client, data) == []

    @pytest.mark.anyio
    async def test_what_another_owner_started_is_not_there(self, data: Path) -> None:
        """Another client of a launcher can neither measure, pause, attach, end nor reap a sandbox, and is answered as
        for one that never was, also after the launcher was started anew; its owner can all the while."""
        path, sessions = data / "launcher.sock", data / "sessions"
        owner, other = Launcher(path), Launcher(path)
        provider = DockerProvider(owner, sessions=sessions, image=SANDBOX_IMAGE, runtime="runc")
        absent = new_id("sbx")

        async def answers(sandbox_id: str) -> list[str]:
            requests = [
                request(sandbox_id=sandbox_id, owner_key=other.owner_key).model_dump_json()
                for request in (StatsRequest, PauseRequest, UnpauseRequest, AttachRequest, KillRequest)
            ]
            requests.append(ReapRequest(sandbox_id=sandbox_id).model_dump_json())
            said = [await anyio.to_thread.run_sync(ask, path, f"{request}\n".encode()) for request in requests]
            return [line.decode().replace(sandbox_id, "ID") for line in said]

        with launcher_process(data) as process:
            async with open_pool(
                provider, sessions=sessions, gateway_socket=None, slots=1, warm=0, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                with owned_directory(sessions, absent):
                    assert await answers(sandbox.sandbox_id) == await answers(absent)
                    process.kill()
                    process.wait()
                    with launcher_process(data):
                        assert await answers(sandbox.sandbox_id) == await answers(absent)
                        stream = await owner.attached(sandbox.sandbox_id)
                        assert stream is not None
                        assert (await owner.stats(sandbox.sandbox_id)).processes >= 3
                        assert await printed(sandbox, "print(1 + 1)") == "2\n"
                        await pool.release(sandbox)
                        await stream.aclose()

    @pytest.mark.anyio
    async def test_sandboxes_outlive_their_launcher(self, data: Path) -> None:
        """kill -9 of the launcher costs no variable; the next one is asked for the lease, and can kill."""
        async with open_launcher(
            socket_path=data / "launcher.sock", sessions=data / "sessions", image=SANDBOX_IMAGE, docker_host=DOCKER_HOST
        ) as launcher:
            provider = DockerProvider(launcher, sessions=data / "sessions", image=SANDBOX_IMAGE, runtime="runc")
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=None, slots=1, warm=1, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                await printed(sandbox, "kept = 7; print(kept)")
                process = sandbox._parts.process
                assert isinstance(process, ContainerProcess)
                for child in children():
                    if b"service.sandboxes.launcher" in told_by_proc(child, "cmdline"):
                        os.kill(child, signal.SIGKILL)
                assert await printed(sandbox, "kept") == "7\n"
                stream = await launcher.attached(sandbox.sandbox_id)  # as a lease does when its launcher is gone
                assert stream is not None
                assert (await process.stats()).processes >= 3
                assert sandbox.is_running
                await pool.release(sandbox)
                await stream.aclose()
            with engine() as client:
                assert containers_of(client, data) == []


def wait_until_removed(client: docker.APIClient, container_id: str) -> None:
    """On the engine's word, not on the clock."""
    with contextlib.suppress(docker.errors.NotFound):
        client.wait(container_id, timeout=60, condition="removed")


_HOST = """
import os, sys
from pathlib import Path
import anyio
from service.sandboxes.docker_launcher import open_launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.pool import open_pool
from tests.sandboxes.contract import SMALL

async def main(data, image, docker_host):
    sessions = data / "sessions"
    where = {"socket_path": data / "l.sock", "sessions": sessions}
    async with open_launcher(**where, image=image, docker_host=docker_host) as launcher:
        provider = DockerProvider(launcher, sessions=sessions, image=image, runtime="runc")
        async with open_pool(provider, sessions=sessions, gateway_socket=None, slots=2, warm=0, template=SMALL) as pool:
            await pool.acquire()
            await pool.acquire()
            print("up", flush=True)
            os.kill(os.getpid(), 9)

anyio.run(main, Path(sys.argv[1]), sys.argv[2], sys.argv[3])
"""
