"""Clients of the launcher that misbehave in every way they can: it stays small, keeps no descriptor of theirs, and
answers another owner while they go on."""

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from service.ids import SandboxId, new_id
from service.sandboxes.directory import create_session_directory
from service.sandboxes.docker_launcher import Launcher, Lease
from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.containers import Containers
from service.sandboxes.launcher.engine import CALLS_AT_ONCE, Engine
from service.sandboxes.launcher.held import Refused
from service.sandboxes.launcher.owners import owner_of
from service.sandboxes.launcher.protocol import (
    CapabilitiesRequest,
    KillRequest,
    PauseRequest,
    ReapRequest,
    StartRequest,
    StatsRequest,
)
from service.sandboxes.port import SandboxStartFailed
from tests.sandboxes.docker_machine import launcher_process
from tests.sandboxes.scripted_engine import PATIENCE_S, ScriptedEngine, scripted_engine

pytestmark = pytest.mark.anyio

IMAGE = "rlm-sandbox"
MANY = 300
STRANGER = "f" * 64
"""An owner's key that is nobody's."""
MOST_GROWTH_BYTES = 64 << 20
"""Of the launcher, while any one of them goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A launcher in a process of its own, whose engine starts nothing, and a sandbox of an owner who behaves."""

    data: Path
    engine: ScriptedEngine
    pid: int
    owner: Launcher
    sandbox_id: SandboxId
    lease: Lease

    @property
    def socket(self) -> Path:
        return self.data / "launcher.sock"

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def works(self) -> None:
        """All that an owner does, with its sandbox and with another from start to end."""
        await self.owner.stats(self.sandbox_id)
        await self.owner.pause(self.sandbox_id)
        await self.owner.unpause(self.sandbox_id)
        with owned_session(self.data) as other:
            lease = await self.owner.start(request(self.owner.owner_key, other))
            await self.owner.kill(other)
            lease.close()
        assert self.engine.sandboxes() == [self.sandbox_id]
        assert not self.lease.has_ended


def request(owner_key: str, sandbox_id: str) -> StartRequest:
    return StartRequest(
        sandbox_id=sandbox_id,
        owner_key=owner_key,
        image=IMAGE,
        runtime="runc",
        memory_bytes=64 << 20,
        tmp_bytes=1 << 20,
        processes=8,
        open_files=64,
        file_bytes=1 << 20,
        hash_seed=0,
        life_s=3600,
    )


@contextmanager
def owned_session(data: Path) -> Iterator[SandboxId]:
    """A session directory with a living owner."""
    sandbox_id = SandboxId(new_id("sbx"))
    directory = create_session_directory(data / "sessions", sandbox_id)
    try:
        yield sandbox_id
    finally:
        directory.remove()


@asynccontextmanager
async def placed(data: Path) -> AsyncIterator[Place]:
    with (
        scripted_engine(data) as engine,
        launcher_process(data, "--image", IMAGE, docker_host=f"unix://{data}/engine.sock") as process,
        owned_session(data) as sandbox_id,
    ):
        owner = Launcher(data / "launcher.sock")
        lease = await owner.start(request(owner.owner_key, sandbox_id))
        try:
            place = Place(data=data, engine=engine, pid=process.pid, owner=owner, sandbox_id=sandbox_id, lease=lease)
            await place.works()
            yield place
        finally:
            lease.close()


@pytest.fixture(scope="module")
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    """One for all tests here: what misbehaves must not spoil it for the next."""
    with tempfile.TemporaryDirectory(prefix="rlm-client-") as directory:
        async with placed(Path(directory)) as found:
            yield found


Misbehaviour = Callable[[Place], AbstractContextManager[None]]


def line(message: object) -> bytes:
    assert isinstance(
        message, StatsRequest | KillRequest | PauseRequest | ReapRequest | StartRequest | CapabilitiesRequest
    )
    return message.model_dump_json().encode() + b"\n"


@contextmanager
def connected(place: Place, *sent: bytes) -> Iterator[list[socket.socket]]:
    """One connection for each, on which as much as the launcher takes at once is sent, and which stays open."""
    with ExitStack() as stack:
        connections = []
        for data in sent:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(place.socket))  # waits where more want in than may queue
            connection.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                connection.send(data)
            connections.append(connection)
        yield connections


def sends(*lines: bytes) -> Misbehaviour:
    """These, on a connection each, over and over."""

    @contextmanager
    def misbehave(place: Place) -> Iterator[None]:
        with connected(place, *(lines[number % len(lines)] for number in range(MANY))):
            yield

    return misbehave


def floods(asked: Callable[[Place], bytes]) -> Misbehaviour:
    """With what has to be asked of the engine, from a process of its own that never reads a reply."""

    @contextmanager
    def misbehave(place: Place) -> Iterator[None]:
        words = [sys.executable, "-I", "-S", "-c", _FLOOD, str(place.socket), asked(place).hex(), str(MANY)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"asked\n"
            try:
                yield
            finally:
                process.stdin.close()

    return misbehave


_FLOOD = """
import socket, sys
held = []
for _ in range(int(sys.argv[3])):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
    held[-1].sendall(bytes.fromhex(sys.argv[2]))
print("asked", flush=True)
sys.stdin.read()
"""


@contextmanager
def drips(place: Place) -> Iterator[None]:
    """A byte here, a byte there, for as long as the block lasts."""
    whole = line(StatsRequest(sandbox_id=place.sandbox_id, owner_key=STRANGER))
    is_over = threading.Event()

    def drip(connections: list[socket.socket]) -> None:
        for byte in whole[:-1]:
            for connection in connections:
                with suppress(BlockingIOError, ConnectionError):
                    connection.send(bytes([byte]))
            if is_over.wait(0.01):
                return

    with connected(place, *[b""] * MANY) as connections:
        dripping = threading.Thread(target=drip, args=(connections,))
        dripping.start()
        try:
            yield
        finally:
            is_over.set()
            dripping.join()


@contextmanager
def asks_for_anothers(place: Place) -> Iterator[None]:
    """To measure, pause, end and reap what is not its own, by its name and by the container's."""
    of_another = [
        line(kind(sandbox_id=place.sandbox_id, owner_key=STRANGER))
        for kind in (StatsRequest, PauseRequest, KillRequest)
    ]
    (container_id,) = [container["Id"] for container in place.engine.running()]
    by_container = line(StatsRequest(sandbox_id=place.sandbox_id, owner_key=STRANGER)).replace(
        place.sandbox_id.encode(), container_id.encode()
    )
    with sends(*of_another, by_container, line(ReapRequest(sandbox_id=place.sandbox_id)))(place):
        yield


@contextmanager
def starts_what_is_none(place: Place) -> Iterator[None]:
    """Session directories that are links, files, pipes, absent, or another's."""
    sessions, lines = place.data / "sessions", [line(request(STRANGER, place.sandbox_id))]
    planted = [SandboxId(new_id("sbx")) for _ in range(5)]
    (sessions / planted[0]).symlink_to("/etc")
    (sessions / planted[1]).symlink_to(sessions / place.sandbox_id)
    (sessions / planted[2]).touch()
    os.mkfifo(sessions / planted[3])
    lines += [line(request(STRANGER, sandbox_id)) for sandbox_id in planted]
    good = line(request(STRANGER, planted[4]))
    for name in ("../../etc", "sbx_" + "0" * 31 + "/", ".", "sbx_" + "é" * 32):
        lines.append(good.replace(planted[4].encode(), name.encode()))
    for extra in (
        b'"privileged":true',
        b'"mounts":["/:/host"]',
        b'"session":"/etc"',
        b'"HostConfig":{"Binds":["/:/x"]}',
    ):
        lines.append(good[:-2] + b"," + extra + b"}\n")
    try:
        with sends(*lines)(place):
            yield
    finally:
        for sandbox_id in planted[:4]:
            (sessions / sandbox_id).unlink()


@contextmanager
def passes_descriptors(place: Place) -> Iterator[None]:
    """With each request, of a file that would stay open."""
    asked = line(StatsRequest(sandbox_id=place.sandbox_id, owner_key=STRANGER))
    with connected(place, *[b""] * MANY) as connections, open("/dev/null", "rb") as file:
        for connection in connections:
            with suppress(BlockingIOError, ConnectionError):
                socket.send_fds(connection, [asked], [file.fileno()] * 16)
        yield


@contextmanager
def leaves_at_once(place: Place) -> Iterator[None]:
    """After a request, a half one, or with the writing half shut."""
    asked = line(StatsRequest(sandbox_id=place.sandbox_id, owner_key=STRANGER))
    with connected(place, *[asked, asked[:5], b""] * (MANY // 3)) as connections:
        for number, connection in enumerate(connections):
            if number % 2:
                connection.close()
            else:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
        yield


_dice = random.Random(7)
MISBEHAVIOURS: dict[str, Misbehaviour] = {
    "says nothing": sends(b""),
    "sends half a request": sends(line(CapabilitiesRequest())[:-4], b'{"op": "start", "sandbox_id": "'),
    "sends a line without end": sends(b"x" * (1 << 20)),
    "sends noise": sends(*(_dice.randbytes(1 + number) + b"\n" for number in range(MANY))),
    "sends what is deep": sends(b"[" * 60_000 + b"\n", b'{"a":' * 10_000 + b"\n", b'{"op":' + b"9" * 60_000 + b"}\n"),
    "floods with questions": floods(lambda _: line(CapabilitiesRequest())),
    "floods with its own sandbox": floods(
        lambda place: line(StatsRequest(sandbox_id=place.sandbox_id, owner_key=place.owner.owner_key))
    ),
    "asks twice": sends(line(CapabilitiesRequest()) * 2),
    "drips": drips,
    "asks for another's sandbox": asks_for_anothers,
    "starts what is none": starts_what_is_none,
    "passes descriptors": passes_descriptors,
    "leaves at once": leaves_at_once,
}


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS.values(), ids=MISBEHAVIOURS.keys())
async def test_another_owner_is_served_meanwhile(place: Place, misbehaviour: Misbehaviour) -> None:
    """While three hundred connections misbehave, an owner's sandboxes are measured, paused, started and ended; the
    launcher hardly grows, nothing of what was asked has happened, and no descriptor is kept."""
    files, memory_bytes = place.open_files(), place.resident_bytes()
    with misbehaviour(place), anyio.fail_after(PATIENCE_S):
        for _ in range(3):
            await place.works()
        assert place.resident_bytes() - memory_bytes < MOST_GROWTH_BYTES
    # The SDK keeps connections to the engine, as many as there were calls at once.
    await until(lambda: place.open_files() <= files + 2 * CALLS_AT_ONCE)
    await place.works()


@pytest.mark.takes_long
async def test_ten_thousand_connections_leave_nothing(place: Place) -> None:
    """Nor do they keep an owner from being served in between."""
    files, memory_bytes = place.open_files(), place.resident_bytes()
    for _ in range(20):
        with connected(place, *[b""] * 500), anyio.fail_after(PATIENCE_S):
            await place.works()
    await until(lambda: place.open_files() <= files + 2 * CALLS_AT_ONCE)
    assert place.resident_bytes() - memory_bytes < MOST_GROWTH_BYTES


async def test_a_client_that_dies_while_its_sandbox_is_made_leaves_none(place: Place) -> None:
    """The container that the engine was still making is removed, and others are served in the meantime."""
    with owned_session(place.data) as doomed:
        place.engine.parks = doomed
        with connected(place, line(request(STRANGER, doomed))):
            assert await anyio.to_thread.run_sync(place.engine.is_creating.wait, PATIENCE_S)
            await place.works()
        await place.works()
        place.engine.may_go_on.set()
        await until(lambda: len(place.engine.removed) == len(place.engine.created) - 1)
        assert place.engine.sandboxes() == [place.sandbox_id]


async def test_a_replayed_start_starts_nothing(place: Place) -> None:
    """Not while its sandbox runs, not at once with the first, and not after its end; the first goes on."""
    with owned_session(place.data) as sandbox_id:
        again = request(place.owner.owner_key, sandbox_id)
        before = len(place.engine.created)
        leases: list[Lease] = []
        refused: list[str] = []

        async def start() -> None:
            try:
                leases.append(await place.owner.start(again))
            except SandboxStartFailed as exc:
                refused.append(str(exc))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(start)
        await start()
        assert (len(leases), len(refused), len(place.engine.created)) == (1, 10, before + 1)
        assert not leases[0].has_ended
        await place.owner.kill(sandbox_id)
        leases[0].close()
    with pytest.raises(SandboxStartFailed, match="session directory"):
        await place.owner.start(again)
    assert len(place.engine.created) == before + 1


@pytest.mark.needs_docker  # for the right to mount
async def test_a_session_that_is_swapped_all_the_time_is_never_another_directory(data: Path) -> None:
    """A client of fewer rights that puts a link in the place of its session directory and takes it away again, as fast
    as it can, gets its own directory or a refusal."""
    sandbox_id = SandboxId(new_id("sbx"))
    session, bait = data / "sessions" / sandbox_id, data / "bait"
    is_over, swaps = threading.Event(), 0
    session.mkdir(parents=True)
    bait.mkdir()
    own = session.stat()
    for path in (session, bait):
        os.chown(path, 65534, 65534)

    def swap() -> None:
        nonlocal swaps
        away = data / "away"
        while not is_over.is_set():
            session.rename(away)
            session.symlink_to(bait)
            session.unlink()
            away.rename(session)
            swaps += 1

    with scripted_engine(data) as engine:
        docker = Engine(f"unix://{data}/engine.sock")
        containers = Containers(
            docker,
            sessions=data / "sessions",
            bounds=Bounds(images=(IMAGE,)),
            client_uid=65534,
            stage=data / "stage",
        )
        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            while swaps < 100 or len(engine.mounted) < 20:
                with suppress(Refused):
                    await containers.start(request(STRANGER, sandbox_id))
                await containers.kill(sandbox_id, owner_of(STRANGER))
        finally:
            is_over.set()
            swapping.join()
            containers.close()
            assert docker._found is not None
            docker._found.asking.close()
            docker._found.working.close()
    assert set(engine.mounted) == {(own.st_dev, own.st_ino)}
    assert engine.running() == []


async def until(is_so: Callable[[], bool]) -> None:
    """However long it takes on a busy machine."""
    with anyio.fail_after(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - what another process has open
            await anyio.sleep(0.02)
