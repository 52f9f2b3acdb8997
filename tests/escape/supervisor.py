"""A sandbox whose supervisor is the attacker's: what is left then is the first filter, its own narrower one, and what
stands around the sandbox. Cells that begin with `MARK` run in the supervisor."""

import io
import secrets
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sandbox_image.syscalls import this_architecture
from service.sandboxes.process_provider import _LevelProvider
from tests.escape.case import LANDLOCK, PROCESS, REFUSED, SHUT, BackendName, Case, Harm, words
from tests.sandboxes.docker_machine import engine

MARK = """
# in the supervisor
"""
_N = this_architecture().numbers
_PROGRAM = f"""
import os, sys
from dataclasses import replace

from sandbox_image import operations, start

run_cell = operations.KernelOperations.run_cell

def run_in_supervisor(self, cell_id, request, hang_up):
    if {MARK!r} in request.code:
        names = {{"supervisor": self}}
        try:
            exec(request.code, names)
        except BaseException as error:
            names.setdefault("_said", []).append("raised:" + type(error).__name__)
        told = " ".join(names["_said"])
        request = replace(request, code="print('\\\\n@@said ' + " + repr(told) + ", flush=True)")
    return run_cell(self, cell_id, request, hang_up)

operations.KernelOperations.run_cell = run_in_supervisor
if __name__ == "__main__":
    sys.exit(start.main(sys.argv[1:]))
"""
_ENTRY = "__main__.py"


def subvert(provider: _LevelProvider, directory: Path) -> None:
    """Have it start sandboxes from a copy of the image in which the supervisor obeys."""
    parent = directory / "subverted"
    shutil.copytree(provider.level.image.parent, parent)
    image = parent / provider.level.image.name
    for compiled in image.glob("__pycache__/__main__.*"):
        compiled.unlink()
    (image / _ENTRY).write_text(_PROGRAM)
    provider.level = replace(provider.level, image=image)


@contextmanager
def subverted_image(image: str) -> Iterator[str]:
    """The same for containers, on top of `image`, for the time of the block; its name. What was built stays in the
    engine's cache until it is pruned, but bears no name any more."""
    name = f"{image}-subverted-{secrets.token_hex(8)}"  # a column beside this one takes its own away
    place = "/rlm/image/sandbox_image"
    lines = [f"FROM {image}", f"COPY {_ENTRY} {place}/{_ENTRY}"]
    files = {_ENTRY: _PROGRAM.encode()}
    for version in (311, 312, 313):  # what was compiled is taken unless it cannot be
        compiled = f"__main__.cpython-{version}.pyc"
        files[compiled] = b""
        lines.append(f"COPY {compiled} {place}/__pycache__/{compiled}")
    files["Dockerfile"] = "\n".join(lines).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    archive.seek(0)
    with engine() as client:
        said = list(client.build(fileobj=archive, custom_context=True, tag=name, rm=True, decode=True))
        assert not any("error" in line for line in said), said[-3:]
        try:
            yield name
        finally:
            client.remove_image(name, force=True, noprune=True)


def _attack(
    name: str,
    code: str,
    held: frozenset[str],
    *,
    ends: bool = False,
    is_heavy: bool = False,
    but: Mapping[BackendName, frozenset[str]] | None = None,
) -> Case:
    """One that `ends` the sandbox may do so: it is lost, and nothing else."""
    return Case(
        name=f"supervisor: {name}",
        code=MARK + code,
        held=held | ({"sandbox_gone"} if ends else set()),
        but=but or {},
        harm=Harm.SANDBOX if ends else Harm.NOTHING,
        absent=frozenset({LANDLOCK}),  # it has neither mounts nor pids of its own: docs/limitations.md
        is_heavy=is_heavy,
        ends_itself=True,
    )


CASES = (
    _attack(
        "it is the supervisor that runs this",
        "say('first' if supervisor is not None and sys.modules['sandbox_image.start'] else '')",
        words("first"),
    ),
    _attack(
        "read and write a file of the host",
        "say(attempt(open, bait), attempt(open, bait, 'w'), attempt(os.stat, bait))",
        SHUT,
    ),
    _attack(
        "write to the session directory",
        "for name in ('planted', 'sandbox.sock', 'contexts/bound.0'): say(attempt(open, '/rlm/session/' + name, 'r+'), attempt(os.unlink, '/rlm/session/' + name))",
        SHUT | {"ENXIO"},
    ),
    _attack(
        "change a context's attributes",
        """
path = '/rlm/session/contexts/bound.0'
say(attempt(os.chmod, path, 0o666), attempt(os.utime, path), attempt(os.truncate, path, 0), attempt(os.link, path, '/tmp/x'))
""",
        SHUT,
    ),
    _attack(
        "open a socket that leads out",
        """
import socket
for family in (2, 10, 16, 17, 38, 40, 44): say(attempt(socket.socket, family, 2), attempt(socket.socket, family, 1))
""",
        REFUSED,
    ),
    _attack(
        "dial the host's other sockets",
        r"""
import socket
for path in (unix_listener, '\0' + abstract_listener, engine_socket, launcher_socket, store_directory + '/valkey.sock'):
    say(attempt(lambda: socket.socket(socket.AF_UNIX).connect(path)))
""",
        SHUT | {"ECONNREFUSED"},
    ),
    _attack(
        "dial another sandbox's sockets",
        """
import socket
for path in (neighbour + '/sandbox.sock', neighbour + '/gateway.sock'):
    say(attempt(lambda: socket.socket(socket.AF_UNIX).connect(path)))
""",
        SHUT,
    ),
    _attack(
        "listen",
        """
import socket
say(attempt(socket.socket(socket.AF_UNIX).bind, '/tmp/here'))
""",
        REFUSED,
    ),
    _attack(
        "leave its namespaces",
        f"say(*[call(n, 0x10000000, 0, 0, 0, 0) for n in ({_N['unshare']}, {_N['setns']}, {_N['mount']}, {_N['pivot_root']}, {_N['chroot']}, {_N['clone']})])",
        REFUSED,
    ),
    _attack(
        "become root, take a capability",
        f"say(attempt(os.setuid, 0), call({_N['capset']}, 0, 0), attempt(os.setgroups, [0]), attempt(os.mknod, '/tmp/d', 0o20666, os.makedev(1, 1)))",
        REFUSED,
    ),
    _attack(
        "use Linux's sharper tools",
        f"say(*[call(n, -1, 0, 0, 0, 0) for n in ({_N['ptrace']}, {_N['bpf']}, {_N['io_uring_setup']}, {_N['perf_event_open']}, {_N['userfaultfd']}, {_N['keyctl']}, {_N['process_vm_readv']}, {_N['execve']}, {_N['memfd_create']})])",
        REFUSED,
    ),
    _attack(
        "make another process",
        f"say(attempt(os.fork), call({_N['clone']}, 17, 0, 0, 0, 0), call({_N['vfork']}) if {'vfork' in _N} else 'EPERM')",
        REFUSED,
    ),
    _attack(
        "share memory, which no limit counts",
        """
import mmap
say(attempt(mmap.mmap, -1, 1 << 20))
""",
        REFUSED,
    ),
    _attack(
        "signal a process of the host",
        "say(attempt(os.kill, bait_pid, 9) if bait_pid > 60 else 'ESRCH')",
        REFUSED | {"ESRCH"},
    ),
    _attack("signal everybody", "say(attempt(os.kill, -1, 9))", REFUSED | {"ESRCH", "done"}, ends=True),
    _attack("end itself", "os._exit(0)", words(), ends=True),
    _attack(
        "take all memory",
        """
held = []
def grow():
    while len(held) < 512: held.append(bytearray(16 << 20))
found = attempt(grow); size = len(held); held.clear()
say(found if size < 128 else f'held:{size}')
""",
        words("MemoryError", "killed"),
        ends=True,
        but={PROCESS: words("MemoryError")},  # nobody outside would end it
        is_heavy=True,
    ),
    _attack(
        "fill every place that takes files",
        """
def grow(place):
    for n in range(4096):
        with open(f'{place}/of-the-supervisor-{n}', 'wb') as file: file.write(bytes(4 << 20))
found = [attempt(grow, place) for place in ('/tmp', '/dev/shm')]
import shutil
for place in ('/tmp', '/dev/shm'):
    for name in os.listdir(place):
        if name.startswith('of-the-supervisor'): os.unlink(f'{place}/{name}')
say(*found)
""",
        words("ENOSPC", "EFBIG", "MemoryError", "ENOMEM"),
        ends=True,
    ),
    _attack(
        "start threads without end",
        """
import threading
stop = threading.Event(); started = 0
try:
    while started < 20_000: threading.Thread(target=stop.wait, daemon=True).start(); started += 1
except (RuntimeError, MemoryError): pass
stop.set(); say('bounded' if started < 10_000 else f'started:{started}')
""",
        words("bounded"),
        ends=True,
        is_heavy=True,
    ),
    _attack(
        "write to its own streams without end",
        """
os.set_blocking(1, False); os.set_blocking(2, False)
def grow():
    for _ in range(4096): os.write(1, bytes(1 << 20)); os.write(2, bytes(1 << 20))
say(attempt(grow))
""",
        words("done", "BlockingIOError", "EAGAIN"),
        ends=True,
        is_heavy=True,
    ),
    _attack(
        "tell its zygote what is no request",
        r"""
channel = supervisor._seat._zygote._channel
for line in (b'', b'[]', b'{', b'\xff' * 1000, b'{"do": "fork"}', b'{"do": "signal", "pid": 1, "signal": 9}', b'{"do": "signal", "pid": -1, "signal": 9}', b'x' * 100_000): attempt(channel.send, line + b'\n', 64)
say('sent')
""",
        words("sent"),
        ends=True,
    ),
    _attack(
        "have its zygote fork a second kernel",
        """
from sandbox_image.kernel_birth import KernelBirth
birth = KernelBirth(contexts_directory='/rlm/session/contexts', tmp_directory='/tmp', confined=False)
spare = os.open('/dev/null', 0)
say(attempt(supervisor._seat._zygote.fork_kernel, birth, [spare] * 4))
""",
        words("ZygoteLost", "EPIPE"),
        ends=True,
    ),
    _attack(
        "dial the host a thousand times",
        """
import socket, time
held = []; dialled = 0
def dial():
    global dialled
    while dialled < 1000:
        s = socket.socket(socket.AF_UNIX)
        try: s.connect('/rlm/session/sandbox.sock')
        except BlockingIOError: time.sleep(0.01); continue  # the queue is full just now
        dialled += 1; held.append(s)
        try: s.send(b'x' * 1000)
        except (BrokenPipeError, ConnectionResetError): pass  # hung up on already
        if len(held) > 100: held.pop(0).close()
say(attempt(dial), 'often' if dialled > 30 else 'seldom'); held.clear()
""",
        # Nobody listens any more, long before the thousandth.
        words("ECONNREFUSED", "often"),
        ends=True,
        is_heavy=True,
    ),
    _attack(
        "send the gateway what is no call",
        r"""
import socket
for body in (b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 100000, b'POST /host-calls HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n'):
    try:
        s = socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect('/rlm/session/gateway.sock'); s.sendall(body)
    except OSError: pass
    s.close()
say('sent')
""",
        words("sent"),
        ends=True,
    ),
    _attack(
        "answer with countless values",
        """
from sandbox_image import operations
operations.encode_json = lambda reply: b'{"variables":[' + b'0,' * 4_000_000 + b'0]}'
""",
        words(),
        ends=True,
    ),
    _attack(
        "answer with fields that nobody asked for",
        """
from sandbox_image import operations
encode = operations.encode_json
operations.encode_json = lambda reply: encode({**reply, "junk": "junk"})
""",
        words(),
        ends=True,
    ),
)
